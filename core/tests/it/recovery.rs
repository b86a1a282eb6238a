//! Events of a retained topic that a node missed are replayed to its members; members of other topics get notice of a
//! gap.

use std::time::Duration;

use strait_core::store::StoreErrorKind;
use strait_core::testkit::{Fault, Faults, Gate};
use strait_core::{App, Channel, Endpoint, Limits, Payload, Publish, Retention};

use crate::client::Client;
use crate::node::{Node, faulty, topic};

const KEEP: Retention = Retention { count: 5, age: Duration::from_secs(60) };

/// Every client subscribes to the topic in its path; those that begin with `kept` are retained.
async fn node() -> (Node, Faults) {
    let endpoint = Endpoint::new("ear", "/{topic}")
        .public()
        .limits(Limits { rate: None, ..Limits::default() })
        .on_connect(async |channel: Channel| channel.subscribe(&topic(&channel.param("topic").unwrap())).await)
        .on("ready", async || ());
    let (store, faults) = faulty();
    (Node::start(App::new().endpoint(endpoint).store(store).retain("kept", KEEP)).await, faults)
}

async fn member(node: &Node, of: &str) -> Client {
    let client = node.connect(&format!("/{of}")).await;
    client.ask(r#"{"action":"ready"}"#).await;
    client
}

async fn publish(node: &Node, to: &str, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        node.hub().publish(Publish::new(topic(to), Payload::text(number.to_string()))).await.unwrap();
    }
}

async fn expect(client: &Client, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        client.expect(&number.to_string()).await;
    }
}

#[tokio::test]
async fn what_was_missed_is_replayed_in_order_before_what_comes_next() {
    let (node, faults) = node().await;
    let client = member(&node, "kept").await;
    publish(&node, "kept", 1..=2).await;
    expect(&client, 1..=2).await;
    faults.deafen();
    publish(&node, "kept", 3..=5).await;
    faults.hear();
    publish(&node, "kept", 6..=7).await;
    expect(&client, 3..=7).await;
    assert_eq!(client.ask(r#"{"action":"ready"}"#).await, r#"{"action":"ready"}"#, "and once only");
}

#[tokio::test]
async fn a_hole_is_noticed_by_what_comes_after_it() {
    let (node, faults) = node().await;
    let client = member(&node, "kept").await;
    faults.deafen();
    publish(&node, "kept", 1..=3).await;
    faults.hear_unaware();
    publish(&node, "kept", 4..=4).await;
    expect(&client, 1..=4).await;
}

#[tokio::test]
async fn what_is_no_longer_kept_is_a_gap() {
    let (node, faults) = node().await;
    let client = member(&node, "kept").await;
    publish(&node, "kept", 1..=1).await;
    expect(&client, 1..=1).await;
    faults.deafen();
    publish(&node, "kept", 2..=10).await;
    faults.hear();
    client.expect(r#"{"gap":{"topic":"kept"}}"#).await;
    publish(&node, "kept", 11..=12).await;
    expect(&client, 11..=12).await;
}

#[tokio::test]
async fn of_a_topic_that_is_not_kept_a_gap_is_told() {
    let (node, faults) = node().await;
    let client = member(&node, "passing").await;
    faults.deafen();
    publish(&node, "passing", 1..=3).await;
    faults.hear();
    client.expect(r#"{"gap":{"topic":"passing"}}"#).await;
    publish(&node, "passing", 4..=4).await;
    expect(&client, 4..=4).await;
}

#[tokio::test]
async fn a_replay_waits_for_the_store_and_what_comes_waits_for_the_replay() {
    let (node, faults) = node().await;
    let client = member(&node, "kept").await;
    faults.deafen();
    publish(&node, "kept", 1..=2).await;
    faults.always("replay", Fault::Refuse(StoreErrorKind::Unavailable));
    faults.hear();
    publish(&node, "kept", 3..=4).await;
    crate::log::eventually("some attempts", || faults.calls("replay") > 2).await;
    assert_eq!(client.ask(r#"{"action":"ready"}"#).await, r#"{"action":"ready"}"#, "nothing came before its turn");
    faults.heal("replay");
    expect(&client, 1..=4).await;
}

#[tokio::test]
async fn a_replay_that_cannot_be_is_a_gap() {
    let (node, faults) = node().await;
    let client = member(&node, "kept").await;
    for fault in [Fault::Refuse(StoreErrorKind::Corrupt), Fault::Panic] {
        faults.deafen();
        publish(&node, "kept", 1..=2).await;
        faults.next("replay", 1, &fault);
        faults.hear();
        client.expect(r#"{"gap":{"topic":"kept"}}"#).await;
        publish(&node, "kept", 3..=3).await;
        // The hole is still there; now it can be replayed.
        expect(&client, 1..=3).await;
    }
}

#[tokio::test]
async fn who_joined_later_is_not_replayed_what_was_before() {
    let (node, faults) = node().await;
    let early = member(&node, "kept").await;
    faults.deafen();
    publish(&node, "kept", 1..=2).await;
    let late = member(&node, "kept").await;
    publish(&node, "kept", 3..=4).await;
    faults.hear();
    expect(&early, 1..=4).await;
    expect(&late, 3..=4).await;
}

#[tokio::test]
async fn who_joined_during_a_replay_gets_nothing_of_before() {
    let (node, faults) = node().await;
    let early = member(&node, "kept").await;
    faults.deafen();
    publish(&node, "kept", 1..=2).await;
    let gate = Gate::new();
    faults.next("replay", 1, &Fault::HoldAnswer(gate.clone()));
    faults.hear();
    crate::log::eventually("the replay", || gate.waiting() == 1).await;
    // The event waits for the replay, which lacks it.
    publish(&node, "kept", 3..=3).await;
    let late = member(&node, "kept").await;
    gate.open();
    publish(&node, "kept", 4..=4).await;
    expect(&early, 1..=4).await;
    expect(&late, 4..=4).await;
}
