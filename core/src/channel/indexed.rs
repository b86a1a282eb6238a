//! Records which users' indexes list a channel: only the session's user, apart from failed and pending changes.

use crate::name::UserId;

/// A user, and whether its index surely lists the channel.
type Note = (UserId, bool);

/// See the [module's documentation](self). One user's note is stored inline, because more are rare.
#[derive(Debug)]
pub(crate) enum Indexed {
    Few(Option<Note>),
    Many(Box<[Note]>),
}

/// The next change of an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ToIndex {
    Add(UserId),
    Remove(UserId),
}

impl Indexed {
    fn all(&self) -> &[Note] {
        match self {
            Self::Few(note) => note.as_slice(),
            Self::Many(notes) => notes,
        }
    }

    fn into_vec(self) -> Vec<Note> {
        match self {
            Self::Few(note) => note.into_iter().collect(),
            Self::Many(notes) => notes.into_vec(),
        }
    }

    /// The next change, so that only the index of the session's user lists the channel.
    pub(super) fn next(&mut self, user: Option<&UserId>) -> Option<ToIndex> {
        if let Some((other, _)) = self.all().iter().find(|(other, _)| Some(other) != user) {
            return Some(ToIndex::Remove(other.clone()));
        }
        // There are no others.
        match self.all().first() {
            Some((_, true)) => return None,
            Some((_, false)) => {}
            None => *self = Self::Few(Some((user?.clone(), false))),
        }
        Some(ToIndex::Add(user?.clone()))
    }

    /// Records that the user's index lists the channel now.
    pub(super) fn added(&mut self, user: &UserId) {
        let notes = match self {
            Self::Few(note) => note.as_mut_slice(),
            Self::Many(notes) => notes,
        };
        notes.iter_mut().for_each(|(found, sure)| *sure |= found == user);
    }

    /// Records that the user's index does not list the channel any more.
    pub(super) fn removed(&mut self, user: &UserId) {
        let notes = std::mem::take(self).into_vec();
        *self = notes.into_iter().filter(|(found, _)| found != user).collect();
    }
}

impl Default for Indexed {
    fn default() -> Self {
        Self::Few(None)
    }
}

impl FromIterator<Note> for Indexed {
    fn from_iter<I: IntoIterator<Item = Note>>(notes: I) -> Self {
        let mut notes: Vec<_> = notes.into_iter().collect();
        if notes.len() > 1 { Self::Many(notes.into()) } else { Self::Few(notes.pop()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a name")
    }

    #[test]
    fn one_users_note_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Indexed>(), size_of::<Note>());
    }

    #[test]
    fn other_users_go_before_the_sessions_user_comes() {
        let (ada, bob) = (user("ada"), user("bob"));
        let mut indexed = Indexed::default();
        assert_eq!(indexed.next(None), None);
        assert_eq!(indexed.next(Some(&ada)), Some(ToIndex::Add(ada.clone())));
        // It may have failed.
        assert_eq!(indexed.next(Some(&ada)), Some(ToIndex::Add(ada.clone())));
        indexed.added(&ada);
        assert_eq!(indexed.next(Some(&ada)), None);
        assert_eq!(indexed.next(Some(&bob)), Some(ToIndex::Remove(ada.clone())));
        indexed.removed(&ada);
        assert_eq!(indexed.next(Some(&bob)), Some(ToIndex::Add(bob.clone())));
        // The late end of an earlier call leaves newer notes alone.
        indexed.added(&ada);
        assert_eq!(indexed.next(None), Some(ToIndex::Remove(bob.clone())));
        indexed.removed(&bob);
        assert_eq!(indexed.next(None), None);
    }

    #[test]
    fn several_go_one_after_the_other() {
        let (ada, bob, eve) = (user("ada"), user("bob"), user("eve"));
        let mut indexed: Indexed = [&ada, &bob, &eve].map(|user| (user.clone(), true)).into_iter().collect();
        assert_eq!(indexed.next(Some(&bob)), Some(ToIndex::Remove(ada.clone())));
        indexed.removed(&ada);
        assert_eq!(indexed.next(Some(&bob)), Some(ToIndex::Remove(eve.clone())));
        indexed.removed(&eve);
        assert_eq!(indexed.next(Some(&bob)), None);
    }
}
