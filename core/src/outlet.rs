//! The way out to a client, as an adapter provides it.

use std::fmt::Debug;

use crate::frame::{Frame, FrameKind};
use crate::name::Topic;

/// One connection's way out. Every method is synchronous and never blocks; after the close frame nothing goes out.
pub trait Outlet: Debug + Send + Sync + 'static {
    /// A handler begins: events that its own channel publishes are held back until it ends.
    fn handler_begins(&self);

    /// The handler has ended, its reply is out: what was held back goes.
    fn handler_ended(&self);

    /// Sends a message in several parts, in order with everything that this connection's handlers send.
    fn reply(&self, kind: FrameKind, parts: &[&[u8]]);

    /// Sends a message; it is never dropped for a slow client.
    fn send(&self, frame: &Frame);

    /// Sends events of a topic, which the slow-client policy may drop. `own` if this connection's channel published them.
    fn events(&self, topic: &Topic, frames: &[Frame], own: bool);

    /// Tells of lost events, once for a run of losses.
    fn gap(&self, topic: &Topic);

    /// Something changed that the connection's driver must look at: a close was asked for, the lease is sure again.
    fn wake(&self);
}

/// The way out of a channel that has no connection: everything is dropped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

impl Outlet for Nowhere {
    fn handler_begins(&self) {}

    fn handler_ended(&self) {}

    fn reply(&self, _: FrameKind, _: &[&[u8]]) {}

    fn send(&self, _: &Frame) {}

    fn events(&self, _: &Topic, _: &[Frame], _: bool) {}

    fn gap(&self, _: &Topic) {}

    fn wake(&self) {}
}
