//! Faults of Redis.

use strait_store_redis::testkit;

use super::LEASE;
use crate::kit::Server;

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

async fn through(
    what: &str,
    options: &[&str],
    kept_loses: bool,
    fault: impl AsyncFnOnce(&mut testkit::Server, &[Server]),
) {
    let mut redis = testkit::Server::start(options).await;
    let url = format!("{}/0?command_timeout=300&connect_timeout=300", redis.url());
    let node = || Server::start(&["--store", &url, "--lease", &LEASE.as_millis().to_string()]);
    let nodes = [node(), node()];
    super::through(what, &nodes, kept_loses, fault(&mut redis, &nodes)).await;
}

#[tokio::test]
async fn killed_subscriptions() {
    through("`CLIENT KILL TYPE pubsub`", &[], false, async |redis, _| {
        let _: i64 = redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    })
    .await;
}

#[tokio::test]
async fn all_connections_cut() {
    through("all connections cut", &[], false, async |redis, _| {
        for kind in ["pubsub", "normal"] {
            let _: i64 = redis.ask(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn flushed_scripts() {
    through("`SCRIPT FLUSH`", &[], false, async |redis, _| {
        let _: String = redis.ask(&["SCRIPT", "FLUSH"]).await;
    })
    .await;
}

#[tokio::test]
async fn redis_stopped_for_less_than_the_lease() {
    through("Redis hangs, 0.5 s", &[], false, async |redis, _| {
        redis.signal("-STOP");
        tokio::time::sleep(LEASE / 2).await;
        redis.signal("-CONT");
    })
    .await;
}

#[tokio::test]
async fn redis_stopped_for_longer_than_the_lease() {
    through("Redis hangs, 2.5 s", &[], false, async |redis, _| {
        redis.signal("-STOP");
        tokio::time::sleep(LEASE * 5 / 2).await;
        redis.signal("-CONT");
    })
    .await;
}

#[tokio::test]
async fn redis_restarted_with_its_data() {
    through("restart with data", DURABLE, false, async |redis, _| {
        redis.kill();
        redis.run().await;
    })
    .await;
}

#[tokio::test]
async fn redis_restarted_without_its_data() {
    through("restart without data", &[], true, async |redis, _| {
        redis.kill();
        redis.run().await;
    })
    .await;
}

#[tokio::test]
async fn redis_back_without_its_data_after_more_than_the_lease() {
    through("2.5 s away, back without data", &[], true, async |redis, _| {
        redis.kill();
        tokio::time::sleep(LEASE * 5 / 2).await;
        redis.run().await;
    })
    .await;
}

#[tokio::test]
async fn redis_wiped() {
    through("`FLUSHALL`", &[], true, async |redis, _| {
        let _: String = redis.ask(&["FLUSHALL"]).await;
    })
    .await;
}

#[tokio::test]
async fn the_publishers_node_killed() {
    through("publisher's node killed", &[], false, async |_, nodes| nodes[0].signal("-KILL")).await;
}
