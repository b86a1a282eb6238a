//! The chat as its users meet it: by WebSocket, by browser and on the command line.

mod command_line;
mod endpoints;
#[cfg(feature = "redis")]
mod fleet;
#[cfg(feature = "redis")]
mod fleet_faults;
mod kit;
mod room;
