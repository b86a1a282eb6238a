//! The health of a store, by the outcome of its calls.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{Histogram, Label};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::operation::Operation;
use super::outage::{Channel, Outages, Refuses};
use crate::store::{StoreError, StoreErrorKind};

/// Counts, measures and logs. A call that succeeds takes no lock while no call has failed.
pub(crate) struct StoreHealth {
    /// The duration of calls, by operation; empty if they are not measured.
    calls: Vec<Histogram>,
    /// A call has failed, and the trouble may go on.
    troubled: AtomicBool,
    outages: Mutex<Outages>,
}

impl fmt::Debug for StoreHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreHealth").field("outages", &self.outages).finish_non_exhaustive()
    }
}

impl StoreHealth {
    /// For a store that is not observed.
    pub(super) fn unknown() -> Self {
        Self { calls: Vec::new(), troubled: AtomicBool::new(false), outages: Mutex::new(Outages::new()) }
    }

    pub(super) fn observed() -> Self {
        let label = |operation: &Operation| [Label::from_static_parts("operation", operation.name())];
        let histogram = |operation| metrics::histogram!("strait_store_call_seconds", label(operation).iter());
        Self { calls: Operation::ALL.iter().map(histogram).collect(), ..Self::unknown() }
    }

    pub(super) fn took(&self, operation: Operation, time: Duration) {
        if let Some(histogram) = self.calls.get(operation as usize) {
            histogram.record(time.as_secs_f64());
        }
    }

    /// A conflict is an answer: the store works.
    pub(super) fn failed(&self, operation: Operation, error: &StoreError) {
        count(operation, error.kind.label());
        if error.kind == StoreErrorKind::Conflict {
            self.succeeded(operation);
            return;
        }
        let line = {
            let mut outages = self.outages.lock();
            self.troubled.store(true, Ordering::Release);
            outages.failed(operation, error.kind, Instant::now())
        };
        if let Some(failed) = line {
            let (operation, kind) = (operation.name(), error.kind.label());
            tracing::warn!(operation, kind, failed, error = %error.in_full(), "the store fails an operation");
        }
    }

    pub(super) fn succeeded(&self, operation: Operation) {
        if self.troubled.load(Ordering::Acquire) {
            let over = {
                let mut outages = self.outages.lock();
                let over = outages.succeeded(operation, Instant::now());
                // Store the flag under the lock: a failure that comes now sets it again.
                self.troubled.store(outages.has_trouble(), Ordering::Release);
                over
            };
            if let Some(outage) = over {
                outage.log();
            }
        }
    }

    fn channels(&self, what: Channel, count: usize) {
        if count > 0 && self.troubled.load(Ordering::Acquire) {
            self.outages.lock().channels(what, count, Instant::now());
        }
    }

    pub(super) fn attached_anew(&self) {
        self.channels(Channel::Attached, 1);
    }

    pub(super) fn ended(&self, count: usize) {
        self.channels(Channel::Ended, count);
    }

    /// Channels without a record are being closed.
    pub(crate) fn closed(&self, count: usize) {
        self.channels(Channel::Closed, count);
    }

    /// The store's refusal of all writes, if it has lasted for some seconds.
    pub(crate) fn refuses(&self) -> Option<Refuses> {
        if self.troubled.load(Ordering::Acquire) { self.outages.lock().refuses(Instant::now()) } else { None }
    }
}

/// The caller no longer waits for its call: it had a time limit of its own, or went away.
pub(super) fn given_up(operation: Operation) {
    count(operation, "given_up");
}

fn count(operation: Operation, kind: &'static str) {
    metrics::counter!("strait_store_errors_total", "operation" => operation.name(), "kind" => kind).increment(1);
}
