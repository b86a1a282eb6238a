//! Serves Strait channels from long-lived nodes, on fastwebsockets and hyper.

mod chatter;
mod connection;
mod frame;
mod handshake;
mod hosts;
mod lines;
mod opening;
mod outbox;
mod peer;
mod registry;
mod server;
mod service;
mod task;

pub use server::{Runtimes, Server, ServerHandle, ServerLimits};
pub use service::{Answer, Channels, RemoteAddr};

/// Entry points of the repository's fuzz targets; present only in their builds.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::frame::fuzz as frames;
}
