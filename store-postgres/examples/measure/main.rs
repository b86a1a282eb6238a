//! What a fleet on Postgres does and costs, against `NOTIFY` with the payload in each message, in the same run.
//!
//! `cargo run --release -p strait-store-postgres --example measure -- postgres://… [bystander | outbox | steady RATE MINUTES |
//! bloat MINUTES]`

mod bloat;
mod bystander;
mod outbox;
mod speed;
mod steady;

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
    took: Mutex<Vec<Took>>,
}

/// One event: when it was sent, after the origin, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Took {
    sent: Duration,
    time: Duration,
}

impl Sink for Times {
    fn events(&self, _: &Topic, events: &[(Position, Arc<Event>)]) {
        let now = self.origin.elapsed();
        self.took.lock().extend(events.iter().filter_map(|(_, event)| age(now, event.payload.bytes())));
    }

    fn command(&self, _: Order) {}

    fn gap(&self, _: &[Topic]) {}
}

fn age(now: Duration, payload: &[u8]) -> Option<Took> {
    let sent = Duration::from_nanos(std::str::from_utf8(payload).ok()?.trim_start().parse().ok()?);
    Some(Took { sent, time: now.checked_sub(sent)? })
}

fn stamp(origin: Instant) -> String {
    format!("{:>100}", origin.elapsed().as_nanos())
}

fn say(text: impl std::fmt::Display) {
    // A closed stdout leaves nobody to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// With when the slowest ones were sent, in seconds after the first: what is slow all at once has one reason.
fn percentiles(mut took: Vec<Took>) -> String {
    let first = took.iter().map(|took| took.sent).min().unwrap_or_default();
    took.sort_by_key(|took| took.time);
    let millis = |took: &Took| took.time.as_secs_f64() * 1e3;
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).map_or(0.0, millis);
    let slowest = took.iter().rev().step_by((took.len() / 300).max(1)).take(4);
    let slowest: Vec<_> =
        slowest.map(|took| format!("{:.0} ms at {:.2} s", millis(took), (took.sent - first).as_secs_f64())).collect();
    let (p50, p99, max) = (at(0.5), at(0.99), took.last().map_or(0.0, millis));
    format!(
        "p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms, of the slowest {}, {} in all",
        slowest.join(", "),
        took.len()
    )
}

/// Commits of the database and bytes of WAL so far.
async fn counters(pool: &PgPool) -> anyhow::Result<(i64, i64)> {
    // What sessions count is told at most every second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let sql = "SELECT xact_commit, (pg_current_wal_lsn() - '0/0')::bigint FROM pg_stat_database \
               WHERE datname = current_database()";
    Ok(query_as(sql).fetch_one(pool).await?)
}

/// Publishes in as many lanes as a hub has, `slice` at a time, as fast as it goes or at a rate.
async fn publish(
    store: &PostgresStore,
    origin: Instant,
    retention: Option<Retention>,
    slice: usize,
    rate: Option<u32>,
) -> anyhow::Result<usize> {
    in_lanes(rate, async |lane| send(store, origin, lane, retention, slice).await).await
}

/// Publishes one slice.
async fn send(
    store: &PostgresStore,
    origin: Instant,
    lane: usize,
    retention: Option<Retention>,
    slice: usize,
) -> anyhow::Result<usize> {
    let event = || Arc::new(Event::message(Payload::text(stamp(origin))));
    let one = || Publication { topic: topic(lane), event: event(), retention, key: None };
    let slice: Vec<_> = (0..slice).map(|_| one()).collect();
    for answer in store.publish(&slice).await {
        answer?;
    }
    Ok(slice.len())
}

/// For a while; answers what all calls answered, summed up.
async fn in_lanes(rate: Option<u32>, call: impl AsyncFn(usize) -> anyhow::Result<usize>) -> anyhow::Result<usize> {
    let call = &call;
    let begin = tokio::time::Instant::now();
    let lanes = (0..LANES).map(|lane| async move {
        // Lanes take turns.
        let every = rate.map(|rate| Duration::from_secs(1) * LANES as u32 / rate);
        let first = begin + every.unwrap_or_default() * lane as u32 / LANES as u32;
        let mut ticks = every.map(|every| tokio::time::interval_at(first, every));
        let mut done = 0;
        while begin.elapsed() < TIME {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            done += call(lane).await?;
        }
        anyhow::Ok(done)
    });
    join_all(lanes).await.into_iter().sum()
}

fn topic(lane: usize) -> Topic {
    Topic::new(format!("t{lane}")).expect("a good name")
}

/// A publishing process and a hearing one.
struct Fleet {
    publisher: PostgresStore,
    hearer: PostgresStore,
    bus: Arc<dyn BusNode>,
    times: Arc<Times>,
}

impl Fleet {
    async fn start(url: &str) -> anyhow::Result<Self> {
        let config =
            || Ok::<_, anyhow::Error>(PostgresConfig::from_url(url)?.schema(SCHEMA)?.connections(LANES as u32));
        let (publisher, hearer) = (PostgresStore::new(config()?), PostgresStore::new(config()?));
        let times = Arc::new(Times { origin: Instant::now(), took: Mutex::default() });
        let bus: Arc<dyn BusNode> = hearer.start(&NodeId::unique(), times.clone()).await?;
        bus.interest(&(0..LANES).map(topic).collect::<Vec<_>>(), &[]).await?;
        let fleet = Self { publisher, hearer, bus, times };
        // Opening connections is not what is measured, nor is the first call on each: Postgres plans a function's
        // statements for each connection, the first time that they run.
        for retention in [None, Some(KEEP), None, Some(KEEP), None] {
            let each =
                (0..LANES).map(|lane| {
                    let event = Arc::new(Event::message(Payload::text("")));
                    let publisher = &fleet.publisher;
                    async move {
                        publisher.publish(&[Publication { topic: topic(lane), event, retention, key: None }]).await
                    }
                });
            join_all(each).await.into_iter().flatten().collect::<Result<Vec<_>, _>>()?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(fleet)
    }

    async fn publish(&self, retention: Option<Retention>, slice: usize, rate: Option<u32>) -> anyhow::Result<usize> {
        publish(&self.publisher, self.times.origin, retention, slice, rate).await
    }

    fn took(&self) -> Vec<Took> {
        std::mem::take(&mut *self.times.took.lock())
    }

    async fn end(self) {
        self.bus.stop().await;
        self.publisher.close().await;
        self.hearer.close().await;
    }
}

/// What somebody hears of `NOTIFY` with the payload in each.
struct Notified {
    origin: Instant,
    took: Arc<Mutex<Vec<Took>>>,
    listening: tokio::task::JoinHandle<()>,
}

impl Notified {
    /// With connections that have been used, as a fleet's have.
    async fn start(url: &str, pool: &PgPool) -> anyhow::Result<Self> {
        let origin = Instant::now();
        let mut listener = PgListener::connect(url).await?;
        listener.listen("measure").await?;
        let took: Arc<Mutex<Vec<Took>>> = Arc::default();
        let heard = Arc::clone(&took);
        let listening = tokio::spawn(async move {
            while let Ok(notification) = listener.recv().await {
                heard.lock().extend(age(origin.elapsed(), notification.payload().as_bytes()));
            }
        });
        let notified = Self { origin, took, listening };
        for _ in 0..5 {
            let each = (0..LANES).map(|_| query("SELECT pg_notify('measure', '')").execute(pool));
            join_all(each).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        notified.took();
        Ok(notified)
    }

    async fn send(&self, pool: &PgPool, rate: Option<u32>) -> anyhow::Result<usize> {
        in_lanes(rate, async |_| {
            query("SELECT pg_notify('measure', $1)").bind(stamp(self.origin)).execute(pool).await?;
            Ok(1)
        })
        .await
    }

    fn took(&self) -> Vec<Took> {
        std::mem::take(&mut *self.took.lock())
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What came of so many events: how long they took, and what they cost.
async fn told(
    pool: &PgPool,
    name: &str,
    before: (i64, i64),
    events: usize,
    took: impl FnOnce() -> Vec<Took>,
) -> anyhow::Result<()> {
    // Meanwhile the last ones come.
    let after = counters(pool).await?;
    let each = |count: i64| count as f64 / events as f64;
    say(format_args!(
        "{name}: {:.0}/s, {}, {:.2} commits and {:.0} bytes of WAL each",
        events as f64 / TIME.as_secs_f64(),
        percentiles(took()),
        each(after.0 - before.0),
        each(after.1 - before.1),
    ));
    Ok(())
}

async fn sizes(pool: &PgPool) -> anyhow::Result<Vec<(String, i64)>> {
    // Partitions as one.
    let sql = "SELECT regexp_replace(relname, '_[0-3]$', ''), sum(pg_total_relation_size(c.oid))::bigint \
               FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
               WHERE nspname = $1 AND relkind = 'r' GROUP BY 1 ORDER BY 2 DESC LIMIT 6";
    Ok(query_as(sql).bind(SCHEMA).fetch_all(pool).await?)
}

/// Transactions of somebody else.
async fn bench(url: &str) -> anyhow::Result<f64> {
    let mut command = Command::new("pgbench");
    command.args(["-n", "-N", "-c", "4", "-T", &TIME.as_secs().to_string(), url]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("tps = ")).context("pgbench told no rate")?;
    Ok(line.split(' ').next().unwrap_or_default().parse()?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("give the URL of a database that nobody needs")?;
    let what = arguments.next();
    let mut number = |missing| Ok::<u32, anyhow::Error>(arguments.next().context(missing)?.parse()?);
    let pool = PgPoolOptions::new().max_connections(LANES as u32).connect(&url).await?;
    let drop = || AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"));
    query(drop()).execute(&pool).await?;
    match what.as_deref() {
        None => speed::run(&url, &pool).await?,
        Some("bystander") => bystander::run(&url, &pool).await?,
        Some("outbox") => outbox::run(&url, &pool).await?,
        Some("steady") => steady::run(&url, number("what rate?")?, number("for how many minutes?")?).await?,
        Some("bloat") => bloat::run(&url, &pool, number("for how many minutes?")?).await?,
        Some(_) => anyhow::bail!("measure what? bystander, outbox, steady or bloat"),
    }
    query(drop()).execute(&pool).await?;
    Ok(())
}
