//! One poller a node: reads what has become visible since its last snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use strait_core::store::{Command, StoreError};
use tokio::time::{sleep, timeout};

use super::mail;
use super::node::{Node, PLACE};
use super::resync::resync;
use crate::database::{Lane, Values};
use crate::store::PostgresStore;
use crate::values::{Read, event, get, millis, position, unsigned};

/// Between two polls less must pass than the ten seconds that a slot of the feed surely stays, or something may be
/// missing.
const LONGEST_PAUSE: Duration = Duration::from_secs(9);
/// The longest pause between polls that fail.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Where a poll left off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    snapshot: String,
    /// The first transaction that the snapshot does not know of.
    next: u64,
    /// Microseconds by the database's clock.
    at: u64,
    /// When the server was started.
    born: u64,
}

/// What a poll found beside events.
pub(super) struct Found {
    pub(super) mark: Mark,
    is_on: bool,
    waiting: bool,
}

impl Mark {
    fn read(row: &PgRow) -> Read<Self> {
        let snapshot: String = get(row, "snapshot")?;
        let next = snapshot.split(':').nth(1).and_then(|next| next.parse().ok()).unwrap_or(0);
        Ok(Self { snapshot, next, at: unsigned(row, "at")?, born: unsigned(row, "born")? })
    }

    /// Whether everything that came since an older mark was still there to be read.
    fn continues(&self, before: &Mark) -> bool {
        let pause = Duration::from_micros(self.at.saturating_sub(before.at));
        self.born == before.born && self.next >= before.next && pause < LONGEST_PAUSE
    }
}

/// How far a node has read.
struct Progress {
    mark: Mark,
    /// Nothing is missing before the mark.
    is_whole: bool,
}

/// Polls until the node leaves.
pub(super) async fn run(store: PostgresStore, node: Arc<Node>, from: Mark) {
    let config = &store.inner.config;
    let mut progress = Progress { mark: from, is_whole: true };
    let mut failures: u32 = 0;
    while !node.stopped.load(Ordering::Acquire) {
        let began = Instant::now();
        match turn(&store, &node, &mut progress).await {
            Ok(again) => {
                failures = 0;
                // Whoever publishes meanwhile is read with the next poll.
                sleep(config.debounce.saturating_sub(began.elapsed())).await;
                if !again {
                    // Late is as good as woken.
                    let _ = timeout(config.poll, node.wake.notified()).await;
                }
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(error = %error, "a node is deaf, it polls on");
                }
                let wait = config.poll.saturating_mul(1 << failures.min(6)).min(LONGEST_WAIT);
                sleep(wait).await;
            }
        }
    }
}

/// One poll, and what follows from it. Answers whether the next one is due at once.
async fn turn(store: &PostgresStore, node: &Arc<Node>, progress: &mut Progress) -> Result<bool, StoreError> {
    let found = poll(store, node, Some(&progress.mark)).await?;
    progress.is_whole &= found.is_on && found.mark.continues(&progress.mark);
    progress.mark = found.mark;
    if !progress.is_whole {
        node.pulse.lock().is_sound = false;
        resync(store, node, found.is_on).await?;
        progress.is_whole = true;
    }
    node.has_heard();
    let again = found.waiting
        && sequence(store).await.unwrap_or_else(|error| {
            tracing::warn!(error = %error, "what transactions have published waits to be sequenced");
            false
        });
    Ok(again)
}

/// Reads what is new since a mark, or only where things stand now.
pub(super) async fn poll(store: &PostgresStore, node: &Node, since: Option<&Mark>) -> Result<Found, StoreError> {
    let Some(registration) = node.registration() else { return Err(super::left("poll")) };
    let values =
        Values::new().with(registration.number).with(since.map(|since| since.snapshot.as_str())).with(&registration.id);
    let mut first: Option<Read<Found>> = None;
    let mut commands = Vec::new();
    let mut broken = None;
    let mut lag = None;
    let began = Instant::now();
    let mut take = |row: PgRow| {
        if first.is_none() {
            first = Some(head(&row));
        } else if broken.is_none() {
            let now = first.as_ref().and_then(|found| Some(found.as_ref().ok()?.mark.at));
            match hear_row(node, &row, now.unwrap_or(0), &mut commands) {
                Ok(age) => lag = lag.max(Some(age)),
                Err(error) => broken = Some(error),
            }
        }
    };
    store.inner.database.stream("poll", Lane::Vital, &store.inner.sql.poll, values, &mut take).await?;
    let found = store.read(
        "poll",
        broken
            .map_or(Ok(()), Err)
            .and_then(|()| first.unwrap_or_else(|| Err(crate::values::corrupt("a poll without an answer")))),
    )?;
    // A poll that broke off is made again: events are known by their offsets, commands are not.
    if let Some(hearing) = node.hearing() {
        commands.into_iter().for_each(|command| hearing.sink.command(command));
    }
    let lag = lag.unwrap_or_else(|| began.elapsed());
    metrics::gauge!("strait_bus_lag_seconds").set(lag.as_secs_f64());
    node.pulse.lock().lag = Some(lag);
    Ok(found)
}

fn head(row: &PgRow) -> Read<Found> {
    Ok(Found { mark: Mark::read(row)?, is_on: get(row, "is_on")?, waiting: get(row, "waiting")? })
}

/// Takes one row; tells how old it is.
fn hear_row(node: &Node, row: &PgRow, now: u64, commands: &mut Vec<Command>) -> Read<Duration> {
    match mail::command(row)? {
        Some(command) => commands.push(command),
        None => {
            let position = position(row, "epoch", "number", "mark")?;
            let event = Arc::new(event(row, "")?);
            if let Some(mut hearing) = node.hearing() {
                hearing.event(get(row, "topic")?, position, event);
            }
        }
    }
    Ok(Duration::from_micros(now.saturating_sub(unsigned(row, "at")?)))
}

/// Gives what waits in the outbox its place; tells whether the next poll is due at once.
async fn sequence(store: &PostgresStore) -> Result<bool, StoreError> {
    let values = Values::new().with(store.inner.nodes.numbers());
    let row = store.one("sequence", Lane::Vital, &store.inner.sql.sequence, values).await?;
    if store.read("sequence", get(&row, "o_wake"))? {
        store.inner.waker.wake();
    }
    store.inner.nodes.wake_all();
    Ok(true)
}

/// Keeps the node's place on the bus, and does its part of the sweeping.
pub(super) async fn keep(store: PostgresStore, node: Arc<Node>) {
    let pause = PLACE / 10;
    while !node.stopped.load(Ordering::Acquire) {
        sleep(pause).await;
        let Some(registration) = node.registration() else { return };
        let values = Values::new().with(registration.number).with(&registration.id).with(millis(PLACE));
        let kept = store.value::<bool>("beat", Lane::Vital, &store.inner.sql.beat_bus, values).await;
        let swept = match kept {
            Ok(_) => store.sweep().await,
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::debug!(error = %error, "a node could not keep its place on the bus");
        }
    }
}
