//! The memory store: its own behaviour, and the conformance suite.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod conformance;
mod faults;
mod leftovers;
mod limits;
mod races;
