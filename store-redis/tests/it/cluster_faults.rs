//! A cluster with servers that fail, and with slots that move.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{EventBus, EventHubStore, Publication, Published, Replay, StoreError};
use strait_core::testkit::Ears;
use strait_core::{Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_redis::testkit::{Cluster, Server};
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::{eventually, quick};

const KEEP: Retention = Retention { count: 100_000, age: Duration::from_secs(60) };

/// A store that knows one server of the cluster.
fn store(of: &Server) -> RedisStore {
    let address = of.address();
    RedisStore::new(quick(RedisConfig::new(address.ip().to_string(), address.port())))
}

fn topics(count: usize) -> Vec<Topic> {
    (0..count).map(|n| Topic::new(format!("topic {n}")).unwrap()).collect()
}

async fn try_publish(store: &RedisStore, topic: &Topic, number: usize) -> Result<Published, StoreError> {
    let event = Arc::new(Event::message(Payload::text(number.to_string())));
    let publication = Publication { topic: topic.clone(), event, retention: Some(KEEP), key: None };
    store.publish(&[publication]).await.remove(0)
}

/// The slot of a topic, and the number of the master that has it.
async fn place(cluster: &Cluster, topic: &Topic) -> (u16, usize) {
    cluster.place(&format!("*}}meta:{topic}")).await
}

/// Every event after a position: events missed on the bus are there.
async fn replay(store: &RedisStore, topic: &Topic, after: &Position) -> Vec<Position> {
    match store.replay(topic, after, 100_000).await.unwrap() {
        Replay::Events { events, .. } => events.into_iter().map(|(position, _)| position).collect(),
        Replay::Gap { .. } => panic!("all is kept"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_everything_is_heard_again() {
    let mut cluster = Cluster::start(3, 1).await;
    // The first server is the one that fails: the client finds the others nevertheless.
    let (publisher, hearer) = (store(&cluster.masters[1]), store(&cluster.masters[0]));
    let (topics, ears, node) = (topics(12), Ears::new(), NodeId::unique());
    let bus = hearer.start(&node, ears.clone()).await.unwrap();
    bus.interest(&topics, &[]).await.unwrap();
    let mut on_failing = 0;
    for topic in &topics {
        try_publish(&publisher, topic, 0).await.unwrap();
        ears.hear(topic, 1).await;
        on_failing += usize::from(place(&cluster, topic).await.1 == 0);
    }
    assert!(on_failing > 0 && on_failing < topics.len(), "topics are on all servers");
    // The last writes must be with the replica, as a failover may lose them.
    let _: i64 = cluster.masters[0].ask(&["WAIT", "1", "1000"]).await;
    cluster.masters[0].kill();
    let killed = std::time::Instant::now();
    for topic in &topics {
        eventually("publications to go through", async || try_publish(&publisher, topic, 1).await.is_ok()).await;
        eventually("the topic to be heard", async || {
            let before = ears.events(topic).len();
            let _ = try_publish(&publisher, topic, 2).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            ears.events(topic).len() > before
        })
        .await;
    }
    eventually("the bus to hear", async || bus.health().hears).await;
    eprintln!("failover: everything is heard again after {:?}", killed.elapsed());
    for topic in &topics {
        let heard: Vec<u64> = ears.events(topic).iter().map(|(position, _)| position.offset).collect();
        let whole = heard.iter().zip(1..).all(|(heard, expected)| *heard == expected);
        assert!(whole || ears.has_gap(topic), "{topic}: {heard:?} without a word");
    }
    bus.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_slot_moves_nothing_is_lost_without_a_word() {
    let cluster = Cluster::start(3, 0).await;
    let (publisher, hearer) = (store(&cluster.masters[1]), store(&cluster.masters[2]));
    let (topic, ears) = (Topic::new("moving").unwrap(), Ears::new());
    let bus = hearer.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let first = try_publish(&publisher, &topic, 0).await.unwrap().position;
    let publishing = {
        let (publisher, topic) = (publisher.clone(), topic.clone());
        tokio::spawn(async move {
            let mut positions = Vec::new();
            for n in 1..400 {
                positions.push(try_publish(&publisher, &topic, n).await.unwrap().position);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            positions
        })
    };
    // There and back.
    let (slot, from) = place(&cluster, &topic).await;
    let to = (from + 1) % 3;
    for (from, to) in [(from, to), (to, from)] {
        cluster.move_slot(slot, from, to).await;
        let heard = ears.events(&topic).len();
        eventually("events after the move", async || ears.events(&topic).len() > heard).await;
    }
    let published = publishing.await.unwrap();
    assert!(published.iter().zip(2..).all(|(position, offset)| position.offset == offset), "each got one offset");
    assert_eq!(replay(&publisher, &topic, &first).await, published);
    let last = published.last().unwrap().offset;
    eventually("the last event", async || {
        ears.events(&topic).last().is_some_and(|(position, _)| position.offset == last)
    })
    .await;
    let heard: Vec<u64> = ears.events(&topic).iter().map(|(position, _)| position.offset).collect();
    assert!(heard.is_sorted_by(|a, b| a < b), "in order, each once: {heard:?}");
    assert!(heard.len() as u64 == last || ears.has_gap(&topic), "{heard:?} without a word");
    eventually("the bus to hear", async || bus.health().hears).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_server_is_away_the_others_are_heard() {
    let cluster = Cluster::start(3, 0).await;
    for master in &cluster.masters {
        let () = master.ask(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
    }
    let (publisher, hearer) = (store(&cluster.masters[1]), store(&cluster.masters[2]));
    let (topics, ears) = (topics(12), Ears::new());
    let bus = hearer.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(&topics, &[]).await.unwrap();
    let mut elsewhere = None;
    for topic in &topics {
        try_publish(&publisher, topic, 0).await.unwrap();
        ears.hear(topic, 1).await;
        elsewhere = elsewhere.or((place(&cluster, topic).await.1 != 0).then_some(topic));
    }
    let topic = elsewhere.expect("topics are on all servers");
    // Connections to the server are made, but it sends nothing.
    cluster.masters[0].signal("-STOP");
    eventually("the bus to know that it is deaf", async || !bus.health().hears).await;
    // Ten times as long as a connection may be silent.
    for n in 1..=100 {
        try_publish(&publisher, topic, n).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let heard = ears.hear(topic, 101).await;
    assert!(heard.iter().zip(1..).all(|((position, _), expected)| position.offset == expected));
    assert!(!ears.has_gap(topic), "what was heard all the time is doubted");
    cluster.masters[0].signal("-CONT");
    eventually("the bus to hear", async || bus.health().hears).await;
    bus.stop().await;
}
