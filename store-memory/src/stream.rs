use std::collections::VecDeque;
use std::sync::Arc;

use strait_core::store::Replay;
use strait_core::{Event, Position, Retention};

use crate::clock::{Tick, after, ticks};
use crate::random::check;

/// Numbered events: a topic's, or those of a channel's inbox. Keeps the last ones, if it is asked to.
#[derive(Debug)]
pub(crate) struct Stream {
    head: Position,
    kept: Option<Box<Kept>>,
}

/// The last events, without a hole: the first of them follows `before`, the last is the head.
#[derive(Debug)]
struct Kept {
    before: Position,
    events: VecDeque<Entry>,
    retention: Retention,
}

#[derive(Debug)]
struct Entry {
    check: u32,
    at: Tick,
    event: Arc<Event>,
}

impl Stream {
    pub(crate) fn new(epoch: u64) -> Self {
        Self { head: Position { epoch, offset: 0, check: 0 }, kept: None }
    }

    pub(crate) fn head(&self) -> Position {
        self.head
    }

    pub(crate) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// Gives an event its position without keeping it. Kept events go: a replay across the hole would be wrong.
    pub(crate) fn pass(&mut self) -> Position {
        self.kept = None;
        self.advance()
    }

    /// Gives an event its position and keeps it.
    pub(crate) fn keep(&mut self, event: &Arc<Event>, retention: Retention, now: Tick) -> Position {
        let before = self.head;
        let position = self.advance();
        let kept = self.kept.get_or_insert_with(|| Box::new(Kept { before, events: VecDeque::new(), retention }));
        kept.retention = retention;
        kept.events.push_back(Entry { check: position.check, at: now, event: Arc::clone(event) });
        self.trim(now);
        position
    }

    /// As [`keep`](Self::keep) with the retention of the last kept event, or [`pass`](Self::pass) if there is none.
    pub(crate) fn follow(&mut self, event: &Arc<Event>, now: Tick) -> Position {
        match self.kept.as_ref().map(|kept| kept.retention) {
            Some(retention) => self.keep(event, retention, now),
            None => self.pass(),
        }
    }

    /// Drops events that are too many or too old.
    pub(crate) fn trim(&mut self, now: Tick) {
        let Some(kept) = &mut self.kept else { return };
        let age = ticks(kept.retention.age);
        let most = usize::try_from(kept.retention.count).unwrap_or(usize::MAX);
        while let Some(first) = kept.events.front() {
            if kept.events.len() <= most && first.at.saturating_add(age) > now {
                break;
            }
            kept.before = Position { offset: kept.before.offset + 1, check: first.check, ..kept.before };
            kept.events.pop_front();
        }
        if kept.events.is_empty() {
            self.kept = None;
        } else if kept.events.capacity() > 64 && kept.events.len() < kept.events.capacity() / 4 {
            kept.events.shrink_to(kept.events.len() * 2);
        }
    }

    /// When to look again for events that are too old: not for each of them, but within a quarter of their age.
    pub(crate) fn expiry(&self, now: Tick) -> Option<Tick> {
        let kept = self.kept.as_ref()?;
        let (first, last) = (kept.events.front()?, kept.events.back()?);
        let soon = after(now, kept.retention.age / 4).max(after(first.at, kept.retention.age));
        Some(soon.min(after(last.at, kept.retention.age)))
    }

    pub(crate) fn replay(&mut self, from: &Position, limit: usize, now: Tick) -> Replay {
        self.trim(now);
        let head = self.head;
        let gap = Replay::Gap { head };
        if from.epoch != head.epoch || from.offset > head.offset {
            return gap;
        }
        let Some(kept) = &self.kept else {
            return if *from == head { Replay::Events { events: Vec::new(), head, more: false } } else { gap };
        };
        let Some(skip) = from.offset.checked_sub(kept.before.offset).and_then(|n| usize::try_from(n).ok()) else {
            return gap;
        };
        let known = match skip.checked_sub(1) {
            None => kept.before.check,
            Some(last) => kept.events[last].check,
        };
        if known != from.check {
            return gap;
        }
        let at = |(entry, offset): (&Entry, u64)| {
            (Position { epoch: head.epoch, offset, check: entry.check }, Arc::clone(&entry.event))
        };
        let missed = kept.events.len() - skip;
        let events: Vec<_> = kept.events.range(skip..).zip(from.offset + 1..).take(limit).map(at).collect();
        let more = events.len() < missed;
        Replay::Events { events, head, more }
    }

    /// The last events that are kept.
    pub(crate) fn history(&mut self, limit: usize, now: Tick) -> Vec<(Position, Arc<Event>)> {
        self.trim(now);
        let Some(kept) = &self.kept else { return Vec::new() };
        let skip = kept.events.len().saturating_sub(limit);
        let offsets = kept.before.offset + 1 + skip as u64..;
        let at = |(entry, offset): (&Entry, u64)| {
            (Position { epoch: self.head.epoch, offset, check: entry.check }, Arc::clone(&entry.event))
        };
        kept.events.range(skip..).zip(offsets).map(at).collect()
    }

    fn advance(&mut self) -> Position {
        self.head.offset += 1;
        self.head.check = check(self.head.epoch, self.head.offset);
        self.head
    }
}
