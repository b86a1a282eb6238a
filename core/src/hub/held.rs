//! Events of a retained topic that are held during a replay of older ones, bounded in number and in bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::{Event, Position};

/// Events of one topic that may be held.
const MOST_HELD: usize = 4096;

type Placed = (Position, Arc<Event>);

/// The byte budget that all topics of a lane share.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    most: usize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        Self { used: AtomicUsize::new(0), most }
    }
}

/// One topic's held events, oldest first.
#[derive(Debug)]
pub(super) struct Held {
    events: VecDeque<Placed>,
    bytes: usize,
    budget: Arc<Budget>,
}

impl Held {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { events: VecDeque::new(), bytes: 0, budget }
    }

    /// Holds events, or drops all held ones if they are too many. Returns the number of dropped ones.
    pub(super) fn extend(&mut self, events: impl Iterator<Item = Placed>) -> usize {
        let before = self.events.len();
        self.events.extend(events);
        let bytes: usize = self.events.range(before..).map(|(_, event)| event.payload.bytes().len()).sum();
        self.bytes += bytes;
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.events.len() > MOST_HELD || used > self.budget.most {
            let dropped = self.events.len();
            self.clear();
            return dropped;
        }
        0
    }

    pub(super) fn front(&self) -> Option<&Position> {
        self.events.front().map(|(position, _)| position)
    }

    pub(super) fn pop(&mut self) -> Option<Placed> {
        let event = self.events.pop_front()?;
        self.release(event.1.payload.bytes().len());
        Some(event)
    }

    fn clear(&mut self) {
        self.events = VecDeque::new();
        self.release(self.bytes);
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Payload;

    fn events(count: u64, bytes: usize) -> impl Iterator<Item = Placed> {
        let event = Arc::new(Event::message(Payload::text("x".repeat(bytes))));
        (1..=count).map(move |offset| (Position { epoch: 1, offset, check: 0 }, Arc::clone(&event)))
    }

    #[test]
    fn topics_share_a_budget_of_bytes_and_give_back_what_they_used() {
        let budget = Arc::new(Budget::new(1000));
        let (mut one, mut other) = (Held::new(Arc::clone(&budget)), Held::new(Arc::clone(&budget)));
        assert_eq!(one.extend(events(6, 100)), 0);
        assert_eq!(other.extend(events(5, 100)), 5, "1,100 bytes are too many");
        assert!(other.pop().is_none());
        assert_eq!(one.pop().map(|(position, _)| position.offset), Some(1));
        assert_eq!(other.extend(events(5, 100)), 0);
        drop(one);
        assert_eq!(budget.used.load(Ordering::Relaxed), 500);
        assert_eq!(other.extend(events(5, 100)), 0);
        drop(other);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_topic_holds_a_bounded_number_of_events() {
        let mut held = Held::new(Arc::new(Budget::new(usize::MAX)));
        assert_eq!(held.extend(events(4096, 0)), 0);
        assert_eq!(held.extend(events(1, 0)), 4097);
        assert_eq!(held.front(), None);
    }
}
