//! Publishing: every member gets the event, in order, or the publisher gets an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::store::{EventHubStore, MAX_KEY, MAX_PAYLOAD, Publication, StoreErrorKind};
use strait_core::testkit::{Fault, Faults, Gate};
use strait_core::{
    App, AppBuilder, Channel, Endpoint, Error, Event, Payload, Position, Publish, Retention, State, Topic,
};
use strait_store_memory::MemoryStore;

use crate::client::{Client, Seen};
use crate::log::{Log, Turnstile, eventually};
use crate::node::{Node, cluster, faulty, topic};

/// Rooms: every client subscribes to its own; its messages are published there.
fn rooms() -> Endpoint {
    Endpoint::new("room", "/rooms/{room}")
        .public()
        .limits(strait_core::Limits { rate: None, ..strait_core::Limits::default() })
        .on_connect(async |channel: Channel| channel.subscribe(&room(&channel)).await)
        .on("ready", async || ())
        .on("others", async |text: String, channel: Channel| {
            channel.publish_to_others(&room(&channel), Payload::text(text)).await.map(|_| ())
        })
        .on_message(async |text: String, channel: Channel| {
            channel.publish(&room(&channel), Payload::text(&*text)).await?;
            Ok::<_, Error>("done")
        })
}

fn room(channel: &Channel) -> Topic {
    topic(&channel.param("room").expect("the path has one"))
}

fn app() -> AppBuilder {
    App::new().endpoint(rooms())
}

/// Clients that are members when this returns.
async fn members<const N: usize>(node: &Node, path: &str) -> [Client; N] {
    let mut clients = Vec::new();
    for _ in 0..N {
        let client = node.connect(path).await;
        // The answer comes only after `on_connect`.
        client.ask(r#"{"action":"ready"}"#).await;
        clients.push(client);
    }
    clients.try_into().unwrap_or_else(|_| unreachable!("as many as were made"))
}

async fn texts(client: &Client, count: usize) -> Vec<String> {
    let mut texts = Vec::with_capacity(count);
    while texts.len() < count {
        match client.next().await {
            Seen::Text(text) => texts.push(text),
            other => panic!("expected text, got {other:?}"),
        }
    }
    texts
}

async fn faulty_node() -> (Node, Faults) {
    let (store, faults) = faulty();
    (Node::start(app().store(store)).await, faults)
}

/// Lesson 9 and invariant 7.
#[tokio::test]
async fn a_publication_reaches_every_subscriber_on_every_node_and_the_publisher_behind_its_reply() {
    let nodes: [Node; 3] = cluster(app).await;
    let [publisher, neighbour] = members(&nodes[0], "/rooms/a").await;
    let [[one], [two]] = [members(&nodes[1], "/rooms/a").await, members(&nodes[2], "/rooms/a").await];
    let [elsewhere] = members(&nodes[1], "/rooms/b").await;
    publisher.send("hello");
    publisher.expect("done").await;
    for client in [&publisher, &neighbour, &one, &two] {
        client.expect("hello").await;
    }
    elsewhere.send("from b");
    assert_eq!(texts(&elsewhere, 2).await, ["done", "from b"], "nothing of the other room");
}

#[tokio::test]
async fn who_is_excluded_gets_nothing_and_everybody_else_does() {
    let [one, two] = cluster(app).await;
    let [publisher, neighbour] = members(&one, "/rooms/a").await;
    let [far] = members(&two, "/rooms/a").await;
    publisher.send(r#"{"action":"others","n":1}"#);
    publisher.expect(r#"{"action":"others"}"#).await;
    for client in [&neighbour, &far] {
        client.expect(r#"{"n":1}"#).await;
    }
    far.send("next");
    publisher.expect("next").await;
}

#[tokio::test]
async fn own_events_wait_for_the_reply_and_those_of_others_stay_behind_them() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint =
        rooms().on("slow", async |channel: Channel, State(turnstile): State<Turnstile>, State(log): State<Log>| {
            channel.publish(&room(&channel), Payload::text("own")).await?;
            log.note("published");
            turnstile.pass().await;
            Ok::<_, Error>(())
        });
    let app = App::new().endpoint(endpoint).state(log.clone()).state(turnstile.clone()).store(MemoryStore::new());
    let node = Node::start(app).await;
    let [slow, other] = members(&node, "/rooms/a").await;
    slow.send(r#"{"action":"slow"}"#);
    log.wait_for("published").await;
    other.expect("own").await;
    other.send("other");
    assert_eq!(texts(&other, 2).await, ["done", "other"]);
    turnstile.let_pass(1);
    assert_eq!(texts(&slow, 3).await, [r#"{"action":"slow"}"#, "own", "other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_see_a_topics_events_in_one_order_and_each_publishers_in_its_own() {
    const EACH: usize = 200;
    let nodes: [Node; 3] = cluster(app).await;
    let mut watchers = Vec::new();
    for node in &nodes {
        let [watcher] = members(node, "/rooms/a").await;
        watchers.push(watcher);
    }
    let publishers: Vec<_> = (0..6)
        .map(|publisher| {
            let hub = nodes[publisher % 3].hub().clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let text = Payload::text(format!("{publisher} {n}"));
                    hub.publish(Publish::new(topic("a"), text)).await.unwrap();
                }
            })
        })
        .collect();
    let mut orders = Vec::new();
    for watcher in &watchers {
        orders.push(texts(watcher, 6 * EACH).await);
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "one order");
    for publisher in 0..6 {
        let own = orders[0].iter().filter(|text| text.starts_with(&format!("{publisher} ")));
        assert!(own.eq(&(0..EACH).map(|n| format!("{publisher} {n}")).collect::<Vec<_>>()), "of {publisher}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_at_once_on_one_node_are_all_served() {
    let [node] = cluster(app).await;
    let [watcher] = members(&node, "/rooms/a").await;
    let publishers: Vec<_> = (0..8)
        .map(|_| {
            let hub = node.hub().clone();
            tokio::spawn(async move {
                for _ in 0..1000 {
                    hub.publish(Publish::new(topic("a"), Payload::text("x"))).await.unwrap();
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert_eq!(texts(&watcher, 8_000).await.len(), 8_000);
}

#[tokio::test]
async fn what_queues_behind_a_publication_goes_in_one_slice_and_in_order() {
    let (node, faults) = faulty_node().await;
    let [watcher] = members(&node, "/rooms/a").await;
    let before = faults.calls("publish");
    let gate = Gate::new();
    faults.next("publish", 1, &Fault::Hang(gate.clone()));
    let publishing: Vec<_> = (0..100)
        .map(|n| {
            let hub = node.hub().clone();
            tokio::spawn(async move { hub.publish(Publish::new(topic("a"), Payload::text(n.to_string()))).await })
        })
        .collect();
    eventually("the first is with the store", || gate.waiting() == 1).await;
    tokio::task::yield_now().await;
    gate.open();
    assert_eq!(texts(&watcher, 100).await, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    for task in publishing {
        task.await.unwrap().unwrap();
    }
    assert!(faults.calls("publish") - before <= 3, "{} calls", faults.calls("publish") - before);
}

#[tokio::test]
async fn with_the_store_away_a_publication_fails_quickly_and_reaches_nobody() {
    let (node, faults) = faulty_node().await;
    let [one, two] = members(&node, "/rooms/a").await;
    faults.always("publish", Fault::Refuse(StoreErrorKind::Unavailable));
    let started = Instant::now();
    let answer = one.ask("lost").await;
    assert!(answer.starts_with(r#"{"error":{"code":"unavailable","message":""#), "{answer}");
    assert!(!answer.contains("faulty"), "no source: {answer}");
    assert!(started.elapsed() < Duration::from_millis(500));
    faults.heal("publish");
    one.send("arrives");
    assert_eq!(texts(&one, 2).await, ["done", "arrives"]);
    two.expect("arrives").await;
}

#[tokio::test]
async fn a_publisher_that_is_dropped_leaves_the_lane_usable_and_its_publication_goes_out() {
    let (node, faults) = faulty_node().await;
    let [watcher] = members(&node, "/rooms/a").await;
    let gate = Gate::new();
    faults.next("publish", 1, &Fault::Hang(gate.clone()));
    let publish = |text: &str| {
        let publish = Publish::new(topic("a"), Payload::text(text));
        let hub = node.hub().clone();
        async move { hub.publish(publish).await }
    };
    let (first, queued) = (tokio::spawn(publish("first")), tokio::spawn(publish("queued")));
    eventually("the first is with the store", || gate.waiting() == 1).await;
    tokio::task::yield_now().await;
    first.abort();
    queued.abort();
    gate.open();
    publish("third").await.unwrap();
    assert_eq!(texts(&watcher, 3).await, ["first", "queued", "third"]);
}

#[tokio::test]
async fn a_store_that_panics_leaves_the_lane_usable() {
    let (node, faults) = faulty_node().await;
    let [one, two] = members(&node, "/rooms/a").await;
    faults.next("publish", 1, &Fault::Panic);
    assert!(one.ask("panics").await.starts_with(r#"{"error":{"code":"internal""#));
    // Publications that wait behind a slice go on when it panics.
    let gate = Gate::new();
    faults.next("publish", 1, &Fault::Hang(gate.clone()));
    faults.next("publish", 1, &Fault::Panic);
    one.send("first");
    eventually("the first is with the store", || gate.waiting() == 1).await;
    two.send("queued");
    tokio::task::yield_now().await;
    gate.open();
    let answer = texts(&two, 2).await;
    assert!(answer.iter().any(|text| text.contains(r#""code":"internal""#)), "{answer:?}");
    assert_eq!(texts(&one, 2).await, ["done", "first"]);
    two.send("well again");
    one.expect("well again").await;
}

#[tokio::test]
async fn a_publisher_is_no_quicker_than_its_nodes_deliveries() {
    let (node, _) = faulty_node().await;
    let [watcher] = members(&node, "/rooms/a").await;
    for n in 0..20_000 {
        node.hub().publish(Publish::new(topic("a"), Payload::text(n.to_string()))).await.unwrap();
    }
    let expected: Vec<_> = (0..20_000).map(|n| n.to_string()).collect();
    assert!(texts(&watcher, 20_000).await == expected, "nothing is lost or out of order");
}

/// Invariant 6: a client that missed an event gets notice of the gap.
#[tokio::test]
async fn more_events_than_may_wait_are_one_gap() {
    let (store, _) = faulty();
    let node = Node::start(app().store(store.clone())).await;
    let [watcher] = members(&node, "/rooms/a").await;
    let publication = |n: usize| Publication {
        topic: topic("a"),
        event: Arc::new(Event::message(Payload::text(n.to_string()))),
        retention: None,
        key: None,
    };
    // As from another node: nothing slows the publisher down, and this node's deliveries get no turn.
    let publications: Vec<_> = (0..20_000).map(publication).collect();
    store.publish(&publications).await;
    let mut count = 0;
    loop {
        match &*texts(&watcher, 1).await[0] {
            r#"{"gap":{"topic":"a"}}"# => break,
            text => assert_eq!(text, count.to_string()),
        }
        count += 1;
    }
    assert!((1_000..20_000).contains(&count), "{count}");
    node.hub().publish(Publish::new(topic("a"), Payload::text("next"))).await.unwrap();
    watcher.expect("next").await;
}

#[tokio::test]
async fn a_publication_with_a_key_goes_out_once() {
    let (node, faults) = faulty_node().await;
    let [watcher] = members(&node, "/rooms/a").await;
    let publish = || node.hub().publish(Publish::new(topic("a"), Payload::text("once")).key("k"));
    faults.next("publish", 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    assert_eq!(publish().await.expect_err("the answer was lost").code(), "unavailable");
    assert!(publish().await.unwrap().duplicate);
    node.hub().publish(Publish::new(topic("a"), Payload::text("next"))).await.unwrap();
    assert_eq!(texts(&watcher, 2).await, ["once", "next"]);
}

#[tokio::test]
async fn keys_and_payloads_are_bounded() {
    let (node, faults) = faulty_node().await;
    let publish = |text: usize, key: Option<usize>| {
        let publish = Publish::new(topic("a"), Payload::text("x".repeat(text)));
        let publish = key.map_or_else(|| publish.clone(), |length| publish.clone().key("k".repeat(length)));
        let hub = node.hub().clone();
        async move { hub.publish(publish).await.map_err(|error| error.code().to_owned()) }
    };
    let before = faults.calls("publish");
    for (text, key) in [(1, Some(MAX_KEY + 1)), (1, Some(0)), (MAX_PAYLOAD + 1, None)] {
        assert_eq!(publish(text, key).await.unwrap_err(), "invalid");
    }
    assert_eq!(faults.calls("publish"), before, "the store is not asked");
    for (text, key) in [(1, Some(MAX_KEY)), (MAX_PAYLOAD, None)] {
        publish(text, key).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_kept_of_a_topic_is_decided_by_the_longest_prefix() {
    let keep = |count| Retention { count, age: Duration::from_secs(60) };
    let build = app().retain("a", keep(5)).retain("a:long", keep(2)).store(MemoryStore::new());
    let node = Node::start(build).await;
    for (name, kept) in [("a:1", 5), ("a:long:1", 2), ("b", 0)] {
        for n in 0..9 {
            node.hub().publish(Publish::new(topic(name), Payload::text(n.to_string()))).await.unwrap();
        }
        let history: Vec<(Position, Arc<Event>)> = node.hub().history(&topic(name), 100).await.unwrap();
        let texts: Vec<_> = history.iter().map(|(_, event)| event.payload.bytes().clone()).collect();
        assert_eq!(texts, (9 - kept..9).map(|n| n.to_string()).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn direct_sends_and_closes_reach_a_channel_on_any_node() {
    let [one, two] = cluster(app).await;
    let [client] = members(&two, "/rooms/a").await;
    assert!(one.hub().send(&client.id, Payload::text("far")).await.unwrap());
    assert!(two.hub().send(&client.id, Payload::text("near")).await.unwrap());
    assert_eq!(texts(&client, 2).await, ["far", "near"]);
    assert!(one.hub().close_channel(&client.id, strait_core::Close::policy("out")).await.unwrap());
    assert_eq!(client.closed().await, (1008, "out".to_owned()));
    let id = client.id.clone();
    client.ended().await;
    for node in [&one, &two] {
        assert!(!node.hub().send(&id, Payload::text("nobody")).await.unwrap());
        assert!(!node.hub().close_channel(&id, strait_core::Close::policy("again")).await.unwrap());
    }
}

#[tokio::test]
async fn a_node_that_is_not_running_says_so() {
    let app = app().store(MemoryStore::new()).build().unwrap();
    assert!(!app.hub().health().hears);
    assert!(!app.hub().is_sure());
    let node = Node::start_app(app).await;
    assert!(node.hub().health().hears);
    node.app.stop().await;
    assert!(!node.hub().health().hears);
}

/// The lane takes one event at a time: publishers on the node wait for it, and nothing is dropped.
#[tokio::test]
async fn publishers_are_no_quicker_than_a_lane_of_few_bytes() {
    let node = Node::start(app().delivery_bytes(1024).store(MemoryStore::new())).await;
    let [listener] = members(&node, "/rooms/a").await;
    let event = |number: usize| format!("{number}{}", "x".repeat(1000));
    for number in 0..50 {
        node.hub().publish(Publish::new(topic("a"), Payload::text(event(number)))).await.unwrap();
    }
    assert_eq!(texts(&listener, 50).await, (0..50).map(event).collect::<Vec<_>>());
}
