//! Strait on Postgres: channels, topics, recovery and presence for a fleet of nodes, in a schema of an existing
//! database. The application can publish inside its own transactions.
//!
//! ```no_run
//! # fn sample() -> Result<(), strait_store_postgres::ConfigError> {
//! use strait_store_postgres::{PostgresConfig, PostgresStore};
//!
//! let store = PostgresStore::new(PostgresConfig::from_url("postgres://strait@db.example/app?sslmode=verify-full")?);
//! # Ok(()) }
//! ```
//!
//! The book's chapter "Postgres" describes the tables, the behaviour on failures, and the costs.

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

/// The version of sqlx behind the types of [`PostgresConfig`] and [`Outgoing`].
pub use sqlx;
