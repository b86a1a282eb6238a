use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that differ between stores and between calls: a counter hashed with a key from the operating system.
#[derive(Debug, Default)]
pub(crate) struct Random {
    key: RandomState,
    counter: AtomicU64,
}

impl Random {
    /// A new epoch, below 2^53 and never 0.
    pub(crate) fn epoch(&self) -> u64 {
        (self.key.hash_one(self.counter.fetch_add(1, Ordering::Relaxed)) >> 11).max(1)
    }

    /// A number that this store has not given before.
    pub(crate) fn unique(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

/// The check of an event: the epoch is random, so the finaliser of SplitMix64 over epoch and offset is too.
pub(crate) fn check(epoch: u64, offset: u64) -> u32 {
    let mut z = epoch.wrapping_add(offset.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}
