//! The Redis store, on servers that the test run was given or that the tests start.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "how long a recovery took is worth a line")]

mod bounds;
mod cluster;
mod cluster_faults;
mod config;
mod conformance;
mod connects;
mod costs;
mod databases;
mod failover;
mod faults;
mod key_table;
mod kit;
mod records;
mod runtimes;
mod silence;
mod slices;
