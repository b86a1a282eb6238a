//! Limits the number of a node's channels that end at once, and keeps the ends that the store has not taken yet.
//!
//! When thousands of sockets break at once, their ends must not delay the clients that stay or come back. An end needs
//! a place while it asks the store. There are few places, and an end that pauses gives its place up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::EventHub;
use super::ending::{Begun, Unended};
use super::lease::jittered;
use crate::panics::survived;
use crate::store::StoreError;
use crate::throttled::Throttled;

/// Ends that ask the store at once. Fewer than a store has connections, so that living channels find one.
const AT_ONCE: usize = 8;
/// The most ends that wait for the store. The record of a dropped one is found when the node compares its channels.
const MOST_WAITING: usize = 65_536;
/// The most channels of a node that wait to retry `on_disconnect`: each renews its claim meanwhile.
const MOST_PATIENT: usize = 1024;
/// A round of retries stops after this many failures.
const MOST_REFUSED: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The ends of one node.
pub(super) struct Ends {
    places: Arc<Semaphore>,
    patient: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// An end has failed to reach the store in this round: the others wait for the next round.
    is_away: AtomicBool,
    /// Failed ends since the present round began.
    refused: AtomicUsize,
    /// The store took a waiting end since the last round.
    has_taken: AtomicBool,
    pub(super) lines: Lines,
}

/// Log lines about single channels; an outage would produce thousands of them.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) failures: Throttled,
    pub(super) renewals: Throttled,
    pub(super) handlers: Throttled,
    pub(super) interest: Throttled,
    dropped: Throttled,
}

#[derive(Default)]
struct Waiting {
    ends: VecDeque<Unended>,
    /// The number of ends of a round that the store has not answered yet.
    asked: usize,
    /// A task retries them.
    is_tried: bool,
}

/// The right of one end to ask the store.
pub(super) struct Place {
    places: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    /// The janitor claims no more channels than it has room for.
    room: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Waits for a place, unless it has one.
    pub(super) async fn take(&mut self) {
        if self.permit.is_none() {
            // The semaphore is never closed.
            self.permit = Arc::clone(&self.places).acquire_owned().await.ok();
        }
    }

    /// Gives the place up for a pause.
    pub(super) fn leave(&mut self) {
        self.permit = None;
    }

    /// Does the same as [`leave`](Self::leave) for a pause of minutes: the janitor may claim other channels meanwhile.
    pub(super) fn leave_for_long(&mut self) {
        self.leave();
        self.room = None;
    }
}

/// Pauses between retries; each is twice as long as the one before.
pub(super) struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Pauses between attempts to reach the store.
    pub(super) fn for_store() -> Self {
        Self::new(FIRST_PAUSE, LONGEST_PAUSE)
    }

    pub(super) async fn pause(&mut self) {
        sleep(jittered(self.next)).await;
        self.next = (self.next * 2).min(self.longest);
    }
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            patient: Arc::new(Semaphore::new(MOST_PATIENT)),
            waiting: Mutex::default(),
            is_away: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            has_taken: AtomicBool::new(false),
            lines: Lines::default(),
        }
    }
}

impl Ends {
    /// A place that is not taken yet, of a channel for which the janitor has `room`.
    pub(super) fn no_place(&self, room: Option<OwnedSemaphorePermit>) -> Place {
        Place { places: Arc::clone(&self.places), permit: None, room }
    }

    pub(super) async fn place(&self) -> Place {
        let mut place = self.no_place(None);
        place.take().await;
        place
    }

    /// The right to wait for a retry of `on_disconnect`, unless too many wait.
    pub(super) fn wait_patiently(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.patient).try_acquire_owned().ok()
    }

    /// Logs a failed call of an end. `None` is a panic, which is logged elsewhere.
    pub(super) fn failed(&self, op: &str, error: Option<&StoreError>) {
        if let Some(error) = error
            && let Some(count) = self.lines.failures.count()
        {
            tracing::warn!(count, op, error = %error.in_full(), "ends of channels wait for the store");
        }
    }

    /// Whether the store could not be reached in this round.
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    fn next(&self) -> Option<Unended> {
        let mut waiting = self.waiting.lock();
        let next = waiting.ends.pop_front();
        waiting.asked += usize::from(next.is_some());
        next
    }

    fn answered(&self) {
        self.waiting.lock().asked -= 1;
    }

    fn waiting(&self) -> usize {
        self.waiting.lock().ends.len()
    }

    /// Whether no end waits any more: the task that retries them must then end.
    fn is_done(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.is_tried = !waiting.ends.is_empty() || waiting.asked > 0;
        !waiting.is_tried
    }

    fn is_idle(&self) -> bool {
        self.places.available_permits() == AT_ONCE && self.waiting() == 0
    }
}

impl EventHub {
    /// Keeps an end that the store has not taken, and retries it while the node runs.
    pub(super) fn end_later(&self, end: Unended) {
        // Without a runtime the node stops, and its lease ends.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut waiting = self.0.ends.waiting.lock();
        waiting.ends.push_back(end);
        let dropped = if waiting.ends.len() > MOST_WAITING { waiting.ends.pop_front() } else { None };
        if !std::mem::replace(&mut waiting.is_tried, true) {
            runtime.spawn(try_again(self.clone()));
        }
        drop(waiting);
        if dropped.is_some()
            && let Some(count) = self.0.ends.lines.dropped.count()
        {
            tracing::error!(
                count,
                "too many ends of channels wait for the store, some records stay until the node compares"
            );
        }
    }

    /// Waits until all ends are done, for at most `most`.
    pub(super) async fn wait_for_ends(&self, most: Duration) {
        let idle = async {
            while !self.0.ends.is_idle() {
                sleep(FIRST_PAUSE / 2).await;
            }
        };
        let in_time = tokio::time::timeout(most, idle).await.is_ok();
        let channels = self.0.ends.waiting();
        if !in_time && channels > 0 {
            tracing::warn!(channels, "channels that could not be ended are left to other nodes");
        }
    }
}

/// Retries the waiting ends, in rounds, until none is left.
async fn try_again(hub: EventHub) {
    let ends = &hub.0.ends;
    let mut pauses = Pauses::for_store();
    while !ends.is_done() {
        pauses.pause().await;
        ends.is_away.store(false, Ordering::Release);
        ends.refused.store(0, Ordering::Release);
        for _ in 0..ends.waiting() {
            let place = ends.place().await;
            if ends.is_away() {
                break;
            }
            let Some(end) = ends.next() else { break };
            let hub = hub.clone();
            tokio::spawn(async move {
                let begun = ask(&hub, end).await;
                hub.0.ends.answered();
                if let Some((end, begun)) = begun {
                    hub.0.ends.has_taken.store(true, Ordering::Release);
                    end.go_on(begun, place).await;
                }
            });
        }
        if ends.has_taken.swap(false, Ordering::AcqRel) {
            pauses = Pauses::for_store();
        }
    }
}

/// Asks the store to take an end; on a failure the end waits for the next round.
pub(super) async fn ask(hub: &EventHub, mut end: Unended) -> Option<(Unended, Begun)> {
    let ends = &hub.0.ends;
    match survived("ending", end.begin(hub)).await {
        Some(Ok(begun)) => Some((end, begun)),
        failed => {
            let error = failed.and_then(Result::err);
            ends.failed("claim", error.as_ref());
            // A store that refuses this many ends of a round refuses the others as well: a wrong password, for example.
            let refused = ends.refused.fetch_add(1, Ordering::AcqRel) + 1;
            if refused >= MOST_REFUSED || error.is_some_and(|error| error.is_retryable()) {
                ends.is_away.store(true, Ordering::Release);
            }
            hub.end_later(end);
            None
        }
    }
}
