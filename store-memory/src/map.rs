use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;

/// After so many removals the map looks for memory to give back.
const REMOVALS: usize = 1024;

/// A map that many threads share. It hands out clones and no guards: a caller that found an entry holds none of its
/// locks.
#[derive(Debug)]
pub(crate) struct Map<K: Eq + Hash, V> {
    map: DashMap<K, V, RandomState>,
    removals: AtomicUsize,
}

impl<K: Eq + Hash, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { map: DashMap::default(), removals: AtomicUsize::new(0) }
    }
}

impl<K: Eq + Hash, V: Clone> Map<K, V> {
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.map.get(key).map(|found| found.clone())
    }

    /// Adds a value; `false` if there is one already.
    pub(crate) fn insert(&self, key: K, value: V) -> bool {
        match self.map.entry(key) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(value);
                true
            }
        }
    }

    pub(crate) fn get_or_insert_with(&self, key: K, new: impl FnOnce() -> V) -> V {
        self.map.entry(key).or_insert_with(new).clone()
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let removed = self.map.remove(key);
        let often = self.removals.fetch_add(1, Ordering::Relaxed) % REMOVALS == REMOVALS - 1;
        if often && self.map.len() * 4 < self.map.capacity() {
            self.map.shrink_to_fit();
        }
        drop(removed);
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn values(&self) -> Vec<V> {
        self.map.iter().map(|found| found.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_most_is_gone() {
        const ALL: usize = 64 * REMOVALS;
        let map = Map::default();
        assert!((0..ALL).all(|key| map.insert(key, ())));
        assert!(!map.insert(0, ()));
        let full = map.map.capacity();
        (1..ALL).for_each(|key| map.remove(&key));
        assert_eq!((map.len(), map.get(&0)), (1, Some(())));
        assert!(map.map.capacity() < full / 8, "{} of {full}", map.map.capacity());
    }
}
