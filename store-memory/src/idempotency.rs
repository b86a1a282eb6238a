use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use strait_core::Position;

use crate::clock::Tick;

/// The keys of a topic's last publications, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    seen: HashMap<Arc<str>, Position>,
    order: VecDeque<(Tick, Arc<str>)>,
}

impl Keys {
    pub(crate) fn get(&self, key: &str) -> Option<Position> {
        self.seen.get(key).copied()
    }

    /// Remembers a new key until `until`, and at most `most` keys.
    pub(crate) fn insert(&mut self, key: Arc<str>, position: Position, until: Tick, most: usize) {
        self.seen.insert(Arc::clone(&key), position);
        self.order.push_back((until, key));
        while self.order.len() > most {
            self.forget_oldest();
        }
    }

    /// Forgets keys that have run out. A key behind one with a longer time waits for it.
    pub(crate) fn trim(&mut self, now: Tick) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    pub(crate) fn expiry(&self) -> Option<Tick> {
        self.order.back().map(|(until, _)| *until)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.seen.remove(&key);
        }
    }
}
