//! A channel's places among the members of its topics, by topic.

use std::collections::BTreeMap;

use strait_core::Topic;

/// The longest list: in a longer one each insertion would move much.
const FEW: usize = 64;

/// See the [module's documentation](self). A place is a row in its topic's index, 0 if it needs none.
#[derive(Debug)]
pub(crate) enum Places {
    /// Sorted by topic.
    Few(Vec<(Topic, u64)>),
    #[expect(clippy::box_collection, reason = "nearly all channels have few")]
    Many(Box<BTreeMap<Topic, u64>>),
}

impl Default for Places {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Places {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(crate) fn topics(&self) -> Vec<Topic> {
        match self {
            Self::Few(list) => list.iter().map(|(topic, _)| topic.clone()).collect(),
            Self::Many(map) => map.keys().cloned().collect(),
        }
    }

    pub(crate) fn get(&self, topic: &Topic) -> Option<u64> {
        match self {
            Self::Few(list) => find(list, topic).ok().map(|at| list[at].1),
            Self::Many(map) => map.get(topic).copied(),
        }
    }

    /// Adds a place, or changes the one that there is.
    pub(crate) fn set(&mut self, topic: Topic, row: u64) {
        match self {
            Self::Few(list) => match find(list, &topic) {
                Ok(at) => list[at].1 = row,
                Err(at) if list.len() < FEW => list.insert(at, (topic, row)),
                Err(_) => {
                    let mut map: BTreeMap<_, _> = std::mem::take(list).into_iter().collect();
                    map.insert(topic, row);
                    *self = Self::Many(Box::new(map));
                }
            },
            Self::Many(map) => drop(map.insert(topic, row)),
        }
    }

    pub(crate) fn remove(&mut self, topic: &Topic) -> Option<u64> {
        match self {
            Self::Few(list) => find(list, topic).ok().map(|at| list.remove(at).1),
            Self::Many(map) => {
                let removed = map.remove(topic);
                if map.len() <= FEW / 2 {
                    *self = Self::Few(std::mem::take(&mut **map).into_iter().collect());
                }
                removed
            }
        }
    }

    /// All of them; none is left.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (Topic, u64)> {
        let (list, map) = match std::mem::take(self) {
            Self::Few(list) => (list, BTreeMap::new()),
            Self::Many(map) => (Vec::new(), *map),
        };
        list.into_iter().chain(map)
    }
}

fn find(list: &[(Topic, u64)], topic: &Topic) -> Result<usize, usize> {
    list.binary_search_by(|(other, _)| other.cmp(topic))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Up from a list to a map and down again.
    #[test]
    fn many_are_found_like_few() {
        const ALL: usize = 3 * FEW + 1;
        let topic = |number: usize| Topic::new(format!("room:{number}")).expect("a name");
        let (mut places, mut expected) = (Places::default(), BTreeMap::new());
        for step in [2, 5, 7] {
            for number in (0..ALL).map(|at| at * step % ALL) {
                for row in [0, number as u64] {
                    places.set(topic(number), row);
                    expected.insert(topic(number), row);
                }
                assert_eq!((places.len(), places.topics()), (expected.len(), expected.keys().cloned().collect()));
            }
            assert!(matches!(places, Places::Many(_)));
            for number in (0..ALL - step).map(|at| at * (step + 4) % ALL) {
                assert_eq!(places.get(&topic(number)), expected.get(&topic(number)).copied());
                assert_eq!(places.remove(&topic(number)), expected.remove(&topic(number)));
                assert_eq!((places.get(&topic(number)), places.remove(&topic(number))), (None, None));
            }
            assert!(matches!(places, Places::Few(_)));
        }
        assert_eq!(places.take().collect::<BTreeMap<_, _>>(), expected);
        assert_eq!((expected.len(), places.len()), (7, 0));
    }
}
