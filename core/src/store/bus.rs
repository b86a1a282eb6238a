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

/// Something that one node asks of another about a channel there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send an event to the channel.
    Deliver {
        /// The channel.
        channel: ChannelId,
        /// Its place in the channel's inbox, if it has one.
        position: Option<Position>,
        /// What to send.
        event: Arc<Event>,
    },
    /// Close the channel.
    Close {
        /// The channel.
        channel: ChannelId,
        /// Why.
        close: Close,
    },
    /// The channel has moved on: drop the connection of this generation without ending the channel.
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

/// Whether the bus hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Whether publications of other nodes arrive.
    pub hears: bool,
    /// How long the last publication, or probe, took to arrive.
    pub lag: Option<Duration>,
}

/// Where a node takes what the bus brings. Every method is synchronous, never blocks and never calls the store, which
/// may hold a topic's lock meanwhile.
pub trait Sink: Debug + Send + Sync + 'static {
    /// Events of one topic, in offset order.
    fn events(&self, topic: &Topic, events: &[(Position, Arc<Event>)]);

    /// A command to this node.
    fn command(&self, command: Command);

    /// Events of these topics may have been lost. Of retained topics the hub replays what is missing from the store; a
    /// bus goes on with what comes next.
    fn gap(&self, topics: &[Topic]);

    /// The node hears again after its connection to the store broke. The store may have failed over and lost what was
    /// written last: the hub compares the node's channels with their records.
    fn reconnected(&self) {}

    /// The runtime on which a topic's events are handed to its members, if there is one that is always the same: a bus that
    /// hears them there wakes no other thread.
    fn runtime(&self, _topic: &Topic) -> Option<Handle> {
        None
    }

    /// These retained topics have events that no hub has published, from a transaction say, and
    /// [indexed](super::Subscription::indexed) members, who have yet to get them. Who gave them their offsets tells its own
    /// node.
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
    /// Ends and begins hearing of topics, in this order. Answers the head of each topic of `on`: what is published
    /// after it will be heard, through [`Sink::events`].
    ///
    /// # Errors
    /// The bus cannot be reached, or the node has left it: no topic of `on` is heard because of this call, and none of
    /// `off` for long.
    async fn interest(&self, on: &[Topic], off: &[Topic]) -> Result<Vec<Position>, StoreError>;

    /// Puts commands into a node's mailbox; `false` if there is no such node. They arrive in order.
    ///
    /// # Errors
    /// The bus cannot be reached.
    async fn send(&self, node: &NodeId, commands: &[Command]) -> Result<bool, StoreError>;

    /// Whether the bus hears.
    fn health(&self) -> Health;

    /// Takes the node off the bus. What is under way may still arrive. Dropping the last handle does the same, as the
    /// end of the process would.
    async fn stop(&self);
}
