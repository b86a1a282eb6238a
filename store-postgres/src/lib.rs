//! Strait on Postgres: channels, topics, recovery and presence for a fleet of nodes, in a schema of their own of a
//! database that is there anyway; and publishing inside one's own transaction.
//!
//! ```no_run
//! # fn sample() -> Result<(), strait_store_postgres::ConfigError> {
//! use strait_store_postgres::{PostgresConfig, PostgresStore};
//!
//! let store = PostgresStore::new(PostgresConfig::from_url("postgres://strait@db.example/app?sslmode=verify-full")?);
//! # Ok(()) }
//! ```
//!
//! The book's chapter "Postgres" tells what is kept where, what happens when something fails, and what it costs.

mod addresses;
mod bus;
mod channels;
mod config;
mod database;
mod error;
mod hub;
mod migrate;
mod outgoing;
mod ready;
mod renewal;
mod statements;
mod store;
mod values;

pub use config::{ConfigError, PostgresConfig};
pub use outgoing::Outgoing;
pub use store::PostgresStore;

/// The version of sqlx whose types [`PostgresConfig`] and [`Outgoing`] take.
pub use sqlx;
