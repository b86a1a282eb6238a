//! Which store the chat keeps its channels and topics in, as text: `memory`, `redis://…`, `postgres://…`.

use std::str::FromStr;

use strait_core::AppBuilder;
use strait_store_memory::MemoryStore;
#[cfg(feature = "postgres")]
use strait_store_postgres::{PostgresConfig, PostgresStore};
#[cfg(feature = "redis")]
use strait_store_redis::{RedisConfig, RedisStore};

/// Where channels and topics are kept.
#[derive(Debug, Clone)]
pub enum Store {
    /// In this process.
    Memory,
    /// In a Redis, for all chats with the same one.
    #[cfg(feature = "redis")]
    Redis(Box<RedisConfig>),
    /// In a Postgres, for all chats with the same one.
    #[cfg(feature = "postgres")]
    Postgres(Box<PostgresConfig>),
}

impl FromStr for Store {
    type Err = UnknownStore;

    fn from_str(store: &str) -> Result<Self, UnknownStore> {
        if store == "memory" {
            return Ok(Self::Memory);
        }
        match store.split_once("://").map_or("", |(scheme, _)| scheme) {
            #[cfg(feature = "redis")]
            "redis" | "rediss" => Ok(Self::Redis(Box::new(RedisConfig::from_url(store)?))),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Ok(Self::Postgres(Box::new(PostgresConfig::from_url(store)?))),
            _ => Err(UnknownStore::Unknown),
        }
    }
}

/// A text that names no store.
#[derive(Debug, thiserror::Error)]
pub enum UnknownStore {
    /// None at all, or one that this chat was built without.
    #[error("the store must be memory, or redis://… or postgres://… if this chat was built with it")]
    Unknown,
    /// A Redis whose URL cannot be read.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Redis(#[from] strait_store_redis::ConfigError),
    /// A Postgres whose URL cannot be read.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] strait_store_postgres::ConfigError),
}

impl Store {
    /// Gives an application this store.
    pub fn give(self, app: AppBuilder) -> AppBuilder {
        match self {
            Self::Memory => app.store(MemoryStore::new()),
            #[cfg(feature = "redis")]
            Self::Redis(config) => app.store(RedisStore::new(*config)),
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => app.store(PostgresStore::new(*config)),
        }
    }
}
