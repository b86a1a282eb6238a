//! A schema for each test, in the server that the tests are given.

pub(crate) mod proxy;
pub(crate) mod server;
mod skip;

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::store::{BusNode, EventBus, EventHubStore, Publication};
use strait_core::testkit::Ears;
use strait_core::{Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_postgres::sqlx::{AssertSqlSafe, Connection, PgConnection, query, query_scalar, raw_sql};
use strait_store_postgres::{PostgresConfig, PostgresStore};

pub(crate) use skip::skip;

/// The longest wait of a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server that the tests are given.
pub(crate) fn url() -> String {
    env::var("STRAIT_TEST_POSTGRES_URL")
        .expect("STRAIT_TEST_POSTGRES_URL says where a Postgres for tests is; `cargo xtask test-all` sets it")
}

/// A schema of its own, dropped with everything in it.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Schema {
    pub(crate) fn new() -> Self {
        Self::at(url())
    }

    pub(crate) fn at(url: String) -> Self {
        Self { name: format!("test_{}", NodeId::unique().as_str().replace('-', "")), url }
    }

    pub(crate) fn config(&self) -> PostgresConfig {
        PostgresConfig::from_url(&self.url).unwrap().schema(&self.name).unwrap().connections(4)
    }

    /// A handle, as one more process would have.
    pub(crate) async fn store(&self) -> PostgresStore {
        let store = PostgresStore::new(self.config());
        store.connect().await.unwrap();
        store
    }

    pub(crate) async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    pub(crate) fn sql(&self, sql: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(sql.replace("{s}", &format!("\"{}\"", self.name)))
    }

    /// Runs a statement of one value.
    pub(crate) async fn run(&self, sql: &str, value: &str) {
        query(self.sql(sql)).bind(value).execute(&mut self.connection().await).await.unwrap();
    }

    pub(crate) async fn drop(&self) {
        drop_schema(&self.url, self.sql("DROP SCHEMA IF EXISTS {s} CASCADE")).await;
    }
}

impl Drop for Schema {
    /// Runs also after a failed test.
    fn drop(&mut self) {
        let (url, sql) = (self.url.clone(), self.sql("DROP SCHEMA IF EXISTS {s} CASCADE"));
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(drop_schema(&url, sql));
        });
        dropped.join().unwrap();
    }
}

async fn drop_schema(url: &str, sql: AssertSqlSafe<String>) {
    query(sql).execute(&mut PgConnection::connect(url).await.unwrap()).await.unwrap();
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a session waits for a lock with a statement like this one.
pub(crate) async fn waits_for_lock(schema: &Schema, statement: &str) {
    eventually("a statement to wait", async || (count_waiting(schema, statement).await > 0).then_some(())).await;
}

/// The number of sessions that wait for a lock with a statement like this one.
pub(crate) async fn count_waiting(schema: &Schema, statement: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{statement}%' \
         AND pid <> pg_backend_pid()"
    );
    query_scalar(schema.sql(&sql)).fetch_one(&mut schema.connection().await).await.unwrap()
}

/// How many rows a table has.
pub(crate) async fn count_rows(schema: &Schema, table: &str) -> i64 {
    let sql = schema.sql(&format!("SELECT count(*) FROM {{s}}.{table}"));
    let mut connection = schema.connection().await;
    // This count uses an index, so that a test of scans does not see it.
    query("SET enable_seqscan = off").execute(&mut connection).await.unwrap();
    query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

/// Turns the feed's ring as if eleven seconds had passed, unless a node does it at the same time.
pub(crate) async fn turn_feed(schema: &Schema, connection: &mut PgConnection) {
    let later = "UPDATE {s}.turn SET since = since - interval '11 seconds'; \
                 UPDATE {s}.slot SET sealed_at = sealed_at - interval '11 seconds', closed_at = closed_at - interval '11 seconds'; \
                 SELECT {s}.rotate_feed()";
    raw_sql(schema.sql(later)).execute(connection).await.unwrap();
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// Long enough for any test.
pub(crate) const KEEP: Retention = Retention { count: 10_000, age: Duration::from_secs(600) };

/// A publication of a text, kept.
pub(crate) fn publication(on: &str, text: impl Into<String>) -> Publication {
    let event = Event::message(Payload::text(text)).into();
    Publication { topic: topic(on), event, retention: Some(KEEP), key: None }
}

pub(crate) async fn publish(store: &PostgresStore, publication: Publication) -> Position {
    store.publish(&[publication]).await.remove(0).unwrap().position
}

pub(crate) fn texts(events: &[(Position, Arc<Event>)]) -> Vec<String> {
    events.iter().map(|(_, event)| String::from_utf8(event.payload.bytes().to_vec()).unwrap()).collect()
}

/// A node that hears topics.
pub(crate) async fn hearing(store: &PostgresStore, names: &[&str]) -> (Arc<Ears>, Arc<dyn BusNode>) {
    let ears = Ears::new();
    let bus = store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    let topics: Vec<_> = names.iter().map(|name| topic(name)).collect();
    bus.interest(&topics, &[]).await.unwrap();
    (ears, bus)
}
