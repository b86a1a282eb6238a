use std::time::Duration;

use strait_core::store::{PresenceEntry, Relay};
use strait_core::{ChannelId, Position, Topic};

use crate::clock::{Tick, after};
use crate::random::Random;
use crate::sorted::SortedMap;

/// The members that a topic knows: those that nodes' memory does not hold, and those that others may see.
///
/// Rows are numbered in the order of joining. A listing's cursor is the number of its last row: members that come and
/// go meanwhile move nobody else.
#[derive(Debug, Default)]
pub(crate) struct Index {
    last: u64,
    pub(crate) members: SortedMap<u64, MemberRow>,
    /// Created for the first entry.
    presence: Option<Box<SortedMap<u64, PresenceRow>>>,
    relay: Option<Relaying>,
}

#[derive(Debug)]
pub(crate) struct MemberRow {
    pub(crate) channel: ChannelId,
    pub(crate) joined: Position,
}

#[derive(Debug)]
pub(crate) struct PresenceRow {
    pub(crate) channel: ChannelId,
    pub(crate) entry: PresenceEntry,
    pub(crate) since: Tick,
}

/// How far the topic's events were posted to its indexed members, and the holder that posts them now until a time.
#[derive(Debug)]
struct Relaying {
    from: Position,
    holder: Option<(u64, Tick)>,
}

impl Index {
    pub(crate) fn next_row(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.presence.is_none()
    }

    pub(crate) fn presence(&self) -> Option<&SortedMap<u64, PresenceRow>> {
        self.presence.as_deref()
    }

    pub(crate) fn present_mut(&mut self, row: u64) -> Option<&mut PresenceRow> {
        self.presence.as_mut()?.get_mut(&row)
    }

    pub(crate) fn add_present(&mut self, row: u64, present: PresenceRow) {
        self.presence.get_or_insert_default().insert(row, present);
    }

    pub(crate) fn remove_present(&mut self, row: u64) -> Option<PresenceRow> {
        let presence = self.presence.as_mut()?;
        let removed = presence.remove(&row);
        if presence.is_empty() {
            self.presence = None;
        }
        removed
    }

    /// Adds an indexed member; the first one starts the relay's cursor.
    pub(crate) fn add_member(&mut self, row: u64, channel: ChannelId, joined: Position) {
        self.relay.get_or_insert(Relaying { from: joined, holder: None });
        self.members.insert(row, MemberRow { channel, joined });
    }

    /// Removes an indexed member; with the last one the relay's cursor goes.
    pub(crate) fn remove_member(&mut self, row: u64) {
        self.members.remove(&row);
        if self.members.is_empty() {
            self.relay = None;
        }
    }

    /// The log was lost: the relay starts again, even if it has a holder.
    pub(crate) fn restart_relay(&mut self, from: Position) {
        if let Some(relay) = &mut self.relay {
            *relay = Relaying { from, holder: None };
        }
    }

    pub(crate) fn take_relay(&mut self, topic: &Topic, random: &Random, now: Tick, ttl: Duration) -> Option<Relay> {
        let relay = self.relay.as_mut()?;
        if relay.holder.is_some_and(|(_, until)| until > now) {
            return None;
        }
        let token = random.unique();
        relay.holder = Some((token, after(now, ttl)));
        Some(Relay { topic: topic.clone(), from: relay.from, token })
    }

    pub(crate) fn relay_done(&mut self, token: u64, through: &Position, until: Option<Tick>) -> bool {
        let Some(relay) = self.relay.as_mut().filter(|relay| relay.holder.is_some_and(|(held, _)| held == token))
        else {
            return false;
        };
        relay.from = *through;
        relay.holder = until.map(|until| (token, until));
        true
    }
}
