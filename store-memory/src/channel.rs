use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strait_core::store::{
    AttachAs, Change, Fence, Location, NewChannel, Record, RecordPhase, Served, StoredSession, TokenHash, Versioned,
};
use strait_core::{ChannelId, Event, NodeId, Position, Retention, Topic};

use crate::clock::{Tick, Timeline};
use crate::random::Random;
use crate::sorted::SortedMap;
use crate::stream::Stream;

/// The phase of a channel; a detached or dead one also has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Open,
    Detached,
    Dead,
}

/// The state of one channel. Fields that most channels lack most of the time are behind a pointer. Short bytes are
/// copied into records: sharing them would cost a reference count each. So an idle channel is small.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) generation: u64,
    pub(crate) phase: Phase,
    /// The channel is in no map any more: a caller that has waited for its lock looks it up again.
    pub(crate) gone: bool,
    /// When the grace, the claim or the time at a gateway runs out, 0 if none runs.
    pub(crate) due: Tick,
    pub(crate) location: Location,
    pub(crate) grace: Option<Duration>,
    /// Its rows among the members of its topics, 0 where it needs none.
    pub(crate) topics: SortedMap<Topic, u64>,
    endpoint: Arc<str>,
    opening: Opening,
    opened_at: Tick,
    state: Option<Box<Versioned<Bytes>>>,
    session: Option<Box<Versioned<StoredSession>>>,
    rare: Option<Box<Rare>>,
}

/// The client's request when it connected, in two words. A long one is shared with the node that stored it.
#[derive(Debug)]
enum Opening {
    Own(Box<[u8]>),
    Shared(Box<Bytes>),
}

impl Opening {
    /// Values up to this length are copied: a count of their owners would cost as much.
    const SHARED_ABOVE: usize = 64;

    fn new(opening: Bytes) -> Self {
        if opening.len() > Self::SHARED_ABOVE {
            Self::Shared(Box::new(opening))
        } else {
            // Bytes with no other owner are not copied.
            Self::Own(Vec::from(opening).into())
        }
    }

    fn share(&self) -> Bytes {
        match self {
            Self::Own(opening) => Bytes::copy_from_slice(opening),
            Self::Shared(opening) => Bytes::clone(opening),
        }
    }
}

#[derive(Debug, Default)]
struct Rare {
    token: Option<TokenHash>,
    /// Valid until the client has shown that it got `token`.
    previous: Option<TokenHash>,
    inbox: Option<Stream>,
    lock: Option<(u64, Tick)>,
    /// The node with the claim of the tombstone.
    claimant: Option<NodeId>,
}

impl Channel {
    pub(crate) fn new(new: NewChannel, now: Tick) -> Self {
        let session = new.session.map(|value| Box::new(Versioned { version: 1, value: Some(value) }));
        let rare = new.token.map(|token| Box::new(Rare { token: Some(token), ..Rare::default() }));
        Self {
            id: new.id,
            generation: 1,
            phase: Phase::Opening,
            gone: false,
            due: 0,
            location: new.location,
            grace: new.grace,
            topics: SortedMap::default(),
            endpoint: new.endpoint,
            opening: Opening::new(new.opening),
            opened_at: now,
            state: None,
            session,
            rare,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.phase != Phase::Dead
    }

    /// Whether a fence is of the present generation of a living channel.
    pub(crate) fn obeys(&self, fence: &Fence) -> bool {
        self.is_alive() && self.generation == fence.generation
    }

    /// The node that the channel is connected to.
    pub(crate) fn node(&self) -> Option<&NodeId> {
        match self.phase {
            Phase::Opening | Phase::Open => self.location.node(),
            Phase::Detached | Phase::Dead => None,
        }
    }

    /// Whether the channel's endpoint is served.
    pub(crate) fn is_served(&self, served: Option<&Served<'_>>) -> bool {
        served.is_none_or(|served| served.endpoints.contains(&self.endpoint))
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence { id: self.id.clone(), generation: self.generation }
    }

    pub(crate) fn record(&self, time: &Timeline) -> Record {
        let phase = match self.phase {
            Phase::Opening => RecordPhase::Opening,
            Phase::Open => RecordPhase::Open,
            Phase::Detached => RecordPhase::Detached { until: time.wall(self.due) },
            Phase::Dead => RecordPhase::Dead,
        };
        Record {
            id: self.id.clone(),
            endpoint: Arc::clone(&self.endpoint),
            generation: self.generation,
            phase,
            location: self.location.clone(),
            opening: self.opening.share(),
            state: copied(self.state.as_deref(), Bytes::clone),
            session: copied(self.session.as_deref(), StoredSession::share),
            grace: self.grace,
            opened_at: time.wall(self.opened_at),
        }
    }

    /// Whether the versions that the changes expect are the present ones.
    pub(crate) fn expects(&self, state: Option<&Change<Bytes>>, session: Option<&Change<StoredSession>>) -> bool {
        state.is_none_or(|change| change.expected == version(self.state.as_deref()))
            && session.is_none_or(|change| change.expected == version(self.session.as_deref()))
    }

    pub(crate) fn change_state(&mut self, value: Option<Bytes>) {
        change(&mut self.state, value);
    }

    pub(crate) fn change_session(&mut self, value: Option<StoredSession>) {
        change(&mut self.session, value);
    }

    /// Whether a connection may take the channel over.
    pub(crate) fn admits(&self, by: &AttachAs, location: &Location) -> bool {
        if !self.is_alive() {
            return false;
        }
        match by {
            AttachAs::Token(token) => self.rare.as_ref().is_some_and(|rare| {
                let tokens = [rare.token, rare.previous];
                tokens.into_iter().flatten().any(|known| same(&known, token))
            }),
            AttachAs::Holder { generation } => {
                // The second case is a repeated call, after its answer was lost.
                *generation == self.generation
                    || (*generation + 1 == self.generation
                        && *location == self.location
                        && self.phase != Phase::Detached)
            }
        }
    }

    /// Replaces the resume token; the one that was shown, else the present one, stays valid until confirmed.
    pub(crate) fn replace_token(&mut self, by: &AttachAs, next: Option<TokenHash>) {
        let Some(next) = next else { return };
        let rare = self.rare.get_or_insert_default();
        rare.previous = match by {
            AttachAs::Token(shown) => Some(*shown),
            AttachAs::Holder { .. } => rare.token,
        };
        rare.token = Some(next);
    }

    pub(crate) fn confirm_token(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.previous = None;
        }
    }

    /// Notes the claimant of the tombstone; a claim without a claimant cannot be asked for again.
    pub(crate) fn set_claimant(&mut self, by: Option<&NodeId>) {
        if by.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().claimant = by.cloned();
        }
    }

    /// Whether `by` has claimed the channel with this fence already.
    pub(crate) fn was_claimed(&self, fence: &Fence, by: &NodeId) -> bool {
        let claimant = self.rare.as_ref().and_then(|rare| rare.claimant.as_ref());
        !self.is_alive() && self.generation == fence.generation + 1 && claimant == Some(by)
    }

    /// Locks the channel; `false` while another caller holds its lock.
    pub(crate) fn lock(&mut self, token: u64, now: Tick, until: Tick) -> bool {
        let lock = &mut self.rare.get_or_insert_default().lock;
        let free = lock.is_none_or(|(_, held_until)| held_until <= now);
        if free {
            *lock = Some((token, until));
        }
        free
    }

    pub(crate) fn unlock(&mut self, token: u64, now: Tick) -> bool {
        let Some(rare) = &mut self.rare else { return false };
        let held = rare.lock.is_some_and(|(holder, until)| holder == token && until > now);
        if held {
            rare.lock = None;
            if rare.is_empty() {
                self.rare = None;
            }
        }
        held
    }

    /// Keeps a direct send, if the channel is detached or can be.
    pub(crate) fn post(
        &mut self,
        event: &Arc<Event>,
        retention: Retention,
        now: Tick,
        random: &Random,
    ) -> Option<Position> {
        if self.grace.is_none() && self.phase != Phase::Detached {
            return None;
        }
        let inbox = self.rare.get_or_insert_default().inbox.get_or_insert_with(|| Stream::new(random.epoch()));
        Some(inbox.keep(event, retention, now))
    }

    pub(crate) fn inbox(&mut self) -> Option<&mut Stream> {
        self.rare.as_mut()?.inbox.as_mut()
    }

    pub(crate) fn has_inbox(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.inbox.is_some())
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.token.is_none()
            && self.previous.is_none()
            && self.inbox.is_none()
            && self.lock.is_none()
            && self.claimant.is_none()
    }
}

fn copied<T, U>(kept: Option<&Versioned<T>>, copy: impl FnOnce(&T) -> U) -> Versioned<U> {
    Versioned { version: version(kept), value: kept.and_then(|kept| kept.value.as_ref()).map(copy) }
}

fn version<T>(value: Option<&Versioned<T>>) -> u64 {
    value.map_or(0, |value| value.version)
}

fn change<T>(slot: &mut Option<Box<Versioned<T>>>, value: Option<T>) {
    let slot = slot.get_or_insert_default();
    slot.version += 1;
    slot.value = value;
}

/// Compares all bytes in any case, so that the time taken reveals nothing of a token.
fn same(a: &TokenHash, b: &TokenHash) -> bool {
    a.0.iter().zip(b.0).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}
