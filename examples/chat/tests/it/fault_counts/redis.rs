//! Faults of Redis.

use strait_store_redis::testkit;

use super::{LEASE, Topic};
use crate::kit::Server;

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// Two nodes that know one server.
fn nodes(redis: &testkit::Server) -> [Server; 2] {
    let url = format!("{}/0?command_timeout=300&connect_timeout=300", redis.url());
    let node = || Server::start(&["--store", &url, "--lease", &LEASE.as_millis().to_string()]);
    [node(), node()]
}

async fn through(
    what: &str,
    options: &[&str],
    kept_loses: bool,
    fault: impl AsyncFnOnce(&mut testkit::Server, &[Server]),
) {
    let mut redis = testkit::Server::start(options).await;
    let nodes = nodes(&redis);
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

/// Where the topics are in a cluster.
async fn places(cluster: &testkit::Cluster) -> [(u16, usize); 2] {
    let place = async |topic: Topic| cluster.place(&format!("*}}meta:{}", topic.name())).await;
    [place(Topic::Kept).await, place(Topic::Passing).await]
}

#[tokio::test]
async fn masters_failed() {
    let mut cluster = testkit::Cluster::start(3, 2).await;
    let nodes = nodes(&cluster.masters[2]);
    super::through("masters of a cluster killed", &nodes, true, async {
        let mut masters = places(&cluster).await.map(|(_, master)| master).to_vec();
        masters.dedup();
        for master in masters {
            cluster.fail_over(master).await;
        }
    })
    .await;
}

#[tokio::test]
async fn slots_moved() {
    let cluster = testkit::Cluster::start(3, 0).await;
    let nodes = nodes(&cluster.masters[2]);
    super::through("slots of a cluster moved", &nodes, false, async {
        for (slot, from) in places(&cluster).await {
            cluster.move_slot(slot, from, (from + 1) % 3).await;
        }
    })
    .await;
}
