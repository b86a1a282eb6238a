use std::thread;

use foldhash::fast::RandomState;
use papaya::HashMap;
use parking_lot::Mutex;
use strait_core::ChannelId;
use strait_core::store::Location;

use crate::channel::{Channel, Mapped};
use crate::clock::Tick;
use crate::deadlines::Deadlines;
use crate::nodes::Nodes;

/// All channels, and the ways to find them: by id, by location, by node, by deadline.
///
/// A channel's own lock is taken first, then those of indexes and topics; never two channels' locks.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    map: HashMap<ChannelId, Mutex<Channel>, RandomState>,
    locations: HashMap<Location, ChannelId, RandomState>,
    pub(crate) deadlines: Deadlines,
    pub(crate) nodes: Nodes,
}

/// What [`Channels::insert`] found in the way.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A channel of this id.
    Id,
    /// Another channel, at the same location.
    Location,
}

impl Channels {
    /// Works on a channel that is there, dead or alive.
    pub(crate) fn with<R>(&self, id: &ChannelId, work: impl FnOnce(&mut Channel) -> R) -> Option<R> {
        let map = self.map.pin();
        loop {
            let mut channel = map.get(id)?.lock();
            match channel.mapped {
                Mapped::In => return Some(work(&mut channel)),
                // Whoever made it has yet to take the lock.
                Mapped::Entering => thread::yield_now(),
                Mapped::Gone => {}
            }
        }
    }

    /// Adds a channel, unless its id or its location is in use. Answers what `made` makes of it.
    pub(crate) fn insert<R>(&self, channel: Channel, made: impl FnOnce(&mut Channel) -> R) -> Result<R, Taken> {
        let map = self.map.pin();
        let (id, location) = (channel.id.clone(), channel.location.clone());
        let cell = map.try_insert(id.clone(), Mutex::new(channel)).map_err(|_| Taken::Id)?;
        let mut channel = cell.lock();
        if !self.reserve(&location, &id) {
            channel.clear();
            map.remove(&id);
            return Err(Taken::Location);
        }
        channel.mapped = Mapped::In;
        if let Some(node) = location.node() {
            self.nodes.add(node, &id);
        }
        Ok(made(&mut channel))
    }

    /// Removes a channel from everything.
    pub(crate) fn remove(&self, channel: &mut Channel) {
        self.schedule(channel, 0);
        self.disconnect(channel);
        self.locations.pin().remove(&channel.location);
        self.map.pin().remove(&channel.id);
        channel.clear();
    }

    /// The channel whose present or last connection is at a location.
    pub(crate) fn at(&self, location: &Location) -> Option<ChannelId> {
        self.locations.pin().get(location).cloned()
    }

    /// Gives a location to a channel; `false` if another one has it.
    pub(crate) fn reserve(&self, location: &Location, id: &ChannelId) -> bool {
        self.locations.pin().get_or_insert_with(location.clone(), || id.clone()) == id
    }

    pub(crate) fn vacate(&self, location: &Location) {
        self.locations.pin().remove(location);
    }

    /// Tells the index of nodes that the channel is no longer connected. Before the phase or the location changes.
    pub(crate) fn disconnect(&self, channel: &Channel) {
        if let Some(node) = channel.node() {
            self.nodes.remove(node, &channel.id);
        }
    }

    pub(crate) fn schedule(&self, channel: &mut Channel, due: Tick) {
        if channel.due != due {
            self.deadlines.change(&channel.id, channel.due, due);
            channel.due = due;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn located(&self) -> usize {
        self.locations.len()
    }

    /// Looks at every channel.
    pub(crate) fn each(&self, mut look: impl FnMut(&Channel)) {
        for cell in self.map.pin().values() {
            let channel = cell.lock();
            if channel.mapped == Mapped::In {
                look(&channel);
            }
        }
    }
}
