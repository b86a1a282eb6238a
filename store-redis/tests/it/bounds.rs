//! One call does bounded work in Redis, however much is kept.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{ChannelStore, EventHubStore, Location, Publication, Replay};
use strait_core::{ChannelId, Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::{calls, channel, eventually};

/// Long time-outs, as slow machines take long for many events.
fn store(server: &Server) -> RedisStore {
    let config = RedisConfig::new(server.address().ip().to_string(), server.address().port());
    RedisStore::new(config.command_timeout(Duration::from_secs(30)))
}

async fn publish(store: &RedisStore, topic: &Topic, text: &str, count: usize, retention: Retention) -> Vec<Position> {
    let event = Arc::new(Event::message(Payload::text(text)));
    let one = Publication { topic: topic.clone(), event, retention: Some(retention), key: None };
    let answers = store.publish(&vec![one; count]).await;
    answers.into_iter().map(|answer| answer.unwrap().position).collect()
}

async fn length(server: &Server, topic: &Topic) -> u64 {
    let keys: Vec<String> = server.ask(&["KEYS", &format!("*}}log:{topic}")]).await;
    let Some(key) = keys.first() else { return 0 };
    server.ask(&["XLEN", key]).await
}

#[tokio::test]
async fn many_events_that_age_at_once_are_dropped_in_steps() {
    const OLD: usize = 60_000;
    let age = Duration::from_secs(2);
    let server = Server::start(&[]).await;
    let (store, topic) = (store(&server), Topic::new("kept").unwrap());
    let count = 1_000_000;
    let mut first = None;
    for _ in 0..OLD / 2000 {
        let long = Retention { count, age: Duration::from_secs(3600) };
        first = first.or(publish(&store, &topic, "old", 2000, long).await.pop());
    }
    tokio::time::sleep(age + Duration::from_millis(100)).await;
    let aged = Retention { count, age };
    let _: String = server.ask(&["CONFIG", "RESETSTAT"]).await;
    publish(&store, &topic, "new", 16, aged).await;
    let ran = calls(&server, "xrange").await + calls(&server, "xtrim").await;
    assert!(ran < 100, "one script ran {ran} commands");
    // Most of the events are still there, and no reader gets them.
    assert!(matches!(store.replay(&topic, &first.unwrap(), 10).await.unwrap(), Replay::Gap { .. }));
    let history = store.history(&topic, 1000).await.unwrap();
    assert!(history.iter().all(|(_, event)| event.payload == Payload::text("new")), "old events are read");
    eventually("the old events to go", async || {
        publish(&store, &topic, "new", 16, aged).await;
        length(&server, &topic).await < 10_000
    })
    .await;
}

#[tokio::test]
async fn a_log_that_is_to_be_shorter_becomes_so_in_steps() {
    const KEPT: usize = 30_000;
    let age = Duration::from_secs(3600);
    let server = Server::start(&[]).await;
    let (store, topic) = (store(&server), Topic::new("kept").unwrap());
    for _ in 0..KEPT / 2000 {
        publish(&store, &topic, "before", 2000, Retention { count: KEPT as u32, age }).await;
    }
    let short = Retention { count: 10, age };
    let last = publish(&store, &topic, "after", 1, short).await[0];
    let left = length(&server, &topic).await;
    assert!(left > 10_000 && left < KEPT as u64, "one script left {left} events");
    assert_eq!(store.history(&topic, 100).await.unwrap().len(), 10, "what is beyond the count is not read");
    let eleventh = Position { offset: last.offset - 11, ..last };
    assert!(matches!(store.replay(&topic, &eleventh, 100).await.unwrap(), Replay::Gap { .. }));
    for _ in 0..10 {
        publish(&store, &topic, "after", 1, short).await;
    }
    assert!(length(&server, &topic).await <= 11);
}

#[tokio::test]
async fn what_is_read_comes_in_pages() {
    const KEPT: usize = 3000;
    let server = Server::start(&[]).await;
    let (store, topic) = (store(&server), Topic::new("kept").unwrap());
    let published =
        publish(&store, &topic, "x", KEPT, Retention { count: KEPT as u32, age: Duration::from_secs(3600) }).await;
    let _: String = server.ask(&["CONFIG", "RESETSTAT"]).await;
    let history = store.history(&topic, KEPT).await.unwrap();
    assert!(history.iter().map(|(position, _)| *position).eq(published.iter().copied()));
    assert_eq!(store.history(&topic, 700).await.unwrap(), history[KEPT - 700..]);
    let pages = calls(&server, "evalsha").await;
    assert!(pages >= 6, "{pages} calls read {KEPT} events");
    let _: String = server.ask(&["CONFIG", "RESETSTAT"]).await;
    let Replay::Events { events, more, head } = store.replay(&topic, &published[0], KEPT).await.unwrap() else {
        panic!("it is kept")
    };
    assert_eq!((events.len(), more, head), (KEPT - 1, false, published[KEPT - 1]));
    let pages = calls(&server, "evalsha").await;
    assert!(pages >= 5, "{pages} calls read {KEPT} events");
    let Replay::Events { events, more, .. } = store.replay(&topic, &published[0], 700).await.unwrap() else {
        panic!("it is kept")
    };
    assert_eq!((events.len(), more), (700, true));
}

#[tokio::test]
async fn an_idempotency_key_takes_the_same_room_however_long_it_is() {
    let server = Server::start(&[]).await;
    let (store, topic) = (store(&server), Topic::new("room").unwrap());
    let other = Topic::new("other").unwrap();
    let event = Arc::new(Event::message(Payload::text("x")));
    let long = "é".repeat(50_000);
    let publication = |topic: &Topic, key: &str| Publication {
        topic: topic.clone(),
        event: Arc::clone(&event),
        retention: None,
        key: Some(key.to_owned().into()),
    };
    let mut positions = Vec::new();
    for (topic, key, duplicate) in [
        (&topic, &*long, false),
        (&topic, &long, true),
        (&topic, &long[2..], false),
        (&topic, "", false),
        (&topic, "", true),
        (&other, &long, false),
    ] {
        let published = store.publish(&[publication(topic, key)]).await.remove(0).unwrap();
        assert_eq!(published.duplicate, duplicate, "a key of {} bytes on {topic}", key.len());
        positions.push(published.position);
    }
    assert_eq!(positions[0], positions[1]);
    let keys: Vec<Vec<u8>> = server.ask(&["KEYS", "*}key:*"]).await;
    assert_eq!(keys.len(), 4);
    for key in keys {
        assert!(key.len() < 80, "a key of {} bytes", key.len());
        let left: i64 = redis::cmd("PTTL").arg(key).query_async(&mut server.connection().await.unwrap()).await.unwrap();
        assert!(left > 0, "it expires");
    }
}

#[tokio::test]
async fn channels_of_more_nodes_than_one_call_lists_are_claimed() {
    const NODES: usize = 700;
    let server = Server::start(&[]).await;
    let store = store(&server);
    // One partition of channels has one of each node's.
    let in_one = (0..).map(|n| format!("channel-{n}")).filter(|id| crc16(id.as_bytes()) % 64 == 7);
    for (n, id) in in_one.take(NODES).enumerate() {
        let mut channel = channel(|connection| Location::Node { node: node(n), connection });
        channel.id = ChannelId::new(id).unwrap();
        store.open(channel).await.unwrap();
    }
    let claims = store.claim_due(&NodeId::unique(), 1000, Duration::from_secs(60)).await.unwrap();
    assert_eq!(claims.len(), NODES, "none of them holds a lease");
}

fn node(number: usize) -> NodeId {
    NodeId::new(format!("node-{number:04}")).unwrap()
}

/// As Redis counts slots.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}
