//! Events on topics and direct sends to channels, with their payloads and positions.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::name::ChannelId;

/// The format of a payload's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON value (RFC 8259), in UTF-8.
    Json,
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// The content of a message or an event. Text payloads are valid UTF-8 by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    format: Format,
    bytes: Bytes,
}

/// A value as JSON, in exactly the memory that it needs: a channel keeps it for long.
pub(crate) fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, serde_json::Error> {
    Ok(Bytes::from(serde_json::to_vec(value)?.into_boxed_slice()))
}

impl Payload {
    /// A value as JSON.
    ///
    /// # Errors
    /// The error of the value's `Serialize`, or a map key that is not a string.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self { format: Format::Json, bytes: to_bytes(value)? })
    }

    /// Text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { format: Format::Text, bytes: Bytes::from(text.into()) }
    }

    /// Bytes.
    #[must_use]
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { format: Format::Binary, bytes: bytes.into() }
    }

    /// A payload from a store.
    ///
    /// # Errors
    /// Bytes that are not UTF-8 in a format that must be.
    pub fn from_parts(format: Format, bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        if format != Format::Binary {
            std::str::from_utf8(&bytes)?;
        }
        Ok(Self { format, bytes })
    }

    /// The format of the bytes.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A publication, or a direct send to one channel.
    Message,
    /// A channel with presence joined; the payload is its presence entry.
    Join,
    /// A channel with presence left; the payload is its presence entry.
    Leave,
}

/// The handler that published an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publisher {
    /// Its channel.
    pub channel: ChannelId,
    /// The number of the handler on its connection, counted from 1.
    pub turn: u32,
}

/// One event of a topic, or one direct send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The kind.
    pub kind: EventKind,
    /// The payload for the members.
    pub payload: Payload,
    /// The handler that published it. Its own channel gets the event after the reply to the message that is being
    /// handled.
    pub publisher: Option<Publisher>,
    /// The one channel that does not get it.
    pub exclude: Option<ChannelId>,
}

impl Event {
    /// A message without a publisher, for all members.
    #[must_use]
    pub fn message(payload: Payload) -> Self {
        Self { kind: EventKind::Message, payload, publisher: None, exclude: None }
    }
}

/// The place of an event in its topic.
///
/// A topic that has had no event is at offset 0 of its epoch, with check 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Changes when the log is lost; below 2^53, so that every JSON reader keeps it.
    pub epoch: u64,
    /// Counts up by 1 with each event.
    pub offset: u64,
    /// Random per event: it exposes a log that failed over and gave an offset again.
    pub check: u32,
}

/// The part of a topic's log that is kept for recovery. Without retention a publication is fan-out only, at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The most events that are kept.
    pub count: u32,
    /// The age at which an event is dropped.
    pub age: Duration,
}
