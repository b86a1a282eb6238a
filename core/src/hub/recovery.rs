//! Recovery of a retained topic: the node replays missed events from the store to its members, in order, before later
//! ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::EventHub;
use super::delivery::{deliver, tell_gap};
use super::held::{Budget, Held};
use super::lease::jittered;
use super::members::Members;
use crate::event::{Event, Position};
use crate::panics::survived;
use crate::store::{Replay, StoreError};

/// Events that one replay asks for.
const PAGE: usize = 256;
/// The pause before the next attempt while the store does not answer; it grows with each attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

type Placed = (Position, Arc<Event>);

/// The delivery progress of a retained topic on a node.
pub(super) struct Retained {
    progress: Mutex<Progress>,
    /// The positions at which members joined, by key: a replay skips earlier events for them.
    joined: Mutex<HashMap<u64, Position>>,
}

struct Progress {
    /// The last event that was delivered, or the head when the node began to hear the topic.
    last: Option<Position>,
    /// A task replays missing events; events that arrive meanwhile are held.
    recovering: bool,
    held: Held,
    /// More events may be missing than the replay began with.
    doubted: bool,
}

/// The next step of a recovery.
enum Next {
    Replay(Position),
    Deliver(Vec<Placed>),
    Done,
}

/// Whether `next` comes right after `before`.
fn follows(before: &Position, next: &Position) -> bool {
    before.epoch == next.epoch && before.offset + 1 == next.offset
}

/// Whether an event is at or before `last`.
fn is_over(last: &Position, event: &Position) -> bool {
    last.epoch == event.epoch && event.offset <= last.offset
}

impl Retained {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        let progress = Progress { last: None, recovering: false, held: Held::new(budget), doubted: false };
        Self { progress: Mutex::new(progress), joined: Mutex::default() }
    }

    pub(super) fn begin(&self, head: Position) {
        self.progress.lock().last.get_or_insert(head);
    }

    pub(super) fn joined(&self, key: u64, head: Position) {
        self.joined.lock().insert(key, head);
    }

    pub(super) fn left(&self, key: u64) {
        self.joined.lock().remove(&key);
    }

    /// Keeps the events that are to be delivered now. Returns `true` if the caller must start a replay of missing ones.
    pub(super) fn admit(&self, events: &mut Vec<Placed>, gap: bool) -> bool {
        let mut progress = self.progress.lock();
        if progress.recovering {
            progress.hold(events.drain(..));
            progress.doubted |= gap;
            return false;
        }
        if let Some(last) = progress.last {
            events.retain(|(position, _)| !is_over(&last, position));
        }
        let mut last = progress.last;
        let hole = events.iter().position(|(position, _)| {
            let follows = last.is_none_or(|last| follows(&last, position));
            last = Some(*position);
            !follows
        });
        let later = hole.map_or_else(Vec::new, |at| events.split_off(at));
        if let Some((position, _)) = events.last() {
            progress.last = Some(*position);
        }
        // Without a position there is nowhere to replay from, and no member was to have an event.
        let missing = (hole.is_some() || gap) && progress.last.is_some();
        if missing {
            progress.recovering = true;
            progress.doubted = true;
            progress.hold(later.into_iter());
        }
        missing
    }

    /// Decides under one lock, so that no event slips in between the last look and the end.
    fn next(&self) -> Next {
        let mut progress = self.progress.lock();
        let Some(last) = progress.last else {
            progress.recovering = false;
            return Next::Done;
        };
        if std::mem::take(&mut progress.doubted) {
            return Next::Replay(last);
        }
        progress.drop_delivered();
        let mut ready = Vec::new();
        let mut last = last;
        while progress.held.front().is_some_and(|next| follows(&last, next))
            && let Some(next) = progress.held.pop()
        {
            last = next.0;
            ready.push(next);
        }
        progress.last = Some(last);
        if !ready.is_empty() {
            return Next::Deliver(ready);
        }
        if progress.held.front().is_none() {
            progress.recovering = false;
            return Next::Done;
        }
        Next::Replay(last)
    }

    /// Goes on after a gap notice: with the held events, or from the head.
    fn skip(&self, head: Option<Position>) {
        let mut progress = self.progress.lock();
        progress.drop_delivered();
        let held = progress.held.front().copied();
        let before_held = held.map(|first| Position { offset: first.offset.saturating_sub(1), check: 0, ..first });
        progress.last = before_held.or(head).or(progress.last);
    }

    /// Hands events to the members that had joined before them.
    async fn deliver(&self, members: &Members, events: &[Placed]) {
        let joined = self.joined.lock().clone();
        let is_for = |key, position: &Position| joined.get(&key).is_none_or(|joined| !is_over(joined, position));
        deliver(members, events, is_for).await;
    }
}

impl Progress {
    /// Drops held events that a replay has delivered.
    fn drop_delivered(&mut self) {
        while self.held.front().zip(self.last).is_some_and(|(position, last)| is_over(&last, position)) {
            self.held.pop();
        }
    }

    fn hold(&mut self, events: impl Iterator<Item = Placed>) {
        let dropped = self.held.extend(events);
        if dropped > 0 {
            metrics::counter!("strait_events_dropped_total").increment(dropped as u64);
            // The log still holds the dropped events, if it keeps that many.
            self.doubted = true;
        }
    }
}

/// Replays missing events, then delivers held ones, until none is missing.
pub(super) async fn recover(hub: EventHub, members: Arc<Members>) {
    while survived("replay", try_recover(&hub, &members)).await.is_none() {
        tell_gap(&members);
        if let Some(retained) = &members.retained {
            retained.skip(None);
        }
    }
}

async fn try_recover(hub: &EventHub, members: &Members) {
    let Some(retained) = &members.retained else { return };
    let stopped = || hub.0.delivery[hub.0.shard(&members.topic)].stopped.load(Ordering::Acquire);
    let mut pause = FIRST_PAUSE;
    // The position after which a replay found no events.
    let mut nothing_after = None;
    while !stopped() {
        let after = match retained.next() {
            Next::Done => return,
            Next::Deliver(events) => {
                retained.deliver(members, &events).await;
                continue;
            }
            Next::Replay(after) => after,
        };
        match replay(hub, members, retained, after).await {
            Ok(true) => pause = FIRST_PAUSE,
            // The log does not hold the held events, for example after a rollback.
            Ok(false) if nothing_after == Some(after) => {
                tell_gap(members);
                retained.skip(None);
            }
            Ok(false) => nothing_after = Some(after),
            Err(error) if error.is_retryable() && !members.is_empty() => {
                if let Some(count) = hub.lines().replay_waits.count() {
                    tracing::warn!(
                        count,
                        error = %error.in_full(),
                        "what a topic's members missed could not be replayed, trying again"
                    );
                }
                retained.progress.lock().doubted = true;
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => {
                if let Some(count) = hub.lines().replay_failed.count() {
                    tracing::error!(
                        count,
                        error = %error.in_full(),
                        "what a topic's members missed could not be replayed"
                    );
                }
                tell_gap(members);
                retained.skip(None);
            }
        }
    }
}

/// Delivers all events of the log after a position; returns whether there were any, or a gap.
async fn replay(
    hub: &EventHub,
    members: &Members,
    retained: &Retained,
    mut after: Position,
) -> Result<bool, StoreError> {
    let mut any = false;
    loop {
        match hub.0.store.replay(&members.topic, &after, PAGE).await? {
            Replay::Gap { head } => {
                tell_gap(members);
                retained.skip(Some(head));
                return Ok(true);
            }
            Replay::Events { events, more, .. } => {
                let Some((last, _)) = events.last() else { return Ok(any) };
                after = *last;
                any = true;
                retained.deliver(members, &events).await;
                retained.progress.lock().last = Some(after);
                if !more {
                    return Ok(any);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Payload;

    fn at(epoch: u64, offset: u64) -> Placed {
        (Position { epoch, offset, check: 1 }, Arc::new(Event::message(Payload::text("x"))))
    }

    /// Event 102 came while 101 was missing, and the replay delivered both. A second replay was due, and the log was
    /// lost before it: 102 is still held then.
    #[test]
    fn what_a_replay_delivered_does_not_come_again_from_what_was_held() {
        let retained = Retained::new(Arc::new(Budget::new(usize::MAX)));
        retained.begin(at(1, 100).0);
        let mut events = vec![at(1, 102)];
        assert!(retained.admit(&mut events, false));
        assert!(events.is_empty());
        assert!(matches!(retained.next(), Next::Replay(after) if after == at(1, 100).0));
        retained.progress.lock().last = Some(at(1, 102).0);
        assert!(!retained.admit(&mut Vec::new(), true));
        assert!(matches!(retained.next(), Next::Replay(after) if after == at(1, 102).0));
        retained.skip(Some(at(2, 0).0));
        assert!(matches!(retained.next(), Next::Done));
        assert!(!retained.admit(&mut vec![at(2, 1)], false), "the new log goes on from its head");
    }
}
