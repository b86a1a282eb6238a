//! Random numbers that must not coincide by accident; none of them is a secret.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of numbers, seeded by the process's random state and the time.
#[derive(Debug)]
pub(crate) struct Random {
    hasher: std::hash::RandomState,
    counter: AtomicU64,
}

impl Random {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { hasher: std::hash::RandomState::new(), counter: AtomicU64::new(since.as_nanos() as u64) }
    }

    pub(crate) fn next(&self) -> u64 {
        self.hasher.hash_one(self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// A log's epoch: 1 to 2^53 - 1.
    pub(crate) fn epoch(&self) -> u64 {
        (self.next() >> 11).max(1)
    }

    /// An event's check.
    pub(crate) fn check(&self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// A unique token for one holder, of a lock for example.
    pub(crate) fn token(&self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }
}
