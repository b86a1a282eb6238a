//! The Postgres store: the conformance suite, and its own behaviour. `cargo xtask test-all` gives the server.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod addresses;
mod conformance;
mod costs;
mod faults;
mod feed;
mod full;
mod gateways;
mod kit;
mod leases;
mod mail;
mod outbox;
mod places;
mod poison;
mod pooler;
mod restart;
mod runtimes;
mod search_path;
mod tables;
#[cfg(feature = "tls")]
mod tls;
mod wakes;
mod wiped;
