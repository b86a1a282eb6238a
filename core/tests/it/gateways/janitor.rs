use std::time::Duration;

use strait_core::store::{ChannelStore, Store};
use strait_core::testkit::{Fault, Gate};
use strait_core::{App, AppBuilder, Channel, Endpoint, Error, Ordering, Payload, State};
use strait_store_memory::MemoryStore;

use super::fake::{FakeGateway, Function, at};
use crate::log::{Log, eventually};
use crate::node::faulty;

fn app<S: Store + Clone>(store: &S, log: &Log) -> AppBuilder {
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .ordering(Ordering::Sequenced("seq".to_owned()))
        .on_message(async |text: String| text)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    App::new().endpoint(endpoint).state(log.clone()).lease(Duration::from_millis(100)).store(store.clone())
}

#[tokio::test]
async fn a_connection_that_ended_without_a_word_is_probed_and_ended() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let function = Function::new(app(&store, &log), &FakeGateway::new());
    function.connect("lost", "/?path=/a").await;
    function.connect("well", "/?path=/a").await;
    function.gateway.lose("lost");
    function.sweep().await;
    assert_eq!(log.all(), ["disconnect"]);
    assert!(store.find(&at("lost").location()).await.expect("answers").is_none());
    assert!(store.find(&at("well").location()).await.expect("answers").is_some());
}

#[tokio::test]
async fn a_young_connection_is_not_probed() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let gateway = FakeGateway::new().with(|caps| caps.quiet = Duration::from_secs(600));
    let function = Function::new(app(&store, &log), &gateway);
    function.connect("young", "/?path=/a").await;
    function.gateway.lose("young");
    function.sweep().await;
    assert!(log.all().is_empty());
}

#[tokio::test]
async fn what_cannot_last_so_long_is_ended_without_asking() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let gateway = FakeGateway::new().with(|caps| {
        caps.lifetime = Some(Duration::from_millis(5));
        caps.quiet = Duration::from_secs(600);
    });
    let function = Function::new(app(&store, &log), &gateway);
    function.connect("old", "/?path=/a").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    function.sweep().await;
    assert_eq!(log.all(), ["disconnect"]);
}

/// The store has a record of the channel, and nothing else.
#[tokio::test]
async fn a_channel_whose_process_died_before_it_was_listed_is_found_in_its_time() {
    let ((store, faults), log, gate) = (faulty(), Log::default(), Gate::new());
    let gateway = FakeGateway::new().with(|caps| caps.lifetime = Some(Duration::from_millis(10)));
    let function = Function::new(app(&store, &log), &gateway);
    faults.always("subscribe", Fault::Hang(gate.clone()));
    let dying = tokio::spawn({
        let function = function.clone();
        async move { function.handshake("c1", "/?path=/a").await }
    });
    eventually("the listing", || gate.waiting() == 1).await;
    dying.abort();
    faults.heal("subscribe");
    let found = async || store.find(&at("c1").location()).await.expect("answers");
    assert!(found().await.is_some(), "its process had no time to undo it");
    for _ in 0..100 {
        function.sweep().await;
        if found().await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it was not found");
}

#[tokio::test]
async fn it_ends_what_somebody_died_ending() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let function = Function::new(app(&store, &log), &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let record = store.find(&at("c1").location()).await.expect("answers").expect("it is there");
    let dead = strait_core::NodeId::unique();
    store.claim(&record.fence(), &dead, Duration::from_millis(1)).await.expect("answers").expect("a claim");
    ends(&function, &log).await;
}

/// The first run of each `on_disconnect` finds the database away.
fn app_that_needs_two_runs<S: Store + Clone>(store: &S, log: &Log) -> AppBuilder {
    let leave = async |State(log): State<Log>| {
        log.note("run");
        if log.count("run") % 2 == 1 { Err(Error::unavailable("the database is away")) } else { Ok(()) }
    };
    let endpoint = Endpoint::new("a", "/a").public().on_disconnect(leave);
    App::new().endpoint(endpoint).state(log.clone()).store(store.clone())
}

#[tokio::test]
async fn on_disconnect_runs_again_in_the_same_invocation_while_something_is_away() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let function = Function::new(app_that_needs_two_runs(&store, &log), &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    function.disconnect("c1").await;
    assert_eq!(log.all(), ["run", "run"]);
    assert!(store.find(&at("c1").location()).await.expect("answers").is_none());
}

#[tokio::test]
async fn it_runs_on_disconnect_again_while_something_is_away() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let app = app_that_needs_two_runs(&store, &log).lease(Duration::from_secs(1));
    let function = Function::new(app, &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let record = store.find(&at("c1").location()).await.expect("answers").expect("it is there");
    let dead = strait_core::NodeId::unique();
    store.claim(&record.fence(), &dead, Duration::from_millis(1)).await.expect("answers").expect("a claim");
    // On a busy machine a sweep may come too late to claim anything.
    for _ in 0..20 {
        function.sweep().await;
        if store.find(&at("c1").location()).await.expect("answers").is_none() {
            break;
        }
    }
    assert!(store.find(&at("c1").location()).await.expect("answers").is_none());
    assert!(log.count("run") >= 2);
}

/// On a busy machine a sweep may come too late to claim anything.
async fn ends(function: &Function, log: &Log) {
    for _ in 0..20 {
        function.sweep().await;
        if !log.all().is_empty() {
            break;
        }
    }
    assert_eq!(log.all(), ["disconnect"]);
}

/// A look at the connections that takes longer than a lease.
#[tokio::test]
async fn it_ends_what_is_abandoned_however_many_connections_there_are() {
    let ((store, faults), log, gate, gateway) = (faulty(), Log::default(), Gate::new(), FakeGateway::new());
    let function = || Function::new(app(&store, &log), &gateway);
    for connection in ["c1", "c2"] {
        function().connect(connection, "/?path=/a").await;
    }
    let record = store.find(&at("c1").location()).await.expect("answers").expect("it is there");
    let dead = strait_core::NodeId::unique();
    store.claim(&record.fence(), &dead, Duration::from_millis(1)).await.expect("answers").expect("a claim");
    faults.always("topics", Fault::Hang(gate.clone()));
    // On a busy machine a sweep may come too late to claim anything.
    for _ in 0..20 {
        let function = function();
        tokio::spawn(async move { function.sweep().await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        if !log.all().is_empty() {
            break;
        }
    }
    assert!(gate.waiting() > 0, "it still looks");
    assert_eq!(log.all(), ["disconnect"]);
    gate.open();
}

#[tokio::test]
async fn a_claim_that_waited_for_the_store_claims_nobody() {
    let ((store, faults), log, gate) = (faulty(), Log::default(), Gate::new());
    let function = Function::new(app(&store, &log), &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let record = store.find(&at("c1").location()).await.expect("answers").expect("it is there");
    let other = strait_core::NodeId::unique();
    store.claim(&record.fence(), &other, Duration::from_millis(1)).await.expect("answers").expect("a claim");
    faults.next("claim_due", 1, &Fault::Hang(gate.clone()));
    let sweeping = tokio::spawn({
        let function = function.clone();
        async move { function.sweep().await }
    });
    eventually("the claim", || gate.waiting() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.open();
    sweeping.await.expect("it ends");
    assert!(log.all().is_empty());
    ends(&function, &log).await;
}

#[tokio::test]
async fn it_posts_what_on_connect_sent_where_nobody_else_did() {
    async fn welcome(channel: Channel) -> Result<(), Error> {
        channel.send(&Payload::text("welcome")).await
    }
    let endpoint = Endpoint::new("a", "/a").public().on_connect(welcome);
    let app = App::new().endpoint(endpoint).lease(Duration::from_millis(100)).store(MemoryStore::new());
    let function = Function::new(app, &FakeGateway::new());
    function.handshake("c1", "/?path=/a").await.expect("let in");
    function.gateway.establish("c1");
    function.sweep().await;
    assert_eq!(function.gateway.seen("c1"), ["welcome"]);
}
