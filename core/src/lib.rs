//! Channels, handlers, the event hub and the store traits of Strait.

mod close;
mod event;
pub mod machine;
mod name;
pub mod store;

pub use close::{Close, MAX_REASON};
pub use event::{Event, EventKind, Format, Payload, Position, Retention};
pub use name::{ChannelId, ConnectionId, InvalidName, MAX_NAME, NodeId, Topic, UserId};
