//! Clients that mean harm. Each meets a server in a process of its own, so that a test can count the cost: memory,
//! descriptors, tasks, panics, and the delay of honest clients. The suite reads `/proc`, so it needs Linux.
//!
//! `cargo xtask hostile` runs the suite in release mode, alone and with its big siblings, and prints the figures of the
//! book's page.
#![cfg(target_os = "linux")]

#[path = "../it/kit/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the other suite uses the rest")]
mod kit;

mod victim;

mod floods;
mod frames;
mod heads;
mod heavy;
mod resets;
mod siege;
mod slow;
mod utf8;
