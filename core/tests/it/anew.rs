//! A lost lease that is taken again: no channel is passed over, in any state.

use std::sync::Arc;

use strait_core::store::{Attach, AttachAs, ChannelStore, Location, StoreErrorKind};
use strait_core::testkit::{Fault, Faults, Faulty, Gate};
use strait_core::{App, ChannelState, ConnectionId, Endpoint, NodeId, State};
use strait_store_memory::MemoryStore;

use crate::client::{Client, Seen};
use crate::log::{Log, eventually, eventually_async};
use crate::node::{Node, TERM, headers};

const REFUSED: Fault = Fault::Refuse(StoreErrorKind::Unavailable);

struct Fixture {
    log: Log,
    store: Arc<MemoryStore>,
    faults: Faults,
    node: Node,
}

impl Fixture {
    async fn new() -> Self {
        let (log, store, faults) = (Log::default(), Arc::new(MemoryStore::new()), Faults::new());
        let endpoint = Endpoint::new("a", "/")
            .public()
            .on_connect(async |State(log): State<Log>| log.note("connect"))
            .on_message(async |text: String, count: ChannelState<u32>| {
                count.update(|count| *count += 1).await?;
                Ok::<_, strait_core::Error>(text)
            })
            .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
        let app = App::new().endpoint(endpoint).state(log.clone()).lease(TERM);
        let node = Node::start(app.store(Faulty::new(Arc::clone(&store), faults.clone()))).await;
        Self { log, store, faults, node }
    }

    /// Lets the lease run out in the store, too.
    async fn lose_the_lease(&self) {
        self.faults.always("lease", REFUSED);
        eventually("the lease is unsure", || !self.node.hub().is_sure()).await;
        tokio::time::sleep(TERM / 2).await;
    }

    async fn regain_the_lease(&self) {
        self.faults.heal("lease");
        eventually("the lease is sure", || self.node.hub().is_sure()).await;
    }

    async fn generation(&self, client: &Client) -> u64 {
        self.store.get(&client.id).await.unwrap().expect("there is a record").generation
    }

    async fn is_gone(&self, client: &Client) {
        eventually_async("the record is gone", async || self.store.get(&client.id).await.unwrap().is_none()).await;
    }
}

#[tokio::test]
async fn a_channel_whose_handshake_is_not_answered_yet_is_attached_anew() {
    let on = Fixture::new().await;
    let (conversation, recorder) = on.node.open("/", headers(&[])).await.expect("it is stored");
    on.lose_the_lease().await;
    on.regain_the_lease().await;
    let client = Client::drive(conversation, recorder, &tokio::runtime::Handle::current());
    assert_eq!(client.ask("hello").await, "hello", "its writes are not stale");
    assert_eq!(on.generation(&client).await, 2);
    client.close();
    client.ended().await;
    assert_eq!(on.log.all(), ["connect", "disconnect"]);
}

#[tokio::test]
async fn a_channel_that_was_taken_over_before_its_handshake_was_answered_never_begins() {
    let on = Fixture::new().await;
    let (conversation, recorder) = on.node.open("/", headers(&[])).await.expect("it is stored");
    on.lose_the_lease().await;
    let id = conversation.channel().id().clone();
    let elsewhere = Location::Node { node: NodeId::unique(), connection: ConnectionId::from(id.clone()) };
    let attach = Attach { by: AttachAs::Holder { generation: 1 }, location: elsewhere, next_token: None };
    on.store.attach(&id, attach).await.unwrap();
    on.regain_the_lease().await;
    let client = Client::drive(conversation, recorder, &tokio::runtime::Handle::current());
    assert_eq!(client.closed().await.0, 1012);
    client.ended().await;
    assert_eq!(on.log.all(), [""; 0]);
}

#[tokio::test]
async fn a_channel_that_was_stored_under_the_lost_lease_is_refused() {
    let on = Fixture::new().await;
    let gate = Gate::new();
    on.faults.next("open", 1, &Fault::HoldAnswer(gate.clone()));
    let opening = on.node.open("/", headers(&[]));
    let meanwhile = async {
        eventually("it is stored", || gate.waiting() == 1).await;
        on.lose_the_lease().await;
        on.regain_the_lease().await;
        gate.open();
    };
    let (opened, ()) = tokio::join!(opening, meanwhile);
    assert_eq!(opened.expect_err("it is refused").status, 503);
    eventually("nothing is left of it", || on.store.stats().records == 0).await;
    assert_eq!(on.node.connect("/").await.ask("hello").await, "hello");
}

#[tokio::test]
async fn a_new_lease_whose_answer_came_too_late_is_still_a_new_one() {
    let on = Fixture::new().await;
    let client = on.node.connect("/").await;
    assert_eq!(client.ask("before").await, "before");
    on.lose_the_lease().await;
    // The store grants a new term, but its answer does not reach the node.
    on.faults.heal("lease");
    on.faults.next("lease", 1, &Fault::Delay(std::time::Duration::ZERO));
    on.faults.next("lease", 1, &Fault::HoldAnswer(Gate::new()));
    on.regain_the_lease().await;
    assert_eq!(on.generation(&client).await, 2);
    assert_eq!(client.ask("after").await, "after");
}

#[tokio::test]
async fn a_panic_while_a_channel_is_attached_anew_ends_that_channel_only() {
    let on = Fixture::new().await;
    let clients = [on.node.connect("/").await, on.node.connect("/").await];
    on.faults.next("attach", 1, &Fault::Panic);
    on.lose_the_lease().await;
    for client in &clients {
        client.send("after");
    }
    on.regain_the_lease().await;
    let seen = [clients[0].next().await, clients[1].next().await];
    let answered = seen.iter().filter(|seen| **seen == Seen::Text("after".to_owned())).count();
    let closed = seen.iter().filter(|seen| matches!(seen, Seen::Close(1012, _))).count();
    assert_eq!((answered, closed), (1, 1), "{seen:?}");
    on.log.wait_for("disconnect").await;
}

#[tokio::test]
async fn a_channel_whose_new_generation_was_not_heard_of_comes_to_its_end() {
    let on = Fixture::new().await;
    let client = on.node.connect("/").await;
    on.faults.next("attach", 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    on.lose_the_lease().await;
    on.regain_the_lease().await;
    assert_eq!(client.closed().await.0, 1012);
    on.log.wait_for("disconnect").await;
    on.is_gone(&client).await;
    assert_eq!(on.log.all(), ["connect", "disconnect"]);
}

/// The store loses its record of a channel.
async fn forget(fixture: &Fixture, client: &Client) {
    let fence = fixture.store.get(&client.id).await.unwrap().expect("there is a record").fence();
    let claim = fixture.store.claim(&fence, &NodeId::unique(), TERM).await.unwrap().expect("nobody else claims");
    fixture.store.remove(&[claim]).await.unwrap();
}

#[tokio::test]
async fn a_channel_that_the_store_has_lost_ends_here_once() {
    let fixture = Fixture::new().await;
    let client = fixture.node.connect("/").await;
    assert_eq!(client.ask("x").await, "x");
    forget(&fixture, &client).await;
    client.close();
    client.ended().await;
    eventually("on_disconnect", || fixture.log.all() == ["connect", "disconnect"]).await;
}

#[tokio::test]
async fn a_store_that_lost_leases_and_channels_leaves_their_ends_to_the_node() {
    let fixture = Fixture::new().await;
    let client = fixture.node.connect("/").await;
    assert_eq!(client.ask("x").await, "x");
    forget(&fixture, &client).await;
    fixture.store.release(fixture.node.hub().node()).await.unwrap();
    assert_eq!(client.closed().await.0, 1012);
    client.ended().await;
    eventually("on_disconnect", || fixture.log.all() == ["connect", "disconnect"]).await;
    fixture.regain_the_lease().await;
}

#[tokio::test]
async fn channels_that_the_store_has_lost_are_closed_one_after_the_other() {
    let fixture = Fixture::new().await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(fixture.node.connect("/").await);
    }
    for client in &clients {
        assert_eq!(client.ask("before").await, "before");
        forget(&fixture, client).await;
    }
    fixture.store.release(fixture.node.hub().node()).await.unwrap();
    let few = || fixture.node.hub().channels() < clients.len();
    eventually("the first close", few).await;
    let first = std::time::Instant::now();
    // The node has a lease again and takes clients, but handles no message of a channel without a record.
    for client in &clients {
        client.send("after");
    }
    fixture.regain_the_lease().await;
    assert_eq!(fixture.node.connect("/").await.ask("hello").await, "hello");
    let lost = clients.len();
    for client in clients {
        assert_eq!(client.closed().await.0, 1012, "and no answer before");
        client.ended().await;
    }
    assert!(first.elapsed() > TERM / 4, "all are closed within {:?}", first.elapsed());
    eventually("on_disconnect", || fixture.log.count("disconnect") == lost).await;
}
