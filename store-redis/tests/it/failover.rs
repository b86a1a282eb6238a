//! A server that is no cluster's, with a replica that takes its place.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{BusNode, EventBus, EventHubStore, Publication, Published, Replay, Sink, StoreError};
use strait_core::testkit::{Ears, Proxy, Way};
use strait_core::{Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::eventually;
use crate::kit::placed::{Placed, runtime};

const KEEP: Retention = Retention { count: 100, age: Duration::from_secs(600) };

/// A server and a replica with all its data.
async fn pair() -> (Server, Server) {
    let master = Server::start(&["--repl-diskless-sync-delay", "0"]).await;
    let port = master.address().port().to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
    is_in_sync(&replica).await;
    (master, replica)
}

async fn is_in_sync(replica: &Server) {
    let up = async || replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:up");
    eventually("the replica to follow", up).await;
}

/// Waits until a replica has all data that its master has now.
async fn has_all(replica: &Server, master: &Server) {
    let offset = async |server: &Server, name: &str| -> u64 {
        let info: String = server.ask(&["INFO", "replication"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or(0, |offset| offset.trim().parse().unwrap())
    };
    let all = offset(master, "master_repl_offset").await;
    assert!(all > 0);
    eventually("the replica to catch up", async || offset(replica, "slave_repl_offset").await >= all).await;
}

async fn replica_of(server: &Server, master: Option<&Server>) {
    let port = master.map(|master| master.address().port().to_string());
    let (host, port) = port.as_deref().map_or(("NO", "ONE"), |port| ("127.0.0.1", port));
    let _: String = server.ask(&["REPLICAOF", host, port]).await;
}

fn store(proxy: &Proxy) -> RedisStore {
    let config = RedisConfig::new(proxy.address().ip().to_string(), proxy.address().port());
    RedisStore::new(config.probe(Duration::from_millis(100), Duration::from_secs(2)))
}

async fn publish(
    store: &RedisStore,
    topic: &Topic,
    text: &str,
    retention: Option<Retention>,
) -> Result<Published, StoreError> {
    let event = Arc::new(Event::message(Payload::text(text)));
    let publication = Publication { topic: topic.clone(), event, retention, key: None };
    store.publish(&[publication]).await.remove(0)
}

#[test]
fn a_demoted_server_is_left_for_the_one_that_its_address_leads_to() {
    let (own, other) = (runtime(), runtime());
    let topics = ["near", "far"].map(|name| Topic::new(name).unwrap());
    let sink = Placed::new(&topics[1], &other);
    own.block_on(async {
        let (old, new) = pair().await;
        let proxy = Proxy::before(old.address()).await;
        let store = store(&proxy);
        let bus = store.start(&NodeId::unique(), Arc::clone(&sink) as Arc<dyn Sink>).await.unwrap();
        bus.interest(&topics, &[]).await.unwrap();
        let publish_there = async |topic: &Topic| {
            let (store, topic) = (store.clone(), topic.clone());
            other.spawn(async move { publish(&store, &topic, "x", None).await }).await.unwrap()
        };
        for topic in &topics {
            publish(&store, topic, "x", None).await.unwrap();
            publish_there(topic).await.unwrap();
            sink.ears.hear(topic, 2).await;
        }
        replica_of(&new, None).await;
        proxy.lead_to(new.address());
        replica_of(&old, Some(&new)).await;
        for topic in &topics {
            eventually("publications to go through", async || publish(&store, topic, "x", None).await.is_ok()).await;
            eventually("those of the other runtime", async || publish_there(topic).await.is_ok()).await;
            eventually("the topic to be heard", async || {
                let before = sink.ears.events(topic).len();
                publish_there(topic).await.is_ok() && {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    sink.ears.events(topic).len() > before
                }
            })
            .await;
        }
        eventually("the bus to hear", async || bus.health().hears).await;
        let left = async || old.ask::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.is_empty();
        eventually("nobody to listen at the old server", left).await;
        bus.stop().await;
    });
}

#[tokio::test]
async fn a_bus_that_publishes_nothing_leaves_a_demoted_server_too() {
    let (old, new) = pair().await;
    let (proxy, straight) = (Proxy::before(old.address()).await, Proxy::before(new.address()).await);
    let (hearer, publisher) = (store(&proxy), store(&straight));
    let (topic, ears) = (Topic::new("a").unwrap(), Ears::new());
    let bus = hearer.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    replica_of(&new, None).await;
    proxy.lead_to(new.address());
    replica_of(&old, Some(&new)).await;
    eventually("the topic to be heard", async || {
        publish(&publisher, &topic, "x", None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        !ears.events(&topic).is_empty()
    })
    .await;
    bus.stop().await;
}

struct Node {
    proxy: Proxy,
    store: RedisStore,
    ears: Arc<Ears>,
    bus: Arc<dyn BusNode>,
}

impl Node {
    async fn new(server: &Server, topics: &[Topic]) -> Self {
        let (proxy, ears) = (Proxy::before(server.address()).await, Ears::new());
        let store = store(&proxy);
        let bus = store.start(&NodeId::unique(), ears.clone()).await.unwrap();
        bus.interest(topics, &[]).await.unwrap();
        Self { proxy, store, ears, bus }
    }
}

#[tokio::test]
async fn what_a_failover_loses_is_told_to_those_who_heard_it_and_to_those_who_did_not() {
    let (mut old, new) = pair().await;
    let topics = ["kept", "passing"].map(|name| Topic::new(name).unwrap());
    let retention = [Some(KEEP), None];
    let (heard, missed) = (Node::new(&old, &topics).await, Node::new(&old, &topics).await);
    let mut firsts: Vec<Position> = Vec::new();
    for (topic, retention) in topics.iter().zip(retention) {
        firsts.push(publish(&heard.store, topic, "first", retention).await.unwrap().position);
        heard.ears.hear(topic, 1).await;
        missed.ears.hear(topic, 1).await;
    }
    has_all(&new, &old).await;
    // From here on the replica lacks the writes that the master acknowledges, and one node hears nothing of them.
    replica_of(&new, None).await;
    missed.proxy.set(Way::Closed);
    missed.proxy.cut();
    for (topic, retention) in topics.iter().zip(retention) {
        publish(&heard.store, topic, "lost", retention).await.unwrap();
        heard.ears.hear(topic, 2).await;
    }
    for node in [&heard, &missed] {
        node.proxy.lead_to(new.address());
    }
    old.kill();
    missed.proxy.set(Way::Open);
    for node in [&heard, &missed] {
        for topic in &topics {
            eventually("a gap", async || node.ears.has_gap(topic)).await;
        }
    }
    // An earlier position is of another epoch: each replay reports a gap.
    eventually("another epoch", async || {
        matches!(missed.store.replay(&topics[0], &firsts[0], 10).await, Ok(Replay::Gap { .. }))
    })
    .await;
    let kept = missed.store.history(&topics[0], 10).await.unwrap();
    assert_eq!(kept.len(), 1, "what the replica has of the log stays");
    for (topic, retention) in topics.iter().zip(retention) {
        for node in [&heard, &missed] {
            let before = node.ears.events(topic).len();
            eventually("the topic to be heard again", async || {
                publish(&missed.store, topic, "after", retention).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                node.ears.events(topic).len() > before
            })
            .await;
        }
    }
    for node in [heard, missed] {
        node.bus.stop().await;
    }
}
