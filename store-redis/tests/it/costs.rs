//! Data that nobody needs is neither read nor sent.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use strait_core::store::{EventBus, EventHubStore, Publication, Replay};
use strait_core::testkit::Ears;
use strait_core::{Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::kit::{eventually, quick};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(quick(RedisConfig::new(server.address().ip().to_string(), server.address().port())))
}

/// Counts the entries of streams that scripts read during `of`: it repeats the reads that MONITOR shows.
async fn entries_read<T>(server: &Server, of: impl Future<Output = T>) -> (usize, T) {
    let mut monitor = BufReader::new(TcpStream::connect(server.address()).await.unwrap());
    monitor.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = monitor.lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
    let done = of.await;
    let _: String = server.ask(&["ECHO", "it is over"]).await;
    let mut read = 0;
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if line.contains("it is over") {
            return (read, done);
        }
        if let Some((_, command)) = line.split_once(" lua] \"").filter(|(_, command)| command.starts_with('X')) {
            let again: Vec<&str> = command.trim_end_matches('"').split("\" \"").collect();
            read += server.ask::<Vec<Value>>(&again).await.len();
        }
    }
}

#[tokio::test]
async fn a_replay_reads_what_was_missed_and_no_more() {
    const KEPT: usize = 5000;
    let server = Server::start(&[]).await;
    let store = store(&server);
    let topic = Topic::new("kept").unwrap();
    let retention = Some(Retention { count: KEPT as u32, age: Duration::from_secs(60) });
    let event = |n: usize| Arc::new(Event::message(Payload::text(n.to_string())));
    let slice: Vec<Publication> =
        (0..KEPT).map(|n| Publication { topic: topic.clone(), event: event(n), retention, key: None }).collect();
    let published = store.publish(&slice).await;
    let published: Vec<Position> = published.into_iter().map(|answer| answer.unwrap().position).collect();
    for (missed, limit) in [(2, 1000), (KEPT - 1, 2)] {
        let after = published[KEPT - 1 - missed];
        let (read, replay) = entries_read(&server, store.replay(&topic, &after, limit)).await;
        let Replay::Events { events, .. } = replay.unwrap() else { panic!("it is kept") };
        assert!(events.iter().map(|(position, _)| position.offset).eq(after.offset + 1..=after.offset + 2));
        assert!((2..=3).contains(&read), "{read}, one may be to check the position");
    }
}

#[tokio::test]
async fn a_topic_reaches_only_nodes_that_are_interested() {
    let server = Server::start(&[]).await;
    let topics = ["one's", "other's", "nobody's"].map(|name| Topic::new(name).unwrap());
    let mut nodes = Vec::new();
    for of_node in &topics[..2] {
        let bus = store(&server).start(&NodeId::unique(), Ears::new()).await.unwrap();
        bus.interest(std::slice::from_ref(of_node), &[]).await.unwrap();
        nodes.push(bus);
    }
    let subscribers = async |topic: &Topic| {
        let channels: Vec<String> = server.ask(&["PUBSUB", "SHARDCHANNELS"]).await;
        let Some(channel) = channels.iter().find(|channel| channel.ends_with(&format!(":{topic}"))) else { return 0 };
        server.ask::<(String, u64)>(&["PUBSUB", "SHARDNUMSUB", channel]).await.1
    };
    let counts = async || [subscribers(&topics[0]).await, subscribers(&topics[1]).await, subscribers(&topics[2]).await];
    assert_eq!(counts().await, [1, 1, 0]);
    assert_eq!(server.ask::<u64>(&["PUBSUB", "NUMPAT"]).await, 0);
    nodes[0].interest(&[], &topics[..1]).await.unwrap();
    eventually("the end of interest", async || counts().await == [0, 1, 0]).await;
}
