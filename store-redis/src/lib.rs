//! A fleet of Strait nodes on Redis 7 or later, or Valkey: a single server or a cluster.
//!
//! Every node makes a [`RedisStore`] of the same servers and the same key prefix:
//!
//! ```no_run
//! # use strait_store_redis::{RedisConfig, RedisStore};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = RedisConfig::from_url("redis://cache.internal:6379/0?prefix=chat:")?;
//! let store = RedisStore::new(config);
//! # let _ = store;
//! # Ok(())
//! # }
//! ```
//!
//! The store connects at its first use, and reconnects by itself. Every call is bounded by
//! [`RedisConfig::command_timeout`]: while Redis is away, calls fail quickly with an error that permits a retry.

mod bus;
mod call;
mod config;
mod direct;
mod due;
mod error;
mod event;
mod hello;
mod keys;
mod links;
mod log;
mod membership;
mod place;
mod publish;
mod random;
mod records;
mod reply;
mod router;
mod script;
mod scripts;
mod server;
mod slot;
mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
mod topology;

pub use config::{ConfigError, RedisConfig};
pub use store::RedisStore;
