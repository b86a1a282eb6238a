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
    /// No store, or one that this chat was built without.
    #[error("the store must be memory, or redis://… or postgres://… if this chat was built with it")]
    Unknown,
    /// A Redis URL that cannot be read.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Redis(#[from] strait_store_redis::ConfigError),
    /// A Postgres URL that cannot be read.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] strait_store_postgres::ConfigError),
}

impl Store {
    /// As parsed, for a function. Its instances handle one invocation at a time and are many: one connection for work
    /// is enough for Postgres, unless the URL has `connections`.
    ///
    /// # Errors
    /// A text that names no store.
    pub fn of_function(store: &str) -> Result<Self, UnknownStore> {
        Ok(match store.parse()? {
            #[cfg(feature = "postgres")]
            Self::Postgres(config) if !has_connections(store) => Self::Postgres(Box::new(config.connections(1))),
            other => other,
        })
    }

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

/// Whether a URL says how many connections there may be.
#[cfg(feature = "postgres")]
fn has_connections(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.starts_with("connections="))
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn a_function_takes_one_connection_of_postgres_unless_the_url_says_how_many() {
        for (url, connections) in [
            ("postgres://h/d", "connections: 1,"),
            ("postgres://h/d?schema=connections", "connections: 1,"),
            ("postgres://h/d?schema=a&connections=3", "connections: 3,"),
        ] {
            let store = format!("{:?}", Store::of_function(url).expect(url));
            assert!(store.contains(connections), "{store} for {url}");
        }
        let node: Store = "postgres://h/d".parse().expect("a URL");
        assert!(format!("{node:?}").contains("connections: 10,"));
    }
}
