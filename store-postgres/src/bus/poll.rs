//! The poller of a node: reads the events that have become visible since its last snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use strait_core::Topic;
use strait_core::store::StoreError;
use tokio::time::{sleep, timeout};

use super::mail::{self, Item};
use super::node::{Node, PLACE};
use super::resync::resync;
use crate::config::PostgresConfig;
use crate::database::{Lane, Values};
use crate::store::PostgresStore;
use crate::values::{Read, event, get, millis, name, position, unsigned};

/// Two polls must be less than ten seconds apart: a sealed slot of the feed is closed after that time, and events
/// could be missed.
const LONGEST_PAUSE: Duration = Duration::from_secs(9);
/// The base of the pause while all waiting events are locked; each further blocked turn doubles it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause between polls that fail.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The end of a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    snapshot: String,
    /// The first transaction beyond the snapshot.
    next: u64,
    /// The database's clock in microseconds.
    at: u64,
    /// The time of the server's start.
    born: u64,
    /// The open slots of the feed, a bit each.
    open: u32,
}

/// A poll's result, apart from events.
pub(super) struct Found {
    pub(super) mark: Mark,
    is_on: bool,
    waiting: bool,
}

impl Mark {
    fn read(row: &PgRow) -> Read<Self> {
        let snapshot: String = get(row, "snapshot")?;
        let next = snapshot.split(':').nth(1).and_then(|next| next.parse().ok()).unwrap_or(0);
        let open = get::<i32>(row, "open")?.unsigned_abs();
        Ok(Self { snapshot, next, at: unsigned(row, "at")?, born: unsigned(row, "born")?, open })
    }

    /// Whether all events since an older mark were still there to be read.
    fn continues(&self, before: &Mark) -> bool {
        // After a clock was set back the time says nothing.
        let pause = self.at.checked_sub(before.at).map(Duration::from_micros);
        self.born == before.born && self.next >= before.next && pause.is_some_and(|pause| pause < LONGEST_PAUSE)
    }
}

/// A node's progress in the feed.
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
    let mut blocked: u32 = 0;
    while !node.stopped.load(Ordering::Acquire) {
        let began = Instant::now();
        match turn(&store, &node, &mut progress).await {
            Ok(sequenced) => {
                failures = 0;
                blocked = if sequenced == Sequenced::Blocked { blocked + 1 } else { 0 };
                // The next poll reads events that are published meanwhile.
                sleep(config.debounce.saturating_sub(began.elapsed())).await;
                if sequenced != Sequenced::Something {
                    // A time-out polls just as a wake-up does.
                    let _ = timeout(pause(config, blocked), node.wake.notified()).await;
                }
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(error = %error.in_full(), "a node is deaf, it polls on");
                }
                let wait = config.poll.saturating_mul(1 << failures.min(6)).min(LONGEST_WAIT);
                sleep(wait).await;
            }
        }
    }
}

/// The result of a look into the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sequenced {
    /// Nothing waits, or the look failed.
    Nothing,
    /// Events were sequenced: the next poll finds them.
    Something,
    /// All waiting events belong to topics that another transaction has locked.
    Blocked,
}

/// The pause before the next poll after this many blocked turns. It grows, so that a long-held lock does not keep all
/// nodes busy.
fn pause(config: &PostgresConfig, blocked: u32) -> Duration {
    if blocked == 0 {
        return config.poll;
    }
    SHORTEST_PAUSE.max(config.debounce).saturating_mul(1 << blocked.min(16)).min(config.poll)
}

/// One poll, and the work that it leads to.
async fn turn(store: &PostgresStore, node: &Arc<Node>, progress: &mut Progress) -> Result<Sequenced, StoreError> {
    let mut asked = progress.mark.open;
    let found = loop {
        let found = poll(store, node, Some((&progress.mark, asked))).await?;
        if found.mark.open & !asked == 0 {
            break found;
        }
        // A slot was emptied and reopened meanwhile, and may hold new events.
        asked = found.mark.open;
    };
    take_mail(store, node).await;
    end_unwanted(store, node).await;
    progress.is_whole &= found.is_on && found.mark.continues(&progress.mark);
    progress.mark = found.mark;
    if !progress.is_whole {
        node.pulse.lock().is_sound = false;
        resync(store, node, found.is_on).await?;
        progress.is_whole = true;
        if let Some(hearing) = node.hearing() {
            hearing.sink.reconnected();
        }
    }
    node.has_heard();
    if !found.waiting {
        return Ok(Sequenced::Nothing);
    }
    Ok(sequence(store, node).await.unwrap_or_else(|error| {
        tracing::warn!(error = %error.in_full(), "what transactions have published waits to be sequenced");
        Sequenced::Nothing
    }))
}

/// Deletes taken commands from the mailbox. A command that stays there is not taken again.
async fn take_mail(store: &PostgresStore, node: &Node) {
    let taken: Vec<i64> = node.taken.lock().iter().copied().collect();
    let Some(registration) = node.registration().filter(|_| !taken.is_empty()) else { return };
    let values = Values::new().with(registration.number).with(&taken);
    match store.rows("take_mail", Lane::Vital, &store.inner.sql.take_mail, values).await {
        Ok(_) => node.taken.lock().retain(|seq| !taken.contains(seq)),
        Err(error) => tracing::debug!(error = %error.in_full(), "a mailbox could not be emptied, trying again"),
    }
}

/// Ends interest that a late call has begun, or that a failed call has not ended.
async fn end_unwanted(store: &PostgresStore, node: &Node) {
    let unwanted = node.hearing().and_then(|mut hearing| Some((hearing.registration.number, hearing.unwanted()?)));
    let Some((number, (topics, asked))) = unwanted else { return };
    let values = Values::new().with(number).with(&topics).with(asked);
    match store.rows("unhear", Lane::Vital, &store.inner.sql.unhear, values).await {
        Ok(_) => {
            if let Some(mut hearing) = node.hearing() {
                hearing.has_ended(&topics);
            }
        }
        Err(error) => {
            tracing::debug!(error = %error.in_full(), "interest that nobody has could not be ended, trying again");
        }
    }
}

/// Reads the new rows of slots since a mark, or only the present mark.
pub(super) async fn poll(store: &PostgresStore, node: &Node, since: Option<(&Mark, u32)>) -> Result<Found, StoreError> {
    let Some(registration) = node.registration() else { return Err(super::left("poll")) };
    store.connect().await?;
    let (since, slots) = since.map_or((None, 0), |(since, slots)| (Some(&*since.snapshot), slots));
    let values = Values::new().with(registration.number).with(since).with(&registration.id);
    let mut first: Option<Read<Found>> = None;
    let mut mail = Vec::new();
    let mut broken = None;
    let mut lag = None;
    let began = Instant::now();
    let mut take = |row: PgRow| {
        if first.is_none() {
            first = Some(head(&row));
        } else if broken.is_none() {
            let now = first.as_ref().and_then(|found| Some(found.as_ref().ok()?.mark.at));
            match hear_row(node, &row, now.unwrap_or(0), &mut mail) {
                Ok(age) => lag = lag.max(Some(age)),
                Err(error) => broken = Some(error),
            }
        }
    };
    let polled = store.inner.database.stream("poll", Lane::Vital, store.inner.sql.poll(slots), values, &mut take).await;
    polled.inspect_err(|failure| store.inner.ready.doubt(failure))?;
    let found = store.read(
        "poll",
        broken
            .map_or(Ok(()), Err)
            .and_then(|()| first.unwrap_or_else(|| Err(crate::values::corrupt("a poll without an answer")))),
    )?;
    if let Some(hearing) = node.hearing() {
        let mut taken = node.taken.lock();
        let new = mail.into_iter().filter(|item| taken.insert(item.seq));
        new.filter_map(|item| item.command).for_each(|command| hearing.sink.command(command));
    }
    let lag = lag.unwrap_or_else(|| began.elapsed());
    metrics::gauge!("strait_bus_lag_seconds").set(lag.as_secs_f64());
    node.pulse.lock().lag = Some(lag);
    Ok(found)
}

fn head(row: &PgRow) -> Read<Found> {
    Ok(Found { mark: Mark::read(row)?, is_on: get(row, "is_on")?, waiting: get(row, "waiting")? })
}

/// Takes one row; returns its age.
fn hear_row(node: &Node, row: &PgRow, now: u64, mail: &mut Vec<Item>) -> Read<Duration> {
    match mail::item(row)? {
        Some(item) => mail.push(item),
        None => {
            let (topic, position) = (get(row, "topic")?, position(row, "epoch", "number", "mark")?);
            let event = event(row, "");
            if let Some(mut hearing) = node.hearing() {
                match event {
                    Ok(event) => hearing.event(topic, position, Arc::new(event)),
                    Err(error) => hearing.unreadable(topic, position, &error),
                }
            }
        }
    }
    Ok(Duration::from_micros(now.saturating_sub(unsigned(row, "at")?)))
}

/// Sequences the waiting events of the outbox.
async fn sequence(store: &PostgresStore, node: &Node) -> Result<Sequenced, StoreError> {
    let values = Values::new().with(store.inner.nodes.numbers());
    let row = store.one("sequence", Lane::Vital, &store.inner.sql.sequence, values).await?;
    let answer = || Ok((get(&row, "o_wake")?, get(&row, "o_done")?, get(&row, "o_more")?));
    let (wake, done, more): (bool, bool, bool) = store.read("sequence", answer())?;
    let relay = get::<Vec<String>>(&row, "o_relay");
    let relay: Vec<Topic> = store.read("sequence", relay.and_then(|names| names.into_iter().map(name).collect()))?;
    if wake {
        store.inner.waker.wake();
    }
    if done {
        store.inner.nodes.wake_all();
    }
    let sink = node.hearing().map(|hearing| Arc::clone(&hearing.sink));
    if let Some(sink) = sink.filter(|_| !relay.is_empty()) {
        sink.relay(&relay);
    }
    if let Some(reason) = store.read("sequence", get::<Option<String>>(&row, "o_broken"))? {
        node.tell_broken(reason);
    }
    Ok(if done || more { Sequenced::Something } else { Sequenced::Blocked })
}

/// Renews the node's place on the bus, and does the node's share of the sweeping.
pub(super) async fn keep(store: PostgresStore, node: Arc<Node>) {
    let pause = PLACE / 10;
    while !node.stopped.load(Ordering::Acquire) {
        sleep(pause).await;
        let Some(registration) = node.registration() else { return };
        // The task may have ended with its runtime.
        store.inner.listening.begin(&store);
        let values = Values::new().with(registration.number).with(&registration.id).with(millis(PLACE));
        let kept = store.value::<bool>("beat", Lane::Vital, &store.inner.sql.beat_bus, values).await;
        let swept = match kept {
            Ok(_) => store.sweep().await,
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::debug!(error = %error.in_full(), "a node could not keep its place on the bus");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_continues_another_one_by_a_clock_that_went_on_for_a_while() {
        const SECOND: u64 = 1_000_000;
        let mark = |at: u64, born: u64| Mark { snapshot: "7:7:".to_owned(), next: 7, at: at * SECOND, born, open: 1 };
        let before = mark(100, 1);
        for (after, continues) in [
            (mark(100, 1), true),
            (mark(108, 1), true),
            (mark(109, 1), false),
            (mark(99, 1), false),
            (mark(101, 2), false),
        ] {
            assert_eq!(after.continues(&before), continues, "{after:?}");
        }
    }
}
