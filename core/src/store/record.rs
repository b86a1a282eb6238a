use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::name::{ChannelId, ConnectionId, NodeId, UserId};

/// The place of a channel's connection.
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
        /// The base URL for posts to connections of the gateway.
        endpoint: Arc<str>,
        /// The gateway's id of the connection.
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

    /// The node's or the gateway's id of the connection.
    #[must_use]
    pub fn connection(&self) -> &ConnectionId {
        match self {
            Self::Node { connection, .. } | Self::Gateway { connection, .. } => connection,
        }
    }
}

/// Names one attachment of a channel: a write with an older generation than the record's fails as stale.
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
    /// The number of times that the value was set or cleared.
    pub version: u64,
    /// The value, unless it was never set or was cleared.
    pub value: Option<T>,
}

impl<T> Default for Versioned<T> {
    fn default() -> Self {
        Self { version: 0, value: None }
    }
}

/// A compare-and-set: the store takes the new value (`None` clears) if its version is still `expected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// The version that was read.
    pub expected: u64,
    /// The whole new value.
    pub value: Option<T>,
}

/// The client's session, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The user.
    pub user: UserId,
    /// The application's value, as JSON.
    pub value: Bytes,
}

/// Values up to this size are copied: an `Arc` header would cost as much.
const SHORT: usize = 32;

impl StoredSession {
    /// A copy for another holder: short values are copied, long ones shared.
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

/// The phase of a channel's life, as far as the store needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPhase {
    /// `on_connect` has not ended.
    Opening,
    /// Connected.
    Open,
    /// Without a connection. The channel dies at `until`, by the store's clock, unless a client attaches before.
    Detached {
        /// The end of the grace.
        until: SystemTime,
    },
    /// A tombstone: the channel is dead for good, and a claimant runs `on_disconnect`.
    Dead,
}

/// A store's record of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The channel.
    pub id: ChannelId,
    /// The name of its endpoint.
    pub endpoint: Arc<str>,
    /// The present generation.
    pub generation: u64,
    /// Its phase.
    pub phase: RecordPhase,
    /// The place of its connection; while the channel is detached or dead, of its last one.
    pub location: Location,
    /// The client's request when it connected: path and query, as JSON.
    pub opening: Bytes,
    /// The channel's state, as JSON.
    pub state: Versioned<Bytes>,
    /// The session.
    pub session: Versioned<StoredSession>,
    /// The time that a resumable channel stays without a connection, in whole milliseconds; `None` if it is not
    /// resumable.
    pub grace: Option<std::time::Duration>,
    /// The time at which it was opened, by the store's clock.
    pub opened_at: SystemTime,
}

impl Record {
    /// The fence of the present generation.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence { id: self.id.clone(), generation: self.generation }
    }
}
