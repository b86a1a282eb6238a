//! The adapter through the local gateway: real WebSockets in front, real HTTP behind.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod client;
mod deadlines;
mod disconnects;
mod events;
mod handshakes;
mod kit;
mod limits;
mod management;
mod messages;
mod races;
mod topics;
