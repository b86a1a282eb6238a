//! Servers for tests that break them; `redis-server` must be on the path. The servers end with the test, however it
//! ends.

mod cluster;
mod server;

pub use cluster::Cluster;
pub use server::Server;
