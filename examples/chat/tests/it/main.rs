//! The chat as its users meet it: by WebSocket, by browser and on the command line.

#![allow(clippy::print_stderr, reason = "how long a recovery took is worth a line")]

#[cfg(all(feature = "lambda", feature = "postgres", feature = "redis"))]
mod afar;
mod command_line;
mod endpoints;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod fault_counts;
#[cfg(all(feature = "postgres", feature = "redis"))]
mod fleet;
#[cfg(feature = "redis")]
mod fleet_faults;
#[cfg(all(feature = "lambda", feature = "redis"))]
mod functions;
mod kit;
mod page;
#[cfg(feature = "redis")]
mod remote_topics;
mod room;
