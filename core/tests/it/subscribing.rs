//! Memberships, and the node's interest in topics that follows from them.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{EventHubStore, StoreErrorKind};
use strait_core::testkit::{Fault, Faults, Gate};
use strait_core::{App, Channel, Endpoint, Error, Json, Limits, Payload, Publish, State};

use crate::client::Client;
use crate::log::eventually;
use crate::node::{Node, faulty, serve, serve_faulty, topic};

async fn node() -> (Node, Faults, impl EventHubStore) {
    async fn join(text: String, channel: Channel) -> Result<String, Error> {
        let answer = match text.split_once(' ') {
            Some(("join", name)) => channel.subscribe(&topic(name)).await.map(|()| "joined".to_owned())?,
            Some(("leave", name)) => channel.unsubscribe(&topic(name)).await?.to_string(),
            _ => text,
        };
        Ok(answer)
    }
    let limits = Limits { handler: Duration::from_millis(50), rate: None, ..Limits::default() };
    let endpoint = Endpoint::new("a", "/").public().limits(limits).on_message(join);
    let (store, faults) = faulty();
    (Node::start(App::new().endpoint(endpoint).store(store.clone())).await, faults, store)
}

async fn publish(node: &Node, name: &str, text: &str) {
    node.hub().publish(Publish::new(topic(name), Payload::text(text))).await.unwrap();
}

/// Publishes an event: the client must get it `times` times.
async fn gets(node: &Node, client: &Client, name: &str, times: usize) {
    publish(node, name, "event").await;
    for _ in 0..times {
        client.expect("event").await;
    }
    // Deliveries of a topic are in order: after this event, no other one is on its way.
    if times > 0 {
        publish(node, name, "last").await;
        client.expect("last").await;
    }
}

#[tokio::test]
async fn subscribing_twice_is_one_membership() {
    let (node, faults, _) = node().await;
    let client = node.connect("/").await;
    assert_eq!(client.ask("join t").await, "joined");
    assert_eq!(client.ask("join t").await, "joined");
    gets(&node, &client, "t", 1).await;
    assert_eq!(client.ask("leave t").await, "true");
    assert_eq!(client.ask("leave t").await, "false");
    assert_eq!(client.ask("leave never").await, "false");
    gets(&node, &client, "t", 0).await;
    assert_eq!(client.ask("still here").await, "still here");
    assert_eq!(faults.calls("interest"), 2, "once on, once off");
}

#[tokio::test]
async fn a_node_has_interest_only_in_topics_that_it_has_members_for() {
    let (node, faults, _) = node().await;
    let [one, two] = [node.connect("/").await, node.connect("/").await];
    assert_eq!((faults.calls("interest"), node.hub().topics()), (0, 0));
    one.ask("join t").await;
    two.ask("join t").await;
    assert_eq!((faults.calls("interest"), node.hub().topics()), (1, 1));
    one.ask("leave t").await;
    assert_eq!((faults.calls("interest"), node.hub().topics()), (1, 1));
    two.close();
    two.ended().await;
    assert_eq!((faults.calls("interest"), node.hub().topics()), (2, 0));
    one.ask("join t").await;
    gets(&node, &one, "t", 1).await;
    assert_eq!((faults.calls("interest"), node.hub().topics()), (3, 1));
}

#[tokio::test]
async fn a_subscription_that_the_store_refuses_is_none() {
    for op in ["interest", "subscribe"] {
        let (node, faults, store) = node().await;
        let client = node.connect("/").await;
        faults.next(op, 1, &Fault::Refuse(StoreErrorKind::Unavailable));
        assert!(client.ask("join t").await.contains(r#""code":"unavailable""#), "{op}");
        assert_eq!(node.hub().topics(), 0, "{op}");
        assert!(store.topics(&client.id).await.unwrap().is_empty(), "{op}");
        gets(&node, &client, "t", 0).await;
        assert_eq!(client.ask("join t").await, "joined", "{op}");
        gets(&node, &client, "t", 1).await;
    }
}

#[tokio::test]
async fn a_subscription_that_is_cancelled_leaves_the_topic_usable() {
    for op in ["interest", "subscribe"] {
        let (node, faults, _) = node().await;
        let client = node.connect("/").await;
        let gate = Gate::new();
        faults.next(op, 1, &Fault::Hang(gate.clone()));
        assert!(client.ask("join t").await.contains(r#""code":"timeout""#), "{op}");
        gate.open();
        assert_eq!(client.ask("join t").await, "joined", "{op}");
        gets(&node, &client, "t", 1).await;
        assert_eq!(client.ask("leave t").await, "true", "{op}");
        assert_eq!(node.hub().topics(), 0, "{op}");
    }
}

#[tokio::test]
async fn leaving_ends_delivery_even_if_the_store_fails() {
    let (node, faults, store) = node().await;
    let client = node.connect("/").await;
    client.ask("join t").await;
    faults.next("unsubscribe", 1, &Fault::Refuse(StoreErrorKind::Unavailable));
    assert!(client.ask("leave t").await.contains(r#""code":"unavailable""#));
    gets(&node, &client, "t", 0).await;
    assert_eq!(client.ask("still here").await, "still here");
    assert_eq!(node.hub().topics(), 0);
    assert_eq!(store.topics(&client.id).await.unwrap().len(), 1, "the store has not heard of it");
    assert_eq!(client.ask("leave t").await, "false", "it is none here");
    assert!(store.topics(&client.id).await.unwrap().is_empty(), "but the store was asked again");
}

#[tokio::test]
async fn what_is_cancelled_half_way_leaves_no_interest_behind() {
    let (node, faults, _) = node().await;
    let client = node.connect("/").await;
    let gate = Gate::new();
    faults.next("interest", 1, &Fault::Hang(gate.clone()));
    assert!(client.ask("join t").await.contains(r#""code":"timeout""#));
    eventually("the topic is forgotten", || node.hub().topics() == 0).await;
    client.ask("join t").await;
    faults.next("interest", 1, &Fault::Hang(gate));
    assert!(client.ask("leave t").await.contains(r#""code":"timeout""#));
    eventually("the topic is forgotten", || node.hub().topics() == 0).await;
}

#[tokio::test]
async fn subscribing_while_the_store_still_unsubscribes_comes_after_it() {
    async fn leave_and_join(channel: Channel, State(gate): State<Gate>) -> Result<(), Error> {
        channel.subscribe(&topic("t")).await?;
        let other = channel.clone();
        let leaving = tokio::spawn(async move { other.unsubscribe(&topic("t")).await });
        eventually("the store is asked", || gate.waiting() == 1).await;
        let other = channel.clone();
        let joining = tokio::spawn(async move { other.subscribe(&topic("t")).await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        gate.open();
        assert!(leaving.await??, "it was a member");
        joining.await?
    }
    let ((store, faults), gate) = (faulty(), Gate::new());
    let endpoint = Endpoint::new("a", "/").public().on("go", leave_and_join);
    let node = Node::start(App::new().endpoint(endpoint).state(gate.clone()).store(store.clone())).await;
    let client = node.connect("/").await;
    faults.next("unsubscribe", 1, &Fault::Hang(gate));
    assert_eq!(client.ask(r#"{"action":"go"}"#).await, r#"{"action":"go"}"#);
    assert_eq!(store.topics(&client.id).await.unwrap(), [topic("t")]);
    gets(&node, &client, "t", 1).await;
}

/// Races joins with leaves. Afterwards a channel that subscribed last is a member once, and one that left is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves_at_once_keep_memberships_whole() {
    async fn race(channel: Channel, State(name): State<Arc<str>>) -> Result<Json<u8>, Error> {
        let name = topic(&name);
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let (channel, name) = (channel.clone(), name.clone());
                tokio::spawn(async move {
                    if n % 2 == 0 { channel.subscribe(&name).await } else { channel.unsubscribe(&name).await.map(drop) }
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        channel.subscribe(&name).await?;
        Ok(Json(1))
    }
    let endpoint = Endpoint::new("a", "/").public().on("race", race).on_message(async |_: String, channel: Channel| {
        channel.unsubscribe(&topic("t")).await.map(|left| left.to_string())
    });
    let (store, _) = faulty();
    let app = App::new().endpoint(endpoint).state(Arc::<str>::from("t")).store(store);
    let node = Node::start(app).await;
    let clients = [node.connect("/").await, node.connect("/").await, node.connect("/").await];
    for round in 0..30 {
        for client in &clients {
            client.send(r#"{"action":"race"}"#);
        }
        for client in &clients {
            client.expect(r#"{"action":"race","result":1}"#).await;
        }
        publish(&node, "t", "one").await;
        publish(&node, "t", "two").await;
        for client in &clients {
            client.expect("one").await;
            client.expect("two").await;
        }
        for client in &clients {
            assert_eq!(client.ask("leave").await, "true", "round {round}");
        }
        eventually("nobody is a member", || node.hub().topics() == 0).await;
    }
}

/// Lesson 28 for a node's own memory.
#[tokio::test]
async fn many_topics_come_and_go_and_nothing_is_left() {
    let (node, _, store) = node().await;
    let client = node.connect("/").await;
    for n in 0..200 {
        client.ask(&format!("join t{n}")).await;
        if n % 2 == 0 {
            client.ask(&format!("leave t{n}")).await;
        }
    }
    assert_eq!(node.hub().topics(), 100);
    assert_eq!(store.topics(&client.id).await.unwrap().len(), 100);
    client.lose();
    client.ended().await;
    assert_eq!(node.hub().topics(), 0);
}

#[tokio::test]
async fn many_small_subscriptions_are_limited() {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .limits(Limits { subscriptions: 100, rate: None, ..Limits::default() })
        .on("join", async |channel: Channel, Json(input): Json<Wish>| channel.subscribe(&topic(&input.topic)).await)
        .on("leave", async |channel: Channel, Json(input): Json<Wish>| {
            channel.unsubscribe(&topic(&input.topic)).await.map(|_| ())
        });
    let client = serve(endpoint).await.connect("/").await;
    for n in 0..100 {
        assert_eq!(client.ask(&format!(r#"{{"action":"join","topic":"t{n}"}}"#)).await, r#"{"action":"join"}"#);
    }
    for n in 100..500 {
        assert!(client.ask(&format!(r#"{{"action":"join","topic":"t{n}"}}"#)).await.contains("rate_limited"));
    }
    assert_eq!(client.ask(r#"{"action":"join","topic":"t7"}"#).await, r#"{"action":"join"}"#, "it is one of them");
    client.ask(r#"{"action":"leave","topic":"t7"}"#).await;
    assert_eq!(client.ask(r#"{"action":"join","topic":"t100"}"#).await, r#"{"action":"join"}"#, "there is room again");
}

#[derive(serde::Deserialize)]
struct Wish {
    topic: String,
}

#[tokio::test]
async fn a_membership_that_could_not_be_shown_goes_on_hidden() {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_connect(async |channel: Channel| channel.subscribe(&topic("t")).await)
        .on("show", async |channel: Channel| channel.subscribe_present::<()>(&topic("t"), None).await);
    let (node, faults) = serve_faulty(endpoint).await;
    let client = node.connect("/").await;
    eventually("it is a member", || node.hub().topics() == 1).await;
    faults.next("subscribe", 1, &Fault::Refuse(StoreErrorKind::Unavailable));
    assert!(client.ask(r#"{"action":"show"}"#).await.contains("unavailable"));
    node.hub().publish(Publish::new(topic("t"), Payload::text("event"))).await.unwrap();
    client.expect("event").await;
}
