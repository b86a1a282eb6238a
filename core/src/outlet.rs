//! An outlet takes a channel's messages to its client; adapters provide it.

use std::fmt::Debug;

use crate::frame::{Frame, FrameKind};
use crate::name::Topic;

/// The outlet of one connection. Every method is synchronous and never blocks; no message follows the close frame.
pub trait Outlet: Debug + Send + Sync + 'static {
    /// The connection's handler number `turn` begins (from 1): events that it publishes are held back until it ends.
    fn handler_begins(&self, turn: u32);

    /// The handler has ended and its reply is out: the events that were held back go out.
    fn handler_ended(&self);

    /// Sends a message in several parts, in order with everything that this connection's handlers send.
    fn reply(&self, kind: FrameKind, parts: &[&[u8]]);

    /// Whether the transport carries a reply of this kind and size. Other replies become errors.
    fn carries(&self, _kind: FrameKind, _bytes: usize) -> bool {
        true
    }

    /// Sends a message; it is never dropped for a slow client.
    fn send(&self, frame: &Frame);

    /// Sends events of a topic, which the slow-client policy may drop. `turn` is the number of this connection's
    /// handler that published them, if one did.
    fn events(&self, topic: &Topic, frames: &[Frame], turn: Option<u32>);

    /// Sends a gap notice, once for a run of losses.
    fn gap(&self, topic: &Topic);

    /// Wakes the connection's driver after a change: a close was requested, or the lease is sure again.
    fn wake(&self);
}

/// The outlet of a channel without a connection: everything is dropped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

impl Outlet for Nowhere {
    fn handler_begins(&self, _: u32) {}

    fn handler_ended(&self) {}

    fn reply(&self, _: FrameKind, _: &[&[u8]]) {}

    fn send(&self, _: &Frame) {}

    fn events(&self, _: &Topic, _: &[Frame], _: Option<u32>) {}

    fn gap(&self, _: &Topic) {}

    fn wake(&self) {}
}
