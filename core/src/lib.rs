//! Channels, handlers, the event hub and the store traits of Strait.

mod app;
mod channel;
mod close;
mod conversation;
mod endpoint;
mod error;
mod event;
mod frame;
mod gateway;
mod handler;
mod hub;
mod in_full;
mod inbound;
mod invocation;
pub mod machine;
mod name;
mod observed;
mod outlet;
mod panics;
mod policy;
mod protocol;
mod spare;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
mod throttled;

pub use app::{Accepted, Admitted, App, AppBuilder, BuildError, Gaps, OpeningData, Refusal, path_in_query};
pub use channel::{Channel, ChannelState, Session};
pub use close::{Close, MAX_REASON};
pub use conversation::{Conversation, Driven};
pub use endpoint::{Endpoint, Route};
pub use error::Error;
pub use event::{Event, EventKind, Format, Payload, Position, Publisher, Retention};
pub use frame::{Frame, FrameKind, MAX_HEADER, frame_header};
pub use gateway::{Binary, Capabilities, Gateway, GatewayConnection, Post, Posted, Probed};
pub use handler::{
    Admit, BoxFuture, ConnectContext, Connected, Context, DisconnectContext, DisconnectReason, Extract, Handler,
    HandlerLayer, HasChannel, Headers, IntoReply, Json, MessageContext, MessageService, NoReply, OpenContext, Opening,
    Peer, Reply, Requirement, Respond, State, Valid, Validate,
};
pub use hub::{Continuation, EventHub, NotReady, Publish, Work};
pub use in_full::in_full;
pub use inbound::Inbound;
pub use invocation::{Handshake, Handshaken, Invocation};
pub use name::{ChannelId, ConnectionId, InvalidName, MAX_NAME, NodeId, Topic, UserId};
pub use outlet::{Nowhere, Outlet};
pub use policy::{Limits, Ordering, Origins, RateLimit, SlowClient, Transport};
pub use throttled::Throttled;

/// Entry points of the repository's fuzz targets; only in fuzzing builds.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::protocol::plain::reference::fuzz as plain;
}
