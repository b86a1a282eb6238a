//! Retained topics: a gateway's members get each event or notice of a gap, even if a publisher dies half-way.

use std::time::Duration;

use strait_core::{App, AppBuilder, Channel, Endpoint, Error, Payload, Posted, Publish, Retention, Topic};
use strait_store_memory::MemoryStore;

use super::fake::{FakeGateway, Function};
use crate::node::faulty;

const KEPT: Retention = Retention { count: 100, age: Duration::from_secs(600) };

async fn subscribe(channel: Channel) -> Result<(), Error> {
    channel.subscribe(&Topic::new("kept")?).await
}

fn app(store: &MemoryStore) -> AppBuilder {
    without_store().store(store.clone())
}

fn without_store() -> AppBuilder {
    let endpoint = Endpoint::new("a", "/a").public().on_connect(subscribe);
    App::new().endpoint(endpoint).retain("kept", KEPT).lease(Duration::from_millis(150))
}

async fn publish(app: &App, text: &str) {
    app.hub().publish(Publish::new(Topic::new("kept").expect("a name"), Payload::text(text))).await.expect("ok");
}

#[tokio::test]
async fn a_retained_topic_is_posted_in_order_by_whoever_publishes() {
    let (store, gateway) = (MemoryStore::new(), FakeGateway::new());
    let (one, two) = (Function::new(app(&store), &gateway), Function::new(app(&store), &gateway));
    one.connect("c1", "/?path=/a").await;
    gateway.latency(Duration::from_millis(1));
    for n in 0..10 {
        publish(&one.app, &format!("one {n}")).await;
        publish(&two.app, &format!("two {n}")).await;
    }
    let expected: Vec<String> = (0..10).flat_map(|n| [format!("one {n}"), format!("two {n}")]).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    gateway.sees("c1", &expected).await;
}

/// The messages at two members after a publisher was killed before it posted to all, and after another one has
/// published.
fn killed_half_way(hinder: fn(&FakeGateway), before: [&[&str]; 2], after: [&[&str]; 2]) {
    let (store, gateway) = (MemoryStore::new(), FakeGateway::new());
    let doomed = tokio::runtime::Runtime::new().expect("a runtime");
    let other = tokio::runtime::Runtime::new().expect("a runtime");
    let survivor = other.block_on(async {
        let function = Function::new(app(&store), &gateway);
        function.connect("c1", "/?path=/a").await;
        function.connect("c2", "/?path=/a").await;
        function
    });
    doomed.block_on(async {
        let function = Function::new(app(&store), &gateway);
        hinder(&gateway);
        publish(&function.app, "one").await;
        crate::log::eventually("posts", || gateway.deadlines().len() == 2).await;
        publish(&function.app, "two").await;
        gateway.sees("c1", before[0]).await;
        gateway.sees("c2", before[1]).await;
    });
    doomed.shutdown_background();
    gateway.latency(Duration::ZERO);
    gateway.unstick("c1");
    other.block_on(async {
        // The dead publisher's hold on the relay ends with its lease.
        crate::log::eventually_async("the relay", async || {
            survivor.sweep().await;
            gateway.seen("c1").len() == 2
        })
        .await;
        publish(&survivor.app, "three").await;
        gateway.sees("c1", after[0]).await;
        gateway.sees("c2", after[1]).await;
    });
}

#[test]
fn a_publisher_killed_half_way_loses_nothing() {
    let all = &["one", "two", "three"][..];
    killed_half_way(|gateway| gateway.latency(Duration::from_secs(600)), [&[], &[]], [all, all]);
}

#[test]
fn a_publisher_killed_while_a_member_is_stuck_loses_nothing() {
    let twice = &["one", "two", "one", "two", "three"][..];
    killed_half_way(|gateway| gateway.stick("c1"), [&[], &["one", "two"]], [&["one", "two", "three"], twice]);
}

#[tokio::test]
async fn one_member_that_is_stuck_does_not_delay_a_retained_topic_for_the_others() {
    let (store, faults) = faulty();
    let gateway = FakeGateway::new().with(|capabilities| capabilities.patience = Duration::from_secs(600));
    let function = Function::new(without_store().store(store), &gateway);
    for connection in ["c0", "c1", "c2"] {
        function.connect(connection, "/?path=/a").await;
    }
    gateway.stick("c1");
    for (n, text) in ["one", "two", "three"].into_iter().enumerate() {
        publish(&function.app, text).await;
        for connection in ["c0", "c2"] {
            gateway.sees(connection, &["one", "two", "three"][..=n]).await;
        }
        // The hold lasts for any time.
        crate::log::eventually("the relay is held on", || faults.calls("relay_done") > 3 * n).await;
    }
}

#[tokio::test]
async fn the_janitor_posts_what_a_dead_publisher_left() {
    let (store, gateway) = (MemoryStore::new(), FakeGateway::new());
    let function = Function::new(app(&store), &gateway);
    function.connect("c1", "/?path=/a").await;
    // Published by a process without time to post.
    let blind = app(&store).build().expect("it builds");
    publish(&blind, "one").await;
    assert!(gateway.seen("c1").is_empty());
    function.sweep().await;
    assert_eq!(gateway.seen("c1"), ["one"]);
}

#[tokio::test]
async fn who_missed_a_retained_event_is_told() {
    let store = MemoryStore::new();
    let gateway = FakeGateway::new().with(|caps| caps.patience = Duration::from_millis(50));
    let function = Function::new(app(&store), &gateway);
    function.connect("c1", "/?path=/a").await;
    function.connect("c2", "/?path=/a").await;
    gateway.fault(|connection, _| (connection == "c1").then_some(Posted::Throttled));
    publish(&function.app, "one").await;
    gateway.sees("c2", &["one"]).await;
    gateway.mend();
    gateway.sees("c1", &[r#"{"gap":{"topic":"kept"}}"#]).await;
    publish(&function.app, "two").await;
    gateway.sees("c1", &[r#"{"gap":{"topic":"kept"}}"#, "two"]).await;
}

#[tokio::test]
async fn a_lost_log_is_a_gap() {
    let (store, gateway) = (MemoryStore::new(), FakeGateway::new());
    let function = Function::new(app(&store), &gateway);
    function.connect("c1", "/?path=/a").await;
    publish(&function.app, "one").await;
    gateway.sees("c1", &["one"]).await;
    let trimmed = app(&store).build().expect("it builds");
    for n in 0..101 {
        publish(&trimmed, &n.to_string()).await;
    }
    publish(&function.app, "last").await;
    gateway.sees("c1", &["one", r#"{"gap":{"topic":"kept"}}"#]).await;
    publish(&function.app, "after").await;
    gateway.sees("c1", &["one", r#"{"gap":{"topic":"kept"}}"#, "after"]).await;
}
