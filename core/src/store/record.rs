use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::name::{ChannelId, ConnectionId, NodeId, UserId};

/// Where a channel's connection is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// On a long-lived node.
    Node {
        /// The node.
        node: NodeId,
        /// The node's socket.
        connection: ConnectionId,
    },
    /// At a gateway.
    Gateway {
        /// Where connections of the gateway are posted to: its base URL.
        endpoint: Arc<str>,
        /// What the gateway calls the connection.
        connection: ConnectionId,
    },
}

impl Location {
    /// The node, if the connection is on one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Node { node, .. } => Some(node),
            Self::Gateway { .. } => None,
        }
    }

    /// What the node or the gateway calls the connection.
    #[must_use]
    pub fn connection(&self) -> &ConnectionId {
        match self {
            Self::Node { connection, .. } | Self::Gateway { connection, .. } => connection,
        }
    }
}

/// Names one attachment of a channel: what is written with an older generation than the record's fails as stale.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The channel.
    pub id: ChannelId,
    /// Counts the attachments, from 1; a claim counts too.
    pub generation: u64,
}

/// A value with the number of changes made to it. Version 0 was never set; a cleared value keeps counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// How often the value was set or cleared.
    pub version: u64,
    /// The value, unless it was never set or was cleared.
    pub value: Option<T>,
}

impl<T> Default for Versioned<T> {
    fn default() -> Self {
        Self { version: 0, value: None }
    }
}

/// A compare-and-set: the new value (`None` clears) is taken if the stored version is still `expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// The version that was read.
    pub expected: u64,
    /// What replaces the value as a whole.
    pub value: Option<T>,
}

/// Who the client is, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The user.
    pub user: UserId,
    /// The application's value, as JSON.
    pub value: Bytes,
}

/// A value of no more bytes is copied rather than shared: a count of who has it takes as much.
const SHORT: usize = 32;

impl StoredSession {
    /// The same for somebody else who keeps it.
    #[must_use]
    pub fn share(&self) -> Self {
        let value = &self.value;
        let value = if value.len() <= SHORT { Bytes::copy_from_slice(value) } else { value.clone() };
        Self { user: self.user.clone(), value }
    }
}

impl fmt::Debug for StoredSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSession").finish_non_exhaustive()
    }
}

/// The SHA-256 of a resume token; the token itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// How far a channel has come, as far as the store needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPhase {
    /// `on_connect` has not ended.
    Opening,
    /// Connected.
    Open,
    /// Without a connection; dies at `until` unless a client attaches before. By the store's clock.
    Detached {
        /// When the grace ends.
        until: SystemTime,
    },
    /// A tombstone: the channel is dead, somebody runs `on_disconnect`, and nothing brings it back.
    Dead,
}

/// What a store keeps of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The channel.
    pub id: ChannelId,
    /// The name of its endpoint.
    pub endpoint: Arc<str>,
    /// The present generation.
    pub generation: u64,
    /// How far it has come.
    pub phase: RecordPhase,
    /// Where its connection is; kept while the channel is detached or dead, as the last one.
    pub location: Location,
    /// What the client asked for when it connected: path and query, as JSON.
    pub opening: Bytes,
    /// The channel's state, as JSON.
    pub state: Versioned<Bytes>,
    /// The session.
    pub session: Versioned<StoredSession>,
    /// How long a resumable channel stays without a connection, in whole milliseconds; `None` if it is not resumable.
    pub grace: Option<std::time::Duration>,
    /// When it was opened, by the store's clock.
    pub opened_at: SystemTime,
}

impl Record {
    /// The fence of the present generation.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence { id: self.id.clone(), generation: self.generation }
    }
}
