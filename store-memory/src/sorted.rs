//! A sorted map that is a list while it is short, as most are: a list of one takes a tenth of a tree's node.

use std::collections::BTreeMap;

/// The longest list: in a longer one each insertion would move much.
const FEW: usize = 64;
/// Up to this length a list grows by one at a time.
const EXACT: usize = 4;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) enum SortedMap<K, V> {
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
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Few(list) => find(list, key).ok().map(|at| &list[at].1),
            Self::Many(map) => map.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::Few(list) => find(list, key).ok().map(|at| &mut list[at].1),
            Self::Many(map) => map.get_mut(key),
        }
    }

    /// Adds an entry, or changes the one that there is.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self {
            Self::Few(list) => match find(list, &key) {
                Ok(at) => list[at].1 = value,
                Err(at) if list.len() < FEW => {
                    if list.len() < EXACT {
                        list.reserve_exact(1);
                    }
                    list.insert(at, (key, value));
                }
                Err(_) => {
                    let mut map: BTreeMap<_, _> = std::mem::take(list).into_iter().collect();
                    map.insert(key, value);
                    *self = Self::Many(Box::new(map));
                }
            },
            Self::Many(map) => drop(map.insert(key, value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Few(list) => find(list, key).ok().map(|at| list.remove(at).1),
            Self::Many(map) => {
                let removed = map.remove(key);
                if map.len() <= FEW / 2 {
                    *self = Self::Few(std::mem::take(&mut **map).into_iter().collect());
                }
                removed
            }
        }
    }

    /// All whose keys are not less than `first`, in order.
    pub(crate) fn from(&self, first: K) -> impl Iterator<Item = (&K, &V)> {
        let (list, map) = match self {
            Self::Few(list) => (&list[list.partition_point(|(key, _)| *key < first)..], None),
            Self::Many(map) => (&[][..], Some(map.range(first..))),
        };
        list.iter().map(|(key, value)| (key, value)).chain(map.into_iter().flatten())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        let (list, map) = match self {
            Self::Few(list) => (&list[..], None),
            Self::Many(map) => (&[][..], Some(map.keys())),
        };
        list.iter().map(|(key, _)| key).chain(map.into_iter().flatten())
    }

    /// All of them; none is left.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (K, V)> {
        let (list, map) = match std::mem::take(self) {
            Self::Few(list) => (list, BTreeMap::new()),
            Self::Many(map) => (Vec::new(), *map),
        };
        list.into_iter().chain(map)
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
    fn one_takes_the_room_of_one() {
        let mut map = SortedMap::default();
        map.insert(1, "one");
        assert!(matches!(&map, SortedMap::Few(list) if list.capacity() == 1));
    }
}
