//! Faults of Postgres, and of the way to it.

use std::process::Command;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{Counts, LEASE, Topic};
use crate::kit::Server;

#[allow(clippy::unwrap_used, dead_code, reason = "of the store's own tests, which need more of it")]
#[path = "../../../../../store-postgres/tests/it/kit/proxy.rs"]
mod proxy;
#[allow(clippy::unwrap_used, dead_code, reason = "of the store's own tests, which need more of it")]
#[path = "../../../../../store-postgres/tests/it/kit/server.rs"]
mod server;

use proxy::{Proxy, Way};
use server::Server as Postgres;

/// Shorter than the lease, and longer.
const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_millis(2500);

/// The servers and nodes that a fault is done to.
struct Scene<'a> {
    postgres: &'a mut Postgres,
    /// Before the database, for all nodes.
    proxy: &'a Proxy,
    nodes: &'a [Server],
}

impl Scene<'_> {
    /// A connection past the proxy.
    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.postgres.url()).await.expect("Postgres answers")
    }

    async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.connection().await).await.expect("it is done");
    }

    /// The server's processes that notify nodes.
    async fn listening(&self) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
        sqlx::query_scalar(sql).fetch_all(&mut self.connection().await).await.expect("Postgres answers")
    }

    async fn on_the_way(&self, way: Way, time: Duration) {
        self.proxy.set(way);
        tokio::time::sleep(time).await;
        self.proxy.set(Way::Open);
    }
}

/// Stopped processes, until it is dropped. A stopped one would outlive its server.
struct Stopped(Vec<i32>);

impl Stopped {
    fn new(processes: Vec<i32>) -> Self {
        signal("-STOP", &processes);
        Self(processes)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(signal: &str, processes: &[i32]) {
    let processes = processes.iter().map(i32::to_string);
    let sent = Command::new("kill").arg(signal).args(processes).status();
    assert!(sent.expect("kill runs").success());
}

async fn through(what: &str, fault: impl AsyncFnOnce(Scene<'_>)) -> Vec<(Topic, Counts)> {
    let Some(mut postgres) = Postgres::start().await else { return Vec::new() };
    let proxy = Proxy::before(&proxy::server_of(&postgres.url())).await;
    let url = format!("{}?operation_timeout=500", proxy.url(&postgres.url()));
    let node = || Server::start(&["--store", &url, "--lease", &LEASE.as_millis().to_string()]);
    let nodes = tokio::task::block_in_place(|| [node(), node()]);
    let scene = Scene { postgres: &mut postgres, proxy: &proxy, nodes: &nodes };
    let counted = super::through(what, &nodes, false, fault(scene)).await;
    for (topic, counts) in &counted {
        assert!(*topic == Topic::Passing || counts.gaps == 0, "{what}: of what is kept nothing is missing");
    }
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn all_connections_cut() {
    through("all connections cut, 0.1 s", async |scene| scene.on_the_way(Way::Cut, SHORT / 5).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connections_stalled_for_less_than_the_lease() {
    through("connections stall, 0.5 s", async |scene| scene.on_the_way(Way::Stalled, SHORT).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connections_stalled_for_longer_than_the_lease() {
    through("connections stall, 2.5 s", async |scene| scene.on_the_way(Way::Stalled, LONG).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connections_cut_for_longer_than_the_lease() {
    through("all connections cut, 2.5 s", async |scene| scene.on_the_way(Way::Cut, LONG).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_way() {
    let slow = Way::Slow(Duration::from_millis(20));
    through("20 ms later each way, 2.5 s", async |scene| scene.on_the_way(slow, LONG).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn terminated_backends() {
    through("`pg_terminate_backend`", async |scene| {
        scene.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'strait'").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restart() {
    through("restart", async |scene| {
        scene.postgres.stop("-INT");
        scene.postgres.begin().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_crash() {
    through("crash, and start", async |scene| {
        scene.postgres.stop("-QUIT");
        scene.postgres.begin().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn away_for_longer_than_the_lease() {
    through("2.5 s away", async |scene| {
        scene.postgres.stop("-INT");
        tokio::time::sleep(LONG).await;
        scene.postgres.begin().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lock_that_somebody_holds() {
    through("somebody locks both topics, 1.5 s", async |scene| {
        let mut holder = scene.connection().await;
        let lock = "BEGIN; SELECT FROM strait.topic WHERE name LIKE 'fan:%' FOR UPDATE";
        sqlx::raw_sql(lock).execute(&mut holder).await.expect("it is locked");
        tokio::time::sleep(LEASE * 3 / 2).await;
        sqlx::raw_sql("COMMIT").execute(&mut holder).await.expect("it is over");
    })
    .await;
}

/// Half open: the server's end of the connection does nothing, until others have taken its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_listen_that_dies_in_silence() {
    through("`LISTEN` dies in silence", async |scene| {
        let dead = Stopped::new(scene.listening().await);
        assert_eq!(dead.0.len(), scene.nodes.len());
        while scene.listening().await.len() < 2 * dead.0.len() {
            tokio::time::sleep(super::EVERY * 10).await;
        }
    })
    .await;
}

/// The bus notices, and the hub replays.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn holes_in_the_feed() {
    let counted = through("every tenth row of the feed is lost", async |scene| {
        let lose = "CREATE FUNCTION strait.lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
                    CREATE TRIGGER lose BEFORE INSERT ON strait.feed FOR EACH ROW WHEN (NEW.number % 10 = 0) \
                    EXECUTE FUNCTION strait.lose()";
        sqlx::raw_sql(AssertSqlSafe(lose)).execute(&mut scene.connection().await).await.expect("it is done");
    })
    .await;
    for (topic, counts) in counted {
        assert!(topic == Topic::Kept || counts.lost > 0, "nothing was lost, and nothing shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_publishers_node_killed() {
    through("publisher's node killed", async |scene| scene.nodes[0].signal("-KILL")).await;
}
