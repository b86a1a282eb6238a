//! Clients that mean harm. Each meets a server in a process of its own, so that what it costs can be counted: memory, descriptors,
//! tasks, panics, and what honest clients feel of it meanwhile. It reads `/proc`, so it is Linux's.
//!
//! `cargo xtask hostile` runs it for release, alone and with its big siblings, and prints the figures of the book's page.
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
