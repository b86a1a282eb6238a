//! Channels, handlers, the event hub and the store traits of Strait.

mod close;
mod event;
mod name;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use close::{Close, MAX_REASON};
pub use event::{Event, EventKind, Format, Payload, Position, Retention};
pub use name::{ChannelId, ConnectionId, InvalidName, MAX_NAME, NodeId, Topic, UserId};
