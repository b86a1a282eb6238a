//! The adapter from outside: a server on loopback, and clients that may send anything.

mod kit;

mod backlog;
mod closing;
mod drain;
mod handshake;
mod lifecycle;
mod logs;
mod metrics;
mod mount;
mod panics;
mod pending;
mod plain;
mod rate;
mod slow;
mod sockets;
#[cfg(feature = "tls")]
mod tls;
