//! Outages of a store, from the first failed call until all operations work again: the log lines and their times. No
//! code here reads a clock.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::operation::Operation;
use crate::store::StoreErrorKind;

/// An outage is over after this long without a failure and without a channel that was attached again.
const QUIET: Duration = Duration::from_secs(5);
/// Two lines about one operation are this far apart.
const APART: Duration = Duration::from_secs(10);
/// The interval of log lines while an operation keeps failing in the same way.
const REMINDER: Duration = Duration::from_secs(60);
/// An operation without a call for this long counts as working.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// A store that has refused all writes for this long is not ready…
const REFUSED: Duration = Duration::from_secs(5);
/// …until none was refused for this long: without clients, no call would show that it takes them again.
const RECENT: Duration = Duration::from_secs(10);

/// The known failures of a store.
#[derive(Debug)]
pub(super) struct Outages {
    operations: Vec<State>,
    outage: Option<Outage>,
    writes: Option<Refused>,
}

/// One operation's state.
#[derive(Debug, Default)]
struct State {
    failing: Option<Failing>,
    last_line: Option<Instant>,
    /// Failures since the last line.
    unsaid: u64,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    kind: StoreErrorKind,
    at: Instant,
    /// A line has reported this state.
    said: bool,
}

#[derive(Debug)]
pub(super) struct Outage {
    began: Instant,
    /// The last failure, or the last channel that was attached again.
    last_trouble: Instant,
    /// The time at which the last failed operation worked again, or failed.
    ended: Instant,
    failures: u64,
    operations: Vec<Operation>,
    channels: Channels,
}

/// The channels that an outage affected.
#[derive(Debug, Default)]
struct Channels {
    attached: usize,
    closed: usize,
    ended: usize,
}

/// All writes since `since` were refused.
#[derive(Debug, Clone, Copy)]
struct Refused {
    since: Instant,
    last: Instant,
    first: Operation,
    /// Another operation than the first was refused as well: one locked row would not do that.
    several: bool,
}

/// The outage's effect on a channel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Channel {
    Attached,
    Closed,
    Ended,
}

impl Outages {
    pub(super) fn new() -> Self {
        let operations = Operation::ALL.iter().map(|_| State::default()).collect();
        Self { operations, outage: None, writes: None }
    }

    /// Records a failed call. Returns the number of failures for a log line, if one is due.
    pub(super) fn failed(&mut self, operation: Operation, kind: StoreErrorKind, now: Instant) -> Option<u64> {
        let line = self.operations[operation as usize].failed(kind, now);
        // Unreadable data is no outage.
        if kind == StoreErrorKind::Corrupt {
            return line;
        }
        let outage = self.outage.get_or_insert_with(|| Outage::new(now));
        outage.failures += 1;
        (outage.last_trouble, outage.ended) = (now, now);
        if !outage.operations.contains(&operation) {
            outage.operations.push(operation);
        }
        if operation.is_write() {
            let before = self.writes.filter(|writes| now - writes.last < RECENT);
            let before = before.unwrap_or(Refused { since: now, last: now, first: operation, several: false });
            self.writes = Some(Refused { last: now, several: before.several || before.first != operation, ..before });
        }
        line
    }

    /// Records an answered call. Returns the outage if it is over now.
    pub(super) fn succeeded(&mut self, operation: Operation, now: Instant) -> Option<Outage> {
        let worked_again = self.operations[operation as usize].failing.take().is_some();
        if operation.is_write() {
            self.writes = None;
        }
        if let Some(outage) = &mut self.outage
            && worked_again
        {
            outage.ended = now;
        }
        self.end(now)
    }

    /// Whether an operation fails, or an outage is not over.
    pub(super) fn has_trouble(&self) -> bool {
        self.outage.is_some() || self.operations.iter().any(|state| state.failing.is_some())
    }

    pub(super) fn channels(&mut self, what: Channel, count: usize, now: Instant) {
        let Some(outage) = &mut self.outage else { return };
        let counter = match what {
            Channel::Attached => {
                outage.last_trouble = now;
                &mut outage.channels.attached
            }
            Channel::Closed => &mut outage.channels.closed,
            Channel::Ended => &mut outage.channels.ended,
        };
        *counter += count;
    }

    fn end(&mut self, now: Instant) -> Option<Outage> {
        for state in &mut self.operations {
            if state.failing.is_some_and(|failing| now - failing.at >= FORGOTTEN) {
                state.failing = None;
            }
        }
        let failing = |state: &State| state.failing.is_some_and(|failing| failing.kind != StoreErrorKind::Corrupt);
        if self.operations.iter().any(failing) {
            return None;
        }
        self.outage.take_if(|outage| now - outage.last_trouble >= QUIET)
    }

    /// The refusal of all writes, if it makes the store not ready.
    pub(super) fn refuses(&self, now: Instant) -> Option<Refuses> {
        let refuses =
            |writes: &Refused| writes.several && writes.last - writes.since >= REFUSED && now - writes.last < RECENT;
        let refused = self.writes.filter(refuses)?;
        let states = Operation::ALL.iter().zip(&self.operations);
        let failing = states.filter_map(|(operation, state)| Some((*operation, state.failing?.kind)));
        Some(Refuses { operations: failing.collect(), since: now - refused.since })
    }
}

impl State {
    fn failed(&mut self, kind: StoreErrorKind, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        let said = self.failing.is_some_and(|failing| failing.said && failing.kind == kind);
        let apart = if said { REMINDER } else { APART };
        let line = self.last_line.is_none_or(|last| now - last >= apart);
        self.failing = Some(Failing { kind, at: now, said: said || line });
        if !line {
            return None;
        }
        self.last_line = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl Outage {
    fn new(now: Instant) -> Self {
        let (failures, operations, channels) = (0, Vec::new(), Channels::default());
        Self { began: now, last_trouble: now, ended: now, failures, operations, channels }
    }

    pub(super) fn log(&self) {
        let operations: Vec<&str> = self.operations.iter().map(|operation| operation.name()).collect();
        tracing::info!(
            seconds = (self.ended - self.began).as_secs_f64(),
            failed = self.failures,
            operations = operations.join(", "),
            attached_anew = self.channels.attached,
            closed = self.channels.closed,
            ended = self.channels.ended,
            "the store works again"
        );
    }
}

/// A store that refuses all writes: the failing operations, their errors, and the duration.
#[derive(Debug)]
pub(crate) struct Refuses {
    operations: Vec<(Operation, StoreErrorKind)>,
    since: Duration,
}

impl fmt::Display for Refuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store has refused all writes for {} s", self.since.as_secs())?;
        for (at, (operation, kind)) in self.operations.iter().enumerate() {
            write!(f, "{}{} ({})", if at == 0 { ": " } else { ", " }, operation.name(), kind.label())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::StoreErrorKind::{Corrupt, Timeout, Unavailable};
    use super::*;

    fn start() -> (Outages, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Outages::new(), move |seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn an_operation_is_told_of_once_and_again_when_it_fails_otherwise() {
        let (mut outages, at) = start();
        assert_eq!(outages.failed(Operation::Publish, Unavailable, at(0)), Some(1));
        assert_eq!(outages.failed(Operation::Publish, Unavailable, at(30)), None);
        assert_eq!(outages.failed(Operation::Open, Unavailable, at(30)), Some(1), "another operation");
        assert_eq!(outages.failed(Operation::Publish, Timeout, at(31)), Some(2), "another kind");
        assert_eq!(outages.failed(Operation::Publish, Timeout, at(90)), None);
        assert_eq!(outages.failed(Operation::Publish, Timeout, at(91)), Some(2), "a reminder");
    }

    #[test]
    fn an_operation_that_comes_and_goes_is_told_of_every_ten_seconds() {
        let (mut outages, at) = start();
        let lines = (0..60).filter_map(|second| {
            let line = outages.failed(Operation::Publish, Unavailable, at(second));
            outages.succeeded(Operation::Publish, at(second));
            line
        });
        assert_eq!(lines.collect::<Vec<_>>(), [1, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn an_outage_is_over_once_all_operations_work_and_it_is_quiet() {
        let (mut outages, at) = start();
        outages.failed(Operation::Lease, Timeout, at(0));
        outages.failed(Operation::Publish, Unavailable, at(10));
        assert!(outages.succeeded(Operation::Lease, at(20)).is_none(), "publish fails");
        outages.channels(Channel::Attached, 7, at(21));
        outages.channels(Channel::Closed, 2, at(21));
        outages.channels(Channel::Ended, 3, at(21));
        assert!(outages.succeeded(Operation::Publish, at(22)).is_none(), "channels were attached just now");
        assert!(outages.has_trouble());
        let over = outages.succeeded(Operation::Get, at(26)).expect("it is over");
        assert_eq!(over.ended - over.began, Duration::from_secs(22));
        assert_eq!((over.failures, &over.operations[..]), (2, &[Operation::Lease, Operation::Publish][..]));
        assert_eq!((over.channels.attached, over.channels.closed, over.channels.ended), (7, 2, 3));
        assert!(!outages.has_trouble());
        outages.channels(Channel::Ended, 3, at(27));
        assert!(outages.succeeded(Operation::Get, at(60)).is_none());
    }

    #[test]
    fn an_operation_that_nobody_tries_again_does_not_keep_an_outage() {
        let (mut outages, at) = start();
        outages.failed(Operation::History, Unavailable, at(0));
        assert!(outages.succeeded(Operation::Lease, at(59)).is_none());
        assert!(outages.succeeded(Operation::Lease, at(60)).is_some());
    }

    #[test]
    fn data_that_cannot_be_read_is_told_of_and_no_outage() {
        let (mut outages, at) = start();
        assert_eq!(outages.failed(Operation::Publish, Corrupt, at(0)), Some(1));
        assert!(outages.has_trouble());
        assert!(outages.succeeded(Operation::Publish, at(9)).is_none());
        assert!(!outages.has_trouble());
        assert!(outages.refuses(at(9)).is_none());
    }

    #[test]
    fn a_store_that_refuses_all_writes_is_not_ready_until_it_takes_one() {
        let (mut outages, at) = start();
        for second in 0..5 {
            outages.failed(Operation::Publish, Unavailable, at(second));
            assert!(outages.refuses(at(second)).is_none(), "after {second} s");
            // Renewals and reads work.
            outages.succeeded(Operation::Lease, at(second));
        }
        outages.failed(Operation::Open, Timeout, at(5));
        let why = outages.refuses(at(6)).expect("it refuses").to_string();
        assert_eq!(why, "the store has refused all writes for 6 s: open (timeout), publish (unavailable)");
        outages.succeeded(Operation::Subscribe, at(7));
        assert!(outages.refuses(at(7)).is_none());
    }

    #[test]
    fn one_operation_that_is_refused_may_be_one_locked_row() {
        let (mut outages, at) = start();
        for second in 0..60 {
            outages.failed(Operation::Publish, Unavailable, at(second));
            assert!(outages.refuses(at(second)).is_none());
        }
    }

    #[test]
    fn without_clients_a_store_is_tried_again() {
        let (mut outages, at) = start();
        for second in 0..=5 {
            outages.failed(Operation::Publish, Unavailable, at(second));
            outages.failed(Operation::Open, Unavailable, at(second));
        }
        assert!(outages.refuses(at(14)).is_some());
        assert!(outages.refuses(at(15)).is_none(), "nothing was refused for 10 s");
        outages.failed(Operation::Publish, Unavailable, at(16));
        assert!(outages.refuses(at(16)).is_none(), "it counts anew");
    }
}
