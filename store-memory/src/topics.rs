use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use strait_core::{Position, Topic};

use crate::clock::Tick;
use crate::map::Map;
use crate::random::{Random, check};
use crate::topic::TopicState;

/// How many topics one call sweeps at most.
const SWEPT_AT_ONCE: usize = 32;

/// All topics with any state. Each has its own lock, which is taken before the map's lock.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    map: Map<Topic, Arc<Mutex<TopicState>>>,
    expiries: Mutex<BTreeSet<(Tick, Topic)>>,
    /// The first of `expiries`, or 0 for none: publishers look at it without the lock.
    next_expiry: AtomicU64,
    pub(crate) random: Random,
}

impl Topics {
    /// Works on a topic if it exists.
    pub(crate) fn existing<R>(&self, topic: &Topic, work: impl FnOnce(&mut TopicState) -> R) -> Option<R> {
        loop {
            let cell = self.map.get(topic)?;
            let mut state = cell.lock();
            if !state.removed {
                let answer = work(&mut state);
                if state.is_empty() {
                    // Under the lock: a task that waits for it finds the topic removed, and the map without it.
                    state.removed = true;
                    self.map.remove(topic);
                }
                return Some(answer);
            }
        }
    }

    /// Works on a topic, which is created if it does not exist.
    pub(crate) fn entry<R>(&self, topic: &Topic, work: impl FnOnce(&mut TopicState) -> R) -> R {
        let new = || Arc::new(Mutex::new(TopicState::new(topic.clone(), self.random.epoch())));
        loop {
            let found = self.map.get(topic);
            let cell = found.unwrap_or_else(|| self.map.get_or_insert_with(topic.clone(), new));
            let mut state = cell.lock();
            if !state.removed {
                let answer = work(&mut state);
                if state.is_empty() {
                    state.removed = true;
                    self.map.remove(topic);
                }
                return answer;
            }
        }
    }

    /// The head of an unknown topic: of a new epoch.
    pub(crate) fn unknown_head(&self) -> Position {
        Position { epoch: self.random.epoch(), offset: 0, check: 0 }
    }

    /// The position of an event on an unknown topic, if the event is not kept.
    pub(crate) fn unknown_first(&self) -> Position {
        let epoch = self.random.epoch();
        Position { epoch, offset: 1, check: check(epoch, 1) }
    }

    /// Queues a topic for the sweep, unless it is queued in time. Called with the topic's lock held.
    pub(crate) fn queue(&self, state: &mut TopicState, now: Tick) {
        let Some(at) = state.expiry(now).filter(|at| state.queued == 0 || *at < state.queued) else { return };
        state.queued = at;
        let mut expiries = self.expiries.lock();
        expiries.insert((at, state.name.clone()));
        self.announce(&expiries);
    }

    /// Drops entries that have become too old, a bounded part of them.
    pub(crate) fn sweep(&self, now: Tick) {
        let next = self.next_expiry.load(Ordering::Relaxed);
        if next == 0 || next > now {
            return;
        }
        for (at, topic) in self.due(now) {
            self.existing(&topic, |state| {
                if state.queued == at {
                    state.queued = 0;
                    state.trim(now);
                    self.queue(state, now);
                }
            });
        }
    }

    fn due(&self, now: Tick) -> Vec<(Tick, Topic)> {
        let Some(mut expiries) = self.expiries.try_lock() else { return Vec::new() };
        let mut due = Vec::new();
        while due.len() < SWEPT_AT_ONCE && expiries.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(expiries.pop_first());
        }
        self.announce(&expiries);
        due
    }

    fn announce(&self, expiries: &BTreeSet<(Tick, Topic)>) {
        self.next_expiry.store(expiries.first().map_or(0, |(at, _)| *at), Ordering::Relaxed);
    }

    /// Looks at every topic.
    pub(crate) fn each(&self, mut look: impl FnMut(&TopicState)) {
        for cell in self.map.values() {
            let state = cell.lock();
            if !state.removed {
                look(&state);
            }
        }
    }
}
