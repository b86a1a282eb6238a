//! What a fleet on Postgres does and costs, against `NOTIFY` with the payload in each message, in the same run.
//!
//! `cargo run --release -p strait-store-postgres --example measure -- postgres://… [pgbench]`

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::join_all;
use parking_lot::Mutex;
use strait_core::store::{BusNode, Command as Order, EventBus, EventHubStore, Publication, Sink};
use strait_core::{Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_postgres::sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use strait_store_postgres::sqlx::{AssertSqlSafe, query, query_as};
use strait_store_postgres::{PostgresConfig, PostgresStore};

const SCHEMA: &str = "strait_measure";
const TIME: Duration = Duration::from_secs(5);
const LANES: usize = 16;
const KEEP: Retention = Retention { count: 50, age: Duration::from_secs(3600) };

/// Notes when each event came.
#[derive(Debug)]
struct Times {
    origin: Instant,
    took: Mutex<Vec<Duration>>,
}

impl Sink for Times {
    fn events(&self, _: &Topic, events: &[(Position, Arc<Event>)]) {
        let now = self.origin.elapsed();
        self.took.lock().extend(events.iter().filter_map(|(_, event)| age(now, event.payload.bytes())));
    }

    fn command(&self, _: Order) {}

    fn gap(&self, _: &[Topic]) {}
}

fn age(now: Duration, payload: &[u8]) -> Option<Duration> {
    let sent: u64 = std::str::from_utf8(payload).ok()?.trim_start().parse().ok()?;
    now.checked_sub(Duration::from_nanos(sent))
}

fn stamp(origin: Instant) -> String {
    format!("{:>100}", origin.elapsed().as_nanos())
}

fn say(text: impl std::fmt::Display) {
    // A closed stdout leaves nobody to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!("p50 {:.1} ms, p99 {:.1} ms, heard {}", at(0.5), at(0.99), took.len())
}

/// Commits of the database and bytes of WAL so far.
async fn counters(pool: &PgPool) -> anyhow::Result<(i64, i64)> {
    // What sessions count is told at most every second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let sql = "SELECT xact_commit, (pg_current_wal_lsn() - '0/0')::bigint FROM pg_stat_database \
               WHERE datname = current_database()";
    Ok(query_as(sql).fetch_one(pool).await?)
}

/// Publishes in as many lanes as a hub has, `slice` at a time, as fast as it goes or with a pause between.
async fn publish(
    store: &PostgresStore,
    origin: Instant,
    retention: Option<Retention>,
    slice: usize,
    pause: Duration,
) -> anyhow::Result<usize> {
    let until = Instant::now() + TIME;
    let lanes = (0..LANES).map(|lane| async move {
        let topic = Topic::new(format!("t{lane}"))?;
        let mut published = 0;
        while Instant::now() < until {
            let event = || Arc::new(Event::message(Payload::text(stamp(origin))));
            let one = || Publication { topic: topic.clone(), event: event(), retention, key: None };
            let slice: Vec<_> = (0..slice).map(|_| one()).collect();
            for answer in store.publish(&slice).await {
                answer?;
                published += 1;
            }
            tokio::time::sleep(pause).await;
        }
        anyhow::Ok(published)
    });
    join_all(lanes).await.into_iter().sum()
}

async fn strait(url: &str, pool: &PgPool, bystander: Option<&str>) -> anyhow::Result<()> {
    let config = || Ok::<_, anyhow::Error>(PostgresConfig::from_url(url)?.schema(SCHEMA)?.connections(LANES as u32));
    let (publisher, hearer) = (PostgresStore::new(config()?), PostgresStore::new(config()?));
    let times = Arc::new(Times { origin: Instant::now(), took: Mutex::default() });
    let bus: Arc<dyn BusNode> = hearer.start(&NodeId::unique(), times.clone()).await?;
    let topics = (0..LANES).map(|lane| Topic::new(format!("t{lane}"))).collect::<Result<Vec<_>, _>>()?;
    bus.interest(&topics, &[]).await?;
    for (name, retention, slice, pause) in [
        ("quiet, retained", Some(KEEP), 1, Duration::from_millis(100)),
        ("quiet, not retained", None, 1, Duration::from_millis(100)),
        ("full speed, retained, one a slice", Some(KEEP), 1, Duration::ZERO),
        ("full speed, retained, 20 a slice", Some(KEEP), 20, Duration::ZERO),
        ("full speed, not retained, one a slice", None, 1, Duration::ZERO),
        ("full speed, not retained, 20 a slice", None, 20, Duration::ZERO),
    ] {
        let before = counters(pool).await?;
        times.took.lock().clear();
        let published = publish(&publisher, times.origin, retention, slice, pause).await?;
        let after = counters(pool).await?;
        let each = |count: i64| count as f64 / published as f64;
        say(format_args!(
            "strait, {name}: {:.0}/s, {}, {:.2} commits and {:.0} bytes of WAL each",
            published as f64 / TIME.as_secs_f64(),
            percentiles(times.took.lock().clone()),
            each(after.0 - before.0),
            each(after.1 - before.1),
        ));
    }
    if let Some(pgbench) = bystander {
        let (beside, published) =
            tokio::join!(bench(pgbench, url), publish(&publisher, times.origin, Some(KEEP), 20, Duration::ZERO));
        say(format_args!("bystander beside strait at full speed ({} published): {}", published?, beside?));
    }
    let sizes: Vec<(String, i64)> = query_as(
        "SELECT relname::text, pg_total_relation_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE nspname = $1 AND relkind = 'r' ORDER BY 2 DESC LIMIT 6",
    )
    .bind(SCHEMA)
    .fetch_all(pool)
    .await?;
    say(format_args!("largest tables at the end, bytes: {sizes:?}"));
    bus.stop().await;
    publisher.close().await;
    hearer.close().await;
    Ok(())
}

/// The same number of connections, and the payload in each `NOTIFY`.
async fn notify(url: &str, pool: &PgPool, bystander: Option<&str>) -> anyhow::Result<()> {
    let origin = Instant::now();
    let mut listener = PgListener::connect(url).await?;
    listener.listen("measure").await?;
    let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let heard = Arc::clone(&took);
    let listening = tokio::spawn(async move {
        while let Ok(notification) = listener.recv().await {
            heard.lock().extend(age(origin.elapsed(), notification.payload().as_bytes()));
        }
    });
    let run = || async {
        let until = Instant::now() + TIME;
        let lanes = (0..LANES).map(|_| async {
            let mut published = 0;
            while Instant::now() < until {
                query("SELECT pg_notify('measure', $1)").bind(stamp(origin)).execute(pool).await?;
                published += 1;
            }
            anyhow::Ok(published)
        });
        join_all(lanes).await.into_iter().sum::<anyhow::Result<i64>>()
    };
    let before = counters(pool).await?;
    let published = run().await?;
    let after = counters(pool).await?;
    say(format_args!(
        "NOTIFY a message: {:.0}/s, {}, {:.2} commits and {:.0} bytes of WAL each (nothing is kept, no order, no offsets)",
        published as f64 / TIME.as_secs_f64(),
        percentiles(took.lock().clone()),
        (after.0 - before.0) as f64 / published as f64,
        (after.1 - before.1) as f64 / published as f64,
    ));
    if let Some(pgbench) = bystander {
        let (beside, published) = tokio::join!(bench(pgbench, url), run());
        say(format_args!("bystander beside NOTIFY at full speed ({} sent): {}", published?, beside?));
    }
    listening.abort();
    Ok(())
}

/// Transactions of somebody else.
async fn bench(pgbench: &str, url: &str) -> anyhow::Result<String> {
    let mut command = Command::new(pgbench);
    command.args(["-n", "-N", "-c", "4", "-T", &TIME.as_secs().to_string(), url]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("tps") || line.starts_with("latency average"));
    Ok(lines.collect::<Vec<_>>().join(", "))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("give the URL of a database that nobody needs")?;
    let pgbench = arguments.next();
    let pool = PgPoolOptions::new().max_connections(LANES as u32).connect(&url).await?;
    let drop = || AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"));
    query(drop()).execute(&pool).await?;
    if let Some(pgbench) = &pgbench {
        let made = Command::new(pgbench).args(["-i", "-q", "-s", "2", &url]).output()?;
        anyhow::ensure!(made.status.success(), "pgbench -i failed: {}", String::from_utf8_lossy(&made.stderr));
        say(format_args!("bystander alone: {}", bench(pgbench, &url).await?));
    }
    strait(&url, &pool, pgbench.as_deref()).await?;
    notify(&url, &pool, pgbench.as_deref()).await?;
    query(drop()).execute(&pool).await?;
    Ok(())
}
