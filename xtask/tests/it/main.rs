//! `cargo xtask` as its users meet it: a program with arguments, signals and servers.

#![expect(clippy::unwrap_used, reason = "a panic is how tests fail, also in what they share")]

mod arguments;
mod conformance;
mod ending;
mod ways;
mod wire;
mod xtask;
