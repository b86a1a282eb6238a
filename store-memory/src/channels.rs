use std::sync::Arc;

use parking_lot::Mutex;
use strait_core::ChannelId;
use strait_core::store::Location;

use crate::channel::Channel;
use crate::clock::Tick;
use crate::deadlines::Deadlines;
use crate::map::Map;
use crate::nodes::Nodes;

/// All channels, and the ways to find them: by id, by location at a gateway, by node, by deadline.
///
/// A channel's own lock is taken first, then those of maps, indexes and topics; never two channels' locks.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    map: Map<ChannelId, Arc<Mutex<Channel>>>,
    locations: Map<Location, ChannelId>,
    pub(crate) deadlines: Deadlines,
    pub(crate) nodes: Nodes,
}

/// The obstacle that [`Channels::insert`] found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A channel of this id.
    Id,
    /// Another channel, at the same location.
    Location,
}

impl Channels {
    /// Works on a channel if it exists, dead or alive.
    pub(crate) fn with<R>(&self, id: &ChannelId, work: impl FnOnce(&mut Channel) -> R) -> Option<R> {
        loop {
            let cell = self.map.get(id)?;
            let mut channel = cell.lock();
            if !channel.gone {
                return Some(work(&mut channel));
            }
        }
    }

    /// Adds a channel, unless its id or its location is in use. Answers the result of `made`.
    pub(crate) fn insert<R>(
        &self,
        cell: &Arc<Mutex<Channel>>,
        made: impl FnOnce(&mut Channel) -> R,
    ) -> Result<R, Taken> {
        // A caller that finds the channel waits until it is whole.
        let mut channel = cell.lock();
        if !self.map.insert(channel.id.clone(), Arc::clone(cell)) {
            return Err(Taken::Id);
        }
        if !self.reserve(&channel.location, &channel.id) {
            channel.gone = true;
            self.map.remove(&channel.id);
            return Err(Taken::Location);
        }
        if let Some(node) = channel.location.node() {
            self.nodes.add(node, &channel.id);
        }
        Ok(made(&mut channel))
    }

    /// Removes a channel from all maps and indexes.
    pub(crate) fn remove(&self, channel: &mut Channel) {
        self.schedule(channel, 0);
        self.disconnect(channel);
        self.vacate(&channel.location);
        self.map.remove(&channel.id);
        channel.gone = true;
    }

    /// The channel with its present or last connection at a gateway's location.
    pub(crate) fn at(&self, location: &Location) -> Option<ChannelId> {
        self.locations.get(location)
    }

    /// Gives a location to a channel; `false` if another channel has it. Locations on nodes are not noted: the node
    /// knows them.
    pub(crate) fn reserve(&self, location: &Location, id: &ChannelId) -> bool {
        location.node().is_some() || self.locations.get_or_insert_with(location.clone(), || id.clone()) == *id
    }

    pub(crate) fn vacate(&self, location: &Location) {
        if location.node().is_none() {
            self.locations.remove(location);
        }
    }

    /// Tells the index of nodes that the channel is no longer connected. Call it before the phase or the location
    /// changes.
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
        for cell in self.map.values() {
            let channel = cell.lock();
            if !channel.gone {
                look(&channel);
            }
        }
    }
}
