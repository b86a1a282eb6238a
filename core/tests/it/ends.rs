//! Many ends at once, ends that the store refuses, and second runs of `on_disconnect`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use strait_core::store::{ChannelStore, StoreErrorKind};
use strait_core::testkit::{Fault, Faults, Faulty, Gate};
use strait_core::{App, AppBuilder, Channel, DisconnectReason, Endpoint, Error, State};
use strait_store_memory::MemoryStore;

use crate::client::Client;
use crate::log::{Log, Turnstile, eventually, eventually_async};
use crate::node::{Node, faulty, topic};

/// Far more than the hub's store calls at once, and far less than `CLIENTS`.
const FEW: usize = 64;
const CLIENTS: usize = 1000;
/// Longer than a test: no lease runs out meanwhile.
const LONG: Duration = Duration::from_secs(60);

fn endpoint() -> Endpoint {
    Endpoint::new("room", "/rooms/{room}").public().on_message(async |text: String| text)
}

fn app(endpoint: Endpoint, log: &Log) -> AppBuilder {
    App::new().endpoint(endpoint).state(log.clone()).lease(LONG)
}

async fn note(reason: DisconnectReason, State(log): State<Log>) {
    log.note(format!("{reason:?}"));
}

async fn connect_many(node: &Node, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(node.connect("/rooms/a").await);
    }
    clients
}

#[tokio::test]
async fn many_ends_leave_the_store_to_the_living() {
    let log = Log::default();
    let (store, faults) = faulty();
    let node = Node::start(app(endpoint().on_disconnect(note), &log).store(store.clone())).await;
    let staying = node.connect("/rooms/a").await;
    let clients = connect_many(&node, CLIENTS).await;
    let gate = Gate::new();
    faults.always("claim", Fault::Hang(gate.clone()));
    clients.iter().for_each(Client::lose);
    eventually("channels end", || gate.waiting() > 0).await;
    for _ in 0..100 {
        let coming = node.connect("/rooms/a").await;
        assert_eq!(coming.ask("hello").await, "hello");
        assert_eq!(staying.ask("hello").await, "hello");
    }
    assert!(gate.waiting() <= FEW, "{} claims at once", gate.waiting());
    assert_eq!(node.hub().channels(), 101, "the others are off the node");
    faults.heal("claim");
    gate.open();
    for client in clients {
        client.ended().await;
    }
    assert_eq!(log.count("Lost"), CLIENTS);
}

#[tokio::test]
async fn few_on_disconnects_run_at_once() {
    #[derive(Clone, Default)]
    struct Running(Arc<AtomicUsize>, Arc<AtomicUsize>);
    async fn leave(State(running): State<Running>) {
        let now = running.0.fetch_add(1, Ordering::SeqCst) + 1;
        running.1.fetch_max(now, Ordering::SeqCst);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        running.0.fetch_sub(1, Ordering::SeqCst);
    }
    let (running, store) = (Running::default(), MemoryStore::new());
    let app = App::new().endpoint(endpoint().on_disconnect(leave)).state(running.clone()).store(store.clone());
    let node = Node::start(app.lease(LONG)).await;
    let clients = connect_many(&node, CLIENTS).await;
    clients.iter().for_each(Client::lose);
    for client in clients {
        client.ended().await;
    }
    assert!(running.1.load(Ordering::SeqCst) <= FEW, "{} at once", running.1.load(Ordering::SeqCst));
    assert_eq!(store.stats().records, 0);
}

#[tokio::test]
async fn long_on_disconnects_do_not_hold_the_others_up() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let long = Endpoint::new("long", "/long").on_disconnect(
        async |State(log): State<Log>, State(turnstile): State<Turnstile>| {
            log.note("long");
            turnstile.pass().await;
        },
    );
    let app = app(endpoint().on_disconnect(note), &log).endpoint(long).state(turnstile.clone());
    let node = Node::start(app.store(MemoryStore::new())).await;
    let mut clients = Vec::new();
    for _ in 0..FEW {
        clients.push(node.connect("/long").await);
    }
    let last = node.connect("/rooms/a").await;
    clients.iter().for_each(Client::lose);
    eventually("a handler runs", || log.count("long") > 0).await;
    last.lose();
    log.wait_for("Lost").await;
    turnstile.let_pass(FEW);
    for client in clients {
        client.ended().await;
    }
}

#[tokio::test]
async fn an_end_that_the_store_refuses_comes_about_once_it_is_taken() {
    for (op, kind) in [
        ("claim", StoreErrorKind::Misconfigured),
        ("claim", StoreErrorKind::Corrupt),
        ("claim", StoreErrorKind::Unavailable),
        ("remove", StoreErrorKind::Misconfigured),
    ] {
        let log = Log::default();
        let (store, faults) = faulty();
        let present = endpoint().on_connect(async |channel: Channel, State(log): State<Log>| {
            channel.subscribe_present::<()>(&topic("room"), None).await?;
            log.note("connect");
            Ok::<_, Error>(())
        });
        let node = Node::start(app(present.on_disconnect(note), &log).store(store.clone())).await;
        let client = node.connect("/rooms/a").await;
        log.wait_for("connect").await;
        let id = client.id.clone();
        faults.always(op, Fault::Refuse(kind));
        client.lose();
        eventually("it is tried again and again", || faults.calls(op) > 2).await;
        assert!(store.get(&id).await.unwrap().is_some(), "{op} {kind:?}");
        faults.heal(op);
        eventually_async("the record is gone", async || store.get(&id).await.unwrap().is_none()).await;
        let present = node.hub().presence(&topic("room"), None, 10).await.unwrap().items;
        assert!(present.is_empty(), "{op} {kind:?}");
        eventually("it has ended", || log.count("Lost") == 1).await;
        assert_eq!(log.all(), ["connect", "Lost"], "{op} {kind:?}");
    }
}

#[tokio::test]
async fn an_end_that_is_refused_is_tried_ever_more_slowly() {
    let log = Log::default();
    let (store, faults) = faulty();
    let node = Node::start(app(endpoint().on_disconnect(note), &log).store(store)).await;
    let client = node.connect("/rooms/a").await;
    faults.always("claim", Fault::Refuse(StoreErrorKind::Misconfigured));
    let began = Instant::now();
    client.lose();
    eventually("it was tried", || faults.calls("claim") >= 7).await;
    // The pauses are 100 ms, 200 ms … 3.2 s, or half of that.
    assert!(began.elapsed() >= Duration::from_secs(2), "seven tries within {:?}", began.elapsed());
    faults.heal("claim");
    log.wait_for("Lost").await;
}

/// One channel that the store refuses for ever keeps no other channel from ending.
#[tokio::test]
async fn what_is_refused_for_ever_holds_nothing_up() {
    let log = Log::default();
    let (store, faults) = faulty();
    let node = Node::start(app(endpoint().on_disconnect(note), &log).store(store.clone())).await;
    let clients = connect_many(&node, FEW).await;
    faults.next("claim", FEW, &Fault::Refuse(StoreErrorKind::Corrupt));
    clients.iter().for_each(Client::lose);
    eventually("all are refused", || faults.calls("claim") >= FEW).await;
    eventually("all end", || log.count("Lost") == FEW).await;
    eventually_async("nothing is left", async || {
        let mut left = 0;
        for client in &clients {
            left += usize::from(store.get(&client.id).await.unwrap().is_some());
        }
        left == 0
    })
    .await;
}

#[tokio::test]
async fn a_handshake_without_an_answer_is_undone_although_the_store_refuses_first() {
    for op in ["claim", "remove"] {
        let log = Log::default();
        let (store, faults) = (Arc::new(MemoryStore::new()), Faults::new());
        let faulty = Faulty::new(Arc::clone(&store), faults.clone());
        let node = Node::start(app(endpoint().on_disconnect(note), &log).store(faulty)).await;
        faults.next("open", 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
        faults.next(op, 2, &Fault::Refuse(StoreErrorKind::Misconfigured));
        assert_eq!(node.refused("/rooms/a", &[]).await.status, 503);
        eventually("it is tried again", || faults.calls(op) == 3).await;
        eventually("it is removed", || store.stats().records == 0).await;
        assert!(log.all().is_empty());
    }
}

#[tokio::test]
async fn on_disconnect_runs_again_while_something_is_away() {
    let log = Log::default();
    let leave = async |State(log): State<Log>, reason: DisconnectReason| {
        log.note(format!("{reason:?}"));
        if log.all().len() < 3 { Err(Error::unavailable("the database is away")) } else { Ok(()) }
    };
    let store = MemoryStore::new();
    let node = Node::start(app(endpoint().on_disconnect(leave), &log).store(store.clone())).await;
    let client = node.connect("/rooms/a").await;
    client.close();
    eventually("it succeeds", || log.count("Client") == 3).await;
    client.ended().await;
    assert_eq!(log.all(), ["Client"; 3]);
    assert_eq!(store.stats().records, 0);
}

#[tokio::test]
async fn on_disconnect_that_waits_for_its_next_run_holds_nothing_up() {
    let log = Log::default();
    let leave = async |channel: Channel, State(log): State<Log>| {
        let first = log.count(channel.id().as_str()) == 0;
        log.note(channel.id().as_str());
        if first { Err(Error::unavailable("the database is away")) } else { Ok(()) }
    };
    let store = MemoryStore::new();
    let node = Node::start(app(endpoint().on_disconnect(leave), &log).store(store.clone())).await;
    let clients = connect_many(&node, FEW).await;
    clients.iter().for_each(Client::lose);
    for client in clients {
        let id = client.id.clone();
        client.ended().await;
        assert_eq!(log.count(id.as_str()), 2);
    }
    assert_eq!(store.stats().records, 0);
}

/// The janitor claims no more than it has room for; a channel that waits for long needs no room.
#[tokio::test]
async fn a_dead_nodes_channels_that_wait_for_their_next_run_hold_nothing_up() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    async fn leave(State(log): State<Log>) -> Result<(), Error> {
        log.note("away");
        Err(Error::unavailable("the database is away"))
    }
    let app = || {
        let away = Endpoint::new("away", "/away").on_disconnect(leave);
        app(endpoint().on_disconnect(note), &log).endpoint(away).lease(Duration::from_secs(1))
    };
    let doomed = Node::start_doomed(app().shared_store(store.clone())).await;
    for _ in 0..300 {
        doomed.connect("/away").await;
    }
    doomed.connect("/rooms/a").await;
    let _survivor = Node::start(app().shared_store(store.clone())).await;
    doomed.kill();
    log.wait_for("Expired").await;
    eventually("all others have run", || log.count("away") >= 300).await;
}

#[tokio::test]
async fn an_outage_makes_few_lines() {
    for (op, fault) in [
        ("claim", Fault::Refuse(StoreErrorKind::Unavailable)),
        ("claim", Fault::Refuse(StoreErrorKind::Misconfigured)),
        ("remove", Fault::Refuse(StoreErrorKind::Unavailable)),
        ("interest", Fault::Refuse(StoreErrorKind::Unavailable)),
    ] {
        let log = Log::default();
        let (store, faults) = faulty();
        let subscribe = async |channel: Channel, State(log): State<Log>| {
            channel.subscribe(&topic(channel.id().as_str())).await?;
            log.note("connect");
            Ok::<_, Error>(())
        };
        let leave = async || Err::<(), _>(Error::forbidden("no"));
        let node = Node::start(app(endpoint().on_connect(subscribe).on_disconnect(leave), &log).store(store)).await;
        let clients = connect_many(&node, CLIENTS / 2).await;
        eventually("all are there", || log.count("connect") == CLIENTS / 2).await;
        faults.always(op, fault.clone());
        let (lines, began) = (crate::lines::Lines::default(), Instant::now());
        let counting = lines.count();
        clients.iter().for_each(Client::lose);
        eventually("all have left", || node.hub().channels() == 0).await;
        eventually("the store is asked", || faults.calls(op) > 3).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(counting);
        // Four kinds of lines: one a second each, after the first of each.
        let allowed = 4 * (began.elapsed().as_secs() as usize + 2);
        assert!(lines.seen() <= allowed, "{op} {fault:?}: {} lines, {allowed} allowed", lines.seen());
        faults.heal(op);
    }
}
