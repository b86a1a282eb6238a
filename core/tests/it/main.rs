//! The promises of channels, handlers and the hub, through a store in memory.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod anew;
mod building;
mod captured;
mod causes;
mod client;
mod delivery;
mod ending;
mod ends;
mod gateways;
mod handlers;
mod handshake;
mod lanes;
mod layers;
mod leases;
mod lifecycle;
mod lines;
mod log;
mod node;
mod node_death;
mod panics;
mod presence;
mod records;
mod recovery;
mod sessions;
mod state;
mod store_trouble;
mod storms;
mod subscribing;
