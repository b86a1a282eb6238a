//! A sorted map that is a list while it is short, as most are. A list of one takes a tenth of a tree's node, and lies
//! in the map itself.

use std::collections::BTreeMap;

/// The longest list: in a longer one each insertion would move much.
const FEW: usize = 64;
/// Up to this length a list grows by one at a time.
const EXACT: usize = 4;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) enum SortedMap<K, V> {
    One((K, V)),
    /// None, or some.
    Few(Vec<(K, V)>),
    #[expect(clippy::box_collection, reason = "nearly all are few")]
    Many(Box<BTreeMap<K, V>>),
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As a list and a tree, one of which is empty.
    fn parts(&self) -> (&[(K, V)], Option<&BTreeMap<K, V>>) {
        match self {
            Self::One(entry) => (std::slice::from_ref(entry), None),
            Self::Few(list) => (list, None),
            Self::Many(map) => (&[], Some(map)),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self.parts() {
            (_, Some(map)) => map.get(key),
            (list, None) => find(list, key).ok().map(|at| &list[at].1),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::One((only, value)) => (only == key).then_some(value),
            Self::Few(list) => find(list, key).ok().map(|at| &mut list[at].1),
            Self::Many(map) => map.get_mut(key),
        }
    }

    /// Adds an entry, or changes the present one.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Self::Many(map) = self {
            map.insert(key, value);
            return;
        }
        if let Some(found) = self.get_mut(&key) {
            *found = value;
            return;
        }
        match self {
            Self::Few(list) if list.is_empty() => *self = Self::One((key, value)),
            Self::One(_) => {
                let mut list: Vec<_> = [(key, value)].into_iter().chain(self.take()).collect();
                list.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                *self = Self::Few(list);
            }
            Self::Few(list) if list.len() < FEW => {
                if list.len() < EXACT {
                    list.reserve_exact(1);
                }
                let at = list.partition_point(|(other, _)| *other < key);
                list.insert(at, (key, value));
            }
            Self::Few(_) | Self::Many(_) => {
                let mut map: BTreeMap<_, _> = self.take().collect();
                map.insert(key, value);
                *self = Self::Many(Box::new(map));
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::One((only, _)) if only == key => self.take().next().map(|(_, value)| value),
            Self::One(_) => None,
            Self::Few(list) => find(list, key).ok().map(|at| list.remove(at).1),
            Self::Many(map) => {
                let removed = map.remove(key);
                if map.len() <= FEW / 2 {
                    *self = Self::Few(self.take().collect());
                }
                removed
            }
        }
    }

    /// All entries with a key not less than `first`, in order.
    pub(crate) fn from(&self, first: K) -> impl Iterator<Item = (&K, &V)> {
        let (list, map) = self.parts();
        let list = &list[list.partition_point(|(key, _)| *key < first)..];
        list.iter().map(|(key, value)| (key, value)).chain(map.map(|map| map.range(first..)).into_iter().flatten())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        let (list, map) = self.parts();
        list.iter().map(|(key, _)| key).chain(map.map(BTreeMap::keys).into_iter().flatten())
    }

    /// Takes all entries out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (K, V)> + use<K, V> {
        let (one, list, map) = match std::mem::take(self) {
            Self::One(entry) => (Some(entry), Vec::new(), BTreeMap::new()),
            Self::Few(list) => (None, list, BTreeMap::new()),
            Self::Many(map) => (None, Vec::new(), *map),
        };
        one.into_iter().chain(list).chain(map)
    }
}

fn find<K: Ord, V>(list: &[(K, V)], key: &K) -> Result<usize, usize> {
    list.binary_search_by(|(other, _)| other.cmp(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Up from a list to a map and down again.
    #[test]
    fn many_are_found_like_few() {
        const ALL: usize = 3 * FEW + 1;
        let (mut map, mut expected) = (SortedMap::default(), BTreeMap::new());
        for step in [2, 5, 7] {
            for key in (0..ALL).map(|at| at * step % ALL) {
                for value in [0, key] {
                    map.insert(key, value);
                    expected.insert(key, value);
                }
                assert_eq!((map.len(), map.is_empty()), (expected.len(), false));
                assert!(map.keys().eq(expected.keys()));
                assert!(map.from(key).eq(expected.range(key..)));
            }
            assert!(matches!(map, SortedMap::Many(_)));
            for key in (0..ALL - step).map(|at| at * (step + 4) % ALL) {
                assert_eq!(map.get(&key), expected.get(&key));
                if let Some(value) = map.get_mut(&key) {
                    *value += 1;
                    expected.entry(key).and_modify(|value| *value += 1);
                }
                assert_eq!(map.remove(&key), expected.remove(&key));
                assert_eq!(map.remove(&key), None);
                assert_eq!(map.get(&key), None);
                assert!(map.from(key).eq(expected.range(key..)));
            }
            assert!(matches!(map, SortedMap::Few(_)));
        }
        assert_eq!(map.take().collect::<BTreeMap<_, _>>(), expected);
        assert_eq!((expected.len(), map.len()), (7, 0));
    }

    #[test]
    fn few_take_the_room_of_so_many() {
        let mut map = SortedMap::default();
        map.insert(1, "one");
        assert!(matches!(&map, SortedMap::One(_)));
        map.insert(0, "two");
        assert!(matches!(&map, SortedMap::Few(list) if list.capacity() == 2));
    }
}
