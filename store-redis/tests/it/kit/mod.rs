//! Servers, and the faults that tests give them.

pub(crate) mod placed;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use strait_core::store::{Location, NewChannel};
use strait_core::{ChannelId, ConnectionId, NodeId, Topic};
use strait_store_redis::RedisConfig;
use strait_store_redis::testkit::Server;

/// The server that the test run was given.
pub(crate) fn given_url() -> String {
    std::env::var("STRAIT_TEST_REDIS_URL").expect(
        "STRAIT_TEST_REDIS_URL names no Redis: run `cargo xtask test-all`, or `cargo xtask services -- cargo test …`",
    )
}

/// A channel to open.
pub(crate) fn channel(location: impl Fn(ConnectionId) -> Location) -> NewChannel {
    let id = ChannelId::unique();
    let (endpoint, opening) = (Arc::from("room"), Bytes::from_static(b"{}"));
    let location = location(ConnectionId::from(id.clone()));
    NewChannel { id, endpoint, location, opening, session: None, grace: None, token: None, due: None }
}

/// A prefix that no other test uses.
pub(crate) fn unique_prefix() -> String {
    format!("test:{}:", NodeId::unique())
}

/// Short time-outs, so that tests need not wait.
pub(crate) fn quick(config: RedisConfig) -> RedisConfig {
    config.probe(Duration::from_millis(50), Duration::from_millis(200))
}

/// All keys with a prefix at one server.
pub(crate) async fn keys(connection: &mut MultiplexedConnection, prefix: &str) -> Vec<Vec<u8>> {
    let (mut cursor, mut found) = (0_u64, Vec::new());
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await.unwrap();
        found.extend(keys);
        cursor = next;
        if cursor == 0 {
            return found;
        }
    }
}

pub(crate) async fn delete(connection: &mut MultiplexedConnection, keys: &[Vec<u8>]) {
    for key in keys {
        let () = redis::cmd("UNLINK").arg(key).query_async(connection).await.unwrap();
    }
}

/// Picks the keys of a topic's counter and log.
pub(crate) fn of_log(keys: Vec<Vec<u8>>, topic: &Topic) -> Vec<Vec<u8>> {
    let of_log = |key: &Vec<u8>| {
        let (_, name) = std::str::from_utf8(key).unwrap().split_once('}').unwrap();
        name == format!("meta:{topic}") || name == format!("log:{topic}")
    };
    keys.into_iter().filter(of_log).collect()
}

/// The number of times that a server ran a command since `CONFIG RESETSTAT`.
pub(crate) async fn calls(server: &Server, command: &str) -> u64 {
    let info: String = server.ask(&["INFO", "commandstats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
