//! The way out to a client, as an adapter provides it.

use std::fmt::Debug;

use crate::frame::{Frame, FrameKind};
use crate::name::Topic;

/// One connection's way out. Every method is synchronous and never blocks; after the close frame nothing goes out.
pub trait Outlet: Debug + Send + Sync + 'static {
    /// The connection's handler number `turn` begins (from 1): events that it publishes are held back until it ends.
    fn handler_begins(&self, turn: u32);

    /// The handler has ended, its reply is out: what was held back goes.
    fn handler_ended(&self);

    /// Sends a message in several parts, in order with everything that this connection's handlers send.
    fn reply(&self, kind: FrameKind, parts: &[&[u8]]);

    /// Whether the transport carries a reply of this kind and so many bytes. What it does not carry is answered with
    /// an error.
    fn carries(&self, _kind: FrameKind, _bytes: usize) -> bool {
        true
    }

    /// Sends a message; it is never dropped for a slow client.
    fn send(&self, frame: &Frame);

    /// Sends events of a topic, which the slow-client policy may drop. `turn` is the number of this connection's
    /// handler that published them, if one did.
    fn events(&self, topic: &Topic, frames: &[Frame], turn: Option<u32>);

    /// Tells of lost events, once for a run of losses.
    fn gap(&self, topic: &Topic);

    /// Something changed that the connection's driver must look at: a close was asked for, the lease is sure again.
    fn wake(&self);
}

/// The way out of a channel that has no connection: everything is dropped.
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
