//! A channel's own records of its memberships: a list, and an index once the list is long. Most channels have few, and
//! pay one word for the missing index; a single one is stored inline.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::members::Joined;
use crate::name::Topic;

/// The longest list that is searched without an index.
const FEW: usize = 32;
/// Up to this length the list grows by one at a time.
const EXACT: usize = 4;

type Index = HashMap<Topic, usize, RandomState>;

/// See the [module's documentation](self). It holds a topic at most once.
#[derive(Default)]
pub(crate) enum Memberships {
    #[default]
    Nowhere,
    One(Joined),
    Several(Box<Several>),
}

/// At least two memberships.
pub(crate) struct Several {
    list: Vec<Joined>,
    /// Each topic's place in the list, from when the list is long until it is short again.
    index: Option<Box<Index>>,
}

impl Memberships {
    fn as_slice(&self) -> &[Joined] {
        match self {
            Self::Nowhere => &[],
            Self::One(joined) => std::slice::from_ref(joined),
            Self::Several(several) => &several.list,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Joined> {
        self.as_slice().iter()
    }

    pub(super) fn get(&self, topic: &Topic) -> Option<&Joined> {
        match self {
            Self::Nowhere => None,
            Self::One(joined) => (joined.topic() == topic).then_some(joined),
            Self::Several(several) => several.position(topic).map(|at| &several.list[at]),
        }
    }

    pub(super) fn get_mut(&mut self, topic: &Topic) -> Option<&mut Joined> {
        match self {
            Self::Nowhere => None,
            Self::One(joined) => (joined.topic() == topic).then_some(joined),
            Self::Several(several) => several.position(topic).map(|at| &mut several.list[at]),
        }
    }

    /// Adds a membership; returns it if there is one of this topic already.
    pub(super) fn insert(&mut self, joined: Joined) -> Option<Joined> {
        if self.get(joined.topic()).is_some() {
            return Some(joined);
        }
        *self = match std::mem::take(self) {
            Self::Nowhere => Self::One(joined),
            Self::One(first) => Self::Several(Box::new(Several { list: vec![first, joined], index: None })),
            Self::Several(mut several) => {
                several.push(joined);
                Self::Several(several)
            }
        };
        None
    }

    pub(super) fn remove(&mut self, topic: &Topic) -> Option<Joined> {
        let Self::Several(several) = self else {
            self.get(topic)?;
            return std::mem::take(self).into_iter().next();
        };
        let removed = several.remove(topic);
        if several.list.len() == 1 {
            *self = several.list.pop().map_or(Self::Nowhere, Self::One);
        }
        removed
    }
}

impl Several {
    fn position(&self, topic: &Topic) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(topic).copied(),
            None => self.list.iter().position(|joined| joined.topic() == topic),
        }
    }

    fn push(&mut self, joined: Joined) {
        if let Some(index) = &mut self.index {
            index.insert(joined.topic().clone(), self.list.len());
        }
        if self.list.len() < EXACT {
            self.list.reserve_exact(1);
        }
        self.list.push(joined);
        if self.index.is_none() && self.list.len() > FEW {
            let places = self.list.iter().enumerate().map(|(at, joined)| (joined.topic().clone(), at));
            self.index = Some(Box::new(places.collect()));
        }
    }

    fn remove(&mut self, topic: &Topic) -> Option<Joined> {
        let at = self.position(topic)?;
        let joined = self.list.swap_remove(at);
        if let Some(index) = &mut self.index {
            index.remove(topic);
            // The last entry has taken its place.
            if let Some(moved) = self.list.get(at) {
                index.insert(moved.topic().clone(), at);
            }
        }
        let left = self.list.len();
        if left <= FEW / 2 {
            self.index = None;
        }
        // Shrink so rarely that each removal pays a fixed share of it.
        if left * 4 < self.list.capacity() {
            self.list.shrink_to(left * 2);
            if let Some(index) = &mut self.index {
                index.shrink_to(left * 2);
            }
        }
        Some(joined)
    }
}

impl IntoIterator for Memberships {
    type Item = Joined;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Joined>, std::vec::IntoIter<Joined>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, list) = match self {
            Self::Nowhere => (None, Vec::new()),
            Self::One(joined) => (Some(joined), Vec::new()),
            Self::Several(several) => (None, several.list),
        };
        one.into_iter().chain(list)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn topic(number: usize) -> Topic {
        Topic::new(format!("room:{number}")).expect("a name")
    }

    fn index(memberships: &Memberships) -> Option<&Index> {
        if let Memberships::Several(several) = memberships { several.index.as_deref() } else { None }
    }

    #[test]
    fn one_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Memberships>(), size_of::<Joined>());
    }

    fn check(memberships: &Memberships, expected: &HashSet<usize>, all: usize) {
        let found: HashSet<_> = memberships.iter().map(|joined| joined.topic().clone()).collect();
        assert_eq!((memberships.len(), found.len()), (expected.len(), expected.len()));
        for number in 0..all {
            let (topic, joined) = (topic(number), memberships.get(&topic(number)));
            assert_eq!(joined.map(Joined::topic), expected.contains(&number).then_some(&topic), "{number}");
        }
    }

    /// Grows beyond the length that needs an index, and shrinks again, in any order.
    #[test]
    fn each_topic_is_found_once_however_many_there_are() {
        const ALL: usize = 4 * FEW;
        let (mut memberships, mut expected) = (Memberships::default(), HashSet::new());
        // Each of these steps visits all of them, in its own order.
        for step in [1, 37, 5, 101, 127, 11] {
            for number in (0..ALL).map(|at| at * step % ALL) {
                assert_eq!(memberships.insert(Joined::of(topic(number))).is_none(), expected.insert(number));
                check(&memberships, &expected, ALL);
            }
            assert!(memberships.insert(Joined::of(topic(step))).is_some());
            for number in (0..ALL - step % 7).map(|at| at * (step + 2) % ALL) {
                assert_eq!(memberships.remove(&topic(number)).is_some(), expected.remove(&number));
                check(&memberships, &expected, ALL);
            }
            assert!(index(&memberships).is_none());
        }
        assert_eq!(memberships.into_iter().count(), expected.len());
    }

    #[test]
    fn who_has_left_many_topics_gives_their_memory_back() {
        const ALL: usize = 1_000;
        let mut memberships = Memberships::default();
        for left in [2 * FEW, 1, 0] {
            (0..ALL).for_each(|number| drop(memberships.insert(Joined::of(topic(number)))));
            (left..ALL).for_each(|number| drop(memberships.remove(&topic(number))));
            let index = index(&memberships).map_or(0, |index| index.capacity());
            let list = if let Memberships::Several(several) = &memberships { several.list.capacity() } else { 0 };
            assert!(list <= 4 * left, "{list}");
            // A hash table has up to twice the places that it was asked for.
            assert!(index <= 8 * left, "{index}");
        }
    }
}
