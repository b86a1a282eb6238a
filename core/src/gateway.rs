//! Gateways hold connections outside of the node. The server posts to them, closes them and probes them remotely.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::close::Close;
use crate::event::{Format, Payload};
use crate::frame::{Frame, FrameKind};
use crate::name::ConnectionId;
use crate::store::Location;

/// One connection at a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayConnection {
    /// The base URL for posts to connections of this gateway.
    pub endpoint: Arc<str>,
    /// The gateway's id of the connection.
    pub id: ConnectionId,
}

impl GatewayConnection {
    /// The connection of a location, if it is at a gateway.
    #[must_use]
    pub fn of(location: &Location) -> Option<Self> {
        match location {
            Location::Gateway { endpoint, connection } => {
                Some(Self { endpoint: Arc::clone(endpoint), id: connection.clone() })
            }
            Location::Node { .. } => None,
        }
    }

    /// The location that stores keep.
    #[must_use]
    pub fn location(&self) -> Location {
        Location::Gateway { endpoint: Arc::clone(&self.endpoint), connection: self.id.clone() }
    }
}

/// A message for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The connection.
    pub to: GatewayConnection,
    /// The frame: the payload alone.
    pub frame: Frame,
}

/// The outcome of one [`Post`], or of a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Posted {
    /// The gateway accepted it. The client may not have it yet.
    Sent,
    /// The gateway knows no such connection: it has ended, or is not established yet.
    Gone,
    /// The gateway takes no message of this size. Nothing was sent.
    TooLarge,
    /// The gateway refused it for now, until the deadline.
    Throttled,
    /// The gateway refuses us: permissions, credentials, endpoint. Trying again does not help.
    Misconfigured,
    /// No answer, or a failure of the gateway, until the deadline. It may have been sent.
    Unsent,
}

impl Posted {
    /// For metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::Throttled => "throttled",
            Self::Misconfigured => "misconfigured",
            Self::Unsent => "unsent",
        }
    }
}

/// Whether a connection is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// The gateway knows it.
    Alive,
    /// The gateway does not know it.
    Gone,
    /// The gateway did not say.
    Unknown,
}

/// How a gateway carries bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Binary {
    /// As binary messages.
    Frames,
    /// As text, `{"$binary":"<base64>"}`, in both directions.
    Envelope,
    /// Not at all: the client gets a gap notice.
    #[default]
    Refused,
}

/// The capabilities of a gateway. A missing one is reported, never imitated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The longest message that it takes, in bytes.
    pub max_message: usize,
    /// How it carries bytes.
    pub binary: Binary,
    /// Whether a close can carry a code and a reason.
    pub close_codes: bool,
    /// The longest life of a connection. With `None`, a channel is never found if its process died after opening it and
    /// before listing it for the janitor. Set a bound wherever there is one; API Gateway documents its own.
    pub lifetime: Option<Duration>,
    /// The time after a channel's opening in which "no such connection" may mean that it is not established yet.
    pub handshake: Duration,
    /// The time limit for posting one message, if no deadline is nearer.
    pub patience: Duration,
    /// The janitor probes the connections of channels that are older than this.
    pub quiet: Duration,
}

/// Posts to connections at a gateway, for nodes and serverless invocations alike.
///
/// No method fails as a whole: each reports an outcome for every item by the deadline.
#[async_trait]
pub trait Gateway: Debug + Send + Sync + 'static {
    /// The capabilities of this gateway.
    fn capabilities(&self) -> Capabilities;

    /// Posts messages and answers item by item; retries until the deadline where that can help. Messages for one
    /// connection arrive in the slice's order, and after those of earlier calls of this process. If one is not sent,
    /// later ones of the slice for that connection are not tried, and get the same outcome. The number of concurrent
    /// posts is bounded.
    async fn post(&self, posts: &[Post], deadline: Instant) -> Vec<Posted>;

    /// Closes a connection.
    async fn close(&self, to: &GatewayConnection, close: &Close, deadline: Instant) -> Posted;

    /// Asks whether a connection is there.
    async fn probe(&self, to: &GatewayConnection, deadline: Instant) -> Probed;
}

/// The JSON form of bytes for a gateway that carries text only.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(rename = "$binary")]
    binary: String,
}

/// The length of an empty envelope.
const ENVELOPE: usize = r#"{"$binary":""}"#.len();

/// The clock skew that is allowed before a connection counts as beyond its lifetime.
const SLACK: Duration = Duration::from_mins(5);

impl Capabilities {
    /// The highest age of a channel with a connection that still exists.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.lifetime.map(|lifetime| lifetime + SLACK.min(lifetime))
    }

    /// Encodes a payload for this gateway; `None` if the gateway cannot carry it.
    pub(crate) fn encode(&self, payload: &Payload) -> Option<Frame> {
        if payload.format() == Format::Binary { self.bytes(payload.bytes()) } else { self.fits(Frame::of(payload)) }
    }

    /// Whether this gateway carries a message of this size.
    pub(crate) fn carries(&self, kind: FrameKind, bytes: usize) -> bool {
        match (kind, self.binary) {
            (FrameKind::Text, _) | (FrameKind::Binary, Binary::Frames) => bytes <= self.max_message,
            (FrameKind::Binary, Binary::Envelope) => {
                let encoded = base64::encoded_len(bytes, true).and_then(|len| len.checked_add(ENVELOPE));
                encoded.is_some_and(|len| len <= self.max_message)
            }
            (FrameKind::Binary, Binary::Refused) => false,
        }
    }

    /// Encodes a frame for this gateway; `None` if the gateway cannot carry it.
    pub(crate) fn carry(&self, frame: Frame) -> Option<Frame> {
        match frame.kind() {
            FrameKind::Text => self.fits(frame),
            FrameKind::Binary => self.bytes(&frame.payload()),
        }
    }

    fn bytes(&self, bytes: &Bytes) -> Option<Frame> {
        match self.binary {
            Binary::Frames => self.fits(Frame::new(FrameKind::Binary, &[bytes])),
            Binary::Envelope => {
                let envelope = serde_json::to_vec(&Envelope { binary: BASE64_STANDARD.encode(bytes) }).ok()?;
                self.fits(Frame::new(FrameKind::Text, &[&envelope]))
            }
            Binary::Refused => None,
        }
    }

    fn fits(&self, frame: Frame) -> Option<Frame> {
        (frame.payload().len() <= self.max_message).then_some(frame)
    }

    /// The bytes of a client's envelope.
    pub(crate) fn open_envelope(&self, text: &[u8]) -> Option<Vec<u8>> {
        if self.binary != Binary::Envelope || !text.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let envelope: Envelope = serde_json::from_slice(text).ok()?;
        BASE64_STANDARD.decode(envelope.binary).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(binary: Binary) -> Capabilities {
        let (handshake, patience, quiet) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        Capabilities { max_message: 32, binary, close_codes: false, lifetime: None, handshake, patience, quiet }
    }

    #[test]
    fn bytes_travel_in_an_envelope_only_where_that_was_chosen() {
        let payload = Payload::binary(&b"\x00\xff"[..]);
        assert_eq!(of(Binary::Refused).encode(&payload), None);
        let envelope = of(Binary::Envelope).encode(&payload).expect("it fits");
        assert_eq!(&envelope.payload()[..], br#"{"$binary":"AP8="}"#);
        assert_eq!(envelope.kind(), FrameKind::Text);
        let opened = of(Binary::Envelope).open_envelope(&envelope.payload());
        assert_eq!(opened.as_deref(), Some(&b"\x00\xff"[..]));
        assert_eq!(of(Binary::Refused).open_envelope(&envelope.payload()), None);
        for other in [&br#"{"$binary":"AP8=","more":1}"#[..], br#"{"$binary":"?"}"#, b"[]", b""] {
            assert_eq!(of(Binary::Envelope).open_envelope(other), None);
        }
        let frames = of(Binary::Frames).encode(&payload).expect("it fits");
        assert_eq!((frames.kind(), &frames.payload()[..]), (FrameKind::Binary, &b"\x00\xff"[..]));
    }

    #[test]
    fn what_is_too_large_is_not_carried() {
        let any = of(Binary::Envelope);
        assert!(any.encode(&Payload::text("x".repeat(32))).is_some());
        assert_eq!(any.encode(&Payload::text("x".repeat(33))), None);
        assert_eq!(any.encode(&Payload::binary(vec![0; 24])), None, "the envelope counts");
        for binary in [Binary::Frames, Binary::Envelope, Binary::Refused] {
            for (kind, size) in
                [FrameKind::Text, FrameKind::Binary].into_iter().flat_map(|kind| (0..40).map(move |size| (kind, size)))
            {
                let carried = of(binary).carry(Frame::new(kind, &[&vec![b'x'; size]])).is_some();
                assert_eq!(of(binary).carries(kind, size), carried, "{binary:?} {kind:?} {size}");
            }
        }
    }
}
