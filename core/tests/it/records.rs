//! Records and reality: a node and its store come to the same end after one of them has lost data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::store::{ChannelStore, NewChannel, Record, StoreErrorKind};
use strait_core::testkit::{Fault, Faults, Faulty, Gate};
use strait_core::{
    App, Channel, ChannelId, DisconnectReason, Endpoint, Event, NodeId, Payload, Publish, Session, State,
};
use strait_store_memory::MemoryStore;

use crate::client::{Client, Seen};
use crate::log::{Log, Turnstile};
use crate::node::{Node, headers, topic};

/// Longer than any test waits: neither a lease's end nor the comparison after some leases brings the awaited state.
const LONG: Duration = Duration::from_secs(60);
/// A ghost is looked at twice, a part of a lease apart. No node loses such a lease because the machine is slow.
const LEASE: Duration = Duration::from_secs(6);
/// The longest wait of a test.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    log: Log,
    store: Arc<MemoryStore>,
    faults: Faults,
    node: Node,
    /// Where `on_connect` waits.
    connecting: Turnstile,
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Fixture {
    async fn new(lease: Duration) -> Self {
        let (log, store, faults) = (Log::default(), Arc::new(MemoryStore::new()), Faults::new());
        let connecting = Turnstile::new();
        let endpoint = Endpoint::new("a", "/")
            .public()
            .on_connect(async |channel: Channel, State(log): State<Log>, State(turnstile): State<Turnstile>| {
                turnstile.pass().await;
                channel.subscribe(&topic("room")).await?;
                log.note("connect");
                Ok::<_, strait_core::Error>(())
            })
            .on_message(async |text: String, channel: Channel| {
                if text == "login" {
                    channel.login(Session::new("ada", ())?).await?;
                }
                Ok::<_, strait_core::Error>(text)
            })
            .on_disconnect(async |reason: DisconnectReason, State(log): State<Log>| log.note(format!("{reason:?}")));
        let app = App::new().endpoint(endpoint).state(log.clone()).state(connecting.clone()).lease(lease);
        let node = Node::start(app.store(Faulty::new(Arc::clone(&store), faults.clone()))).await;
        Self { log, store, faults, node, connecting }
    }

    async fn connect(&self) -> Client {
        let client = self.node.connect("/").await;
        self.connecting.let_pass(1);
        answers(&client).await;
        client
    }

    async fn record(&self, client: &Client) -> Record {
        self.store.get(&client.id).await.unwrap().expect("there is a record")
    }

    /// The store loses its record of a channel.
    async fn lose(&self, client: &Client) {
        let fence = self.record(client).await.fence();
        let claim = self.store.claim(&fence, &NodeId::unique(), LONG).await.unwrap().expect("nobody else claims");
        self.store.remove(&[claim]).await.unwrap();
    }

    /// Puts a removed record back into the store.
    async fn put_back(&self, record: Record) {
        let Record { id, endpoint, location, opening, grace, .. } = record;
        let new = NewChannel { id, endpoint, location, opening, session: None, grace, token: None, due: None };
        assert!(self.store.open(new).await.unwrap().created);
    }

    /// The bus breaks and is back: a comparison comes soon. The room needs a member.
    async fn break_bus(&self) {
        self.faults.deafen();
        let event = Event::message(Payload::text("unheard"));
        self.node.hub().publish(Publish::event(topic("room"), event)).await.unwrap();
        self.faults.hear();
    }

    /// Waits until a comparison makes the condition true.
    async fn comparing_until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
            self.break_bus().await;
            tokio::time::sleep(LEASE / 20).await;
        }
    }

    /// Waits until the node has begun some more comparisons, and has ended all but the last.
    async fn compared(&self, times: usize) {
        let before = self.faults.calls("connected");
        self.comparing_until("comparisons", async || self.faults.calls("connected") > before + times).await;
    }

    async fn ended(&self, times: usize) {
        eventually("the ends", async || self.log.all().len() >= times).await;
    }

    async fn is_gone(&self, id: &ChannelId) -> bool {
        self.store.get(id).await.unwrap().is_none()
    }
}

/// The channel handles messages. Notices of gaps may come before the answer.
async fn answers(client: &Client) {
    client.send("hello");
    while client.next().await != Seen::Text("hello".to_owned()) {}
}

/// The next close; messages before it are passed over.
async fn closed(client: &Client) -> u16 {
    loop {
        if let Seen::Close(code, _) = client.next().await {
            return code;
        }
    }
}

#[tokio::test]
async fn an_end_whose_claim_was_not_answered_is_the_nodes_own_at_once() {
    let on = Fixture::new(LONG).await;
    let client = on.connect().await;
    on.faults.next("claim", 2, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    client.close();
    client.ended().await;
    on.ended(2).await;
    assert_eq!(on.log.all(), ["connect", "Client"]);
    eventually("nothing is left", async || on.store.stats().records == 0).await;
}

#[tokio::test]
async fn a_channel_that_the_store_has_lost_is_closed_without_being_asked() {
    let on = Fixture::new(LEASE).await;
    let (lost, kept) = (on.connect().await, on.connect().await);
    on.lose(&lost).await;
    on.break_bus().await;
    assert_eq!(closed(&lost).await, 1012);
    lost.ended().await;
    on.ended(3).await;
    on.compared(2).await;
    assert_eq!(on.log.all().len(), 3, "{:?}", on.log.all());
    assert_eq!(on.node.hub().channels(), 1);
    answers(&kept).await;
}

#[tokio::test]
async fn a_node_compares_now_and_then() {
    let on = Fixture::new(Duration::from_secs(1)).await;
    let lost = on.connect().await;
    on.lose(&lost).await;
    assert_eq!(closed(&lost).await, 1012);
    lost.ended().await;
}

#[tokio::test]
async fn a_ghost_is_ended_with_its_on_disconnect() {
    let on = Fixture::new(LEASE).await;
    let (gone, kept) = (on.connect().await, on.connect().await);
    let record = on.record(&gone).await;
    gone.close();
    gone.ended().await;
    eventually("its end", async || on.is_gone(&record.id).await).await;
    on.put_back(record.clone()).await;
    on.comparing_until("the ghost's end", async || on.log.all().len() >= 4).await;
    eventually("nothing is left", async || on.is_gone(&record.id).await).await;
    on.compared(2).await;
    assert_eq!(on.log.all(), ["connect", "connect", "Client", "Expired"]);
    answers(&kept).await;
}

#[tokio::test]
async fn an_end_that_the_store_refused_comes_about_later() {
    let on = Fixture::new(LEASE).await;
    let (client, _kept) = (on.connect().await, on.connect().await);
    let id = client.id.clone();
    on.faults.always("claim", Fault::Refuse(StoreErrorKind::Misconfigured));
    client.close();
    on.compared(1).await;
    assert_eq!(on.log.all(), ["connect", "connect"]);
    on.faults.heal("claim");
    on.comparing_until("the end", async || on.is_gone(&id).await).await;
    on.compared(2).await;
    assert_eq!(on.log.all().len(), 3, "{:?}", on.log.all());
}

#[tokio::test]
async fn channels_that_open_and_end_for_long_are_no_ghosts() {
    let on = Fixture::new(LEASE).await;
    let (ending, _kept) = (on.connect().await, on.connect().await);
    let (opens, claims) = (Gate::new(), Gate::new());
    on.faults.next("claim", 1, &Fault::Hang(claims.clone()));
    ending.close();
    on.faults.next("open", 1, &Fault::HoldAnswer(opens.clone()));
    let opening = on.node.open("/", headers(&[]));
    let meanwhile = async {
        eventually("both wait", async || opens.waiting() == 1 && claims.waiting() == 1).await;
        on.compared(3).await;
        assert_eq!((on.store.stats().records, on.log.all().len()), (3, 2), "nothing has come to an end");
        opens.open();
        claims.open();
    };
    let (opened, ()) = tokio::join!(opening, meanwhile);
    let (conversation, recorder) = opened.expect("the client is let in");
    let client = Client::drive(conversation, recorder, &tokio::runtime::Handle::current());
    on.connecting.let_pass(1);
    answers(&client).await;
    eventually("the end", async || on.log.count("Client") == 1).await;
}

#[tokio::test]
async fn a_write_that_finds_no_record_closes_its_channel() {
    let on = Fixture::new(LONG).await;
    let client = on.connect().await;
    on.lose(&client).await;
    client.send("login");
    assert_eq!(closed(&client).await, 1012);
    client.ended().await;
    on.ended(2).await;
    assert_eq!(on.log.all().len(), 2, "{:?}", on.log.all());
}

#[tokio::test]
async fn an_on_connect_that_finds_no_record_lets_the_client_come_again() {
    let on = Fixture::new(LONG).await;
    let client = on.node.connect("/").await;
    on.lose(&client).await;
    on.connecting.let_pass(1);
    assert_eq!(closed(&client).await, 1012);
    client.ended().await;
}
