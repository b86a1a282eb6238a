use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::StoreError;
use super::record::Fence;
use crate::close::Close;
use crate::event::{Event, Position};
use crate::name::{ChannelId, NodeId, Topic};

/// A request from one node to another about a channel there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send an event to the channel.
    Deliver {
        /// The channel.
        channel: ChannelId,
        /// Its place in the channel's inbox, if it has one.
        position: Option<Position>,
        /// The event.
        event: Arc<Event>,
    },
    /// Close the channel.
    Close {
        /// The channel.
        channel: ChannelId,
        /// The close code and reason.
        close: Close,
    },
    /// The channel moved to another connection: drop the one of this generation without ending the channel.
    Evict {
        /// The attachment that was displaced.
        fence: Fence,
    },
}

impl Command {
    /// The channel that it is about.
    #[must_use]
    pub fn channel(&self) -> &ChannelId {
        match self {
            Self::Deliver { channel, .. } | Self::Close { channel, .. } => channel,
            Self::Evict { fence } => &fence.id,
        }
    }
}

/// The state of the bus at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Whether publications of other nodes arrive.
    pub hears: bool,
    /// The time that the last publication, or probe, took to arrive.
    pub lag: Option<Duration>,
}

/// A node's receiver of events and commands from the bus. Every method is synchronous and never blocks. None calls the
/// store, which may hold a topic's lock meanwhile.
pub trait Sink: Debug + Send + Sync + 'static {
    /// Events of one topic, in offset order.
    fn events(&self, topic: &Topic, events: &[(Position, Arc<Event>)]);

    /// A command to this node.
    fn command(&self, command: Command);

    /// Events of these topics may have been lost. The hub replays retained topics from the store; the bus goes on with
    /// later events.
    fn gap(&self, topics: &[Topic]);

    /// The node hears again after its connection to the store broke. The store may have failed over and lost its last
    /// writes: the hub compares the node's channels with their records.
    fn reconnected(&self) {}

    /// The runtime that delivers a topic's events to its members, if it is always the same one. A bus that receives
    /// them there wakes no other thread.
    fn runtime(&self, _topic: &Topic) -> Option<Handle> {
        None
    }

    /// These retained topics have events that no hub published, for example from a transaction, and
    /// [indexed](super::Subscription::indexed) members that still lack them. The process that assigns the offsets
    /// notifies its own node.
    fn relay(&self, topics: &[Topic]) {
        let _ = topics;
    }
}

/// Carries publications and commands between nodes.
#[async_trait]
pub trait EventBus: Debug + Send + Sync + 'static {
    /// Puts a node on the bus.
    ///
    /// # Errors
    /// The bus cannot be reached, or a node of that name is on it.
    async fn start(&self, node: &NodeId, sink: Arc<dyn Sink>) -> Result<Arc<dyn BusNode>, StoreError>;
}

/// One node's end of the bus.
#[async_trait]
pub trait BusNode: Debug + Send + Sync + 'static {
    /// Unsubscribes the node from topics, then subscribes it to others. Answers the head of each topic of `on`: later
    /// events arrive through [`Sink::events`].
    ///
    /// # Errors
    /// The bus cannot be reached, or the node has left it. The call then has subscribed the node to no topic of `on`,
    /// and the node soon stops hearing those of `off`.
    async fn interest(&self, on: &[Topic], off: &[Topic]) -> Result<Vec<Position>, StoreError>;

    /// Puts commands into a node's mailbox; `false` if there is no such node. They arrive in order.
    ///
    /// # Errors
    /// The bus cannot be reached.
    async fn send(&self, node: &NodeId, commands: &[Command]) -> Result<bool, StoreError>;

    /// Whether the bus hears.
    fn health(&self) -> Health;

    /// Takes the node off the bus. Events and commands on their way may still arrive. Dropping the last handle, or the
    /// end of the process, does the same.
    async fn stop(&self);
}
