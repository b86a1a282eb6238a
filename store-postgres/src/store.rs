//! The store itself: what its handles share.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{Row, SqlStr};
use strait_core::store::StoreError;
use strait_core::{Retention, Topic};

use crate::bus::{Listening, Nodes, Waker};
use crate::config::Config;
use crate::database::{Database, Lane, Values};
use crate::error::from_sqlx;
use crate::migrate::{check, migrate};
use crate::statements::Statements;
use crate::values::{Read, corrupt};

/// How many topics one sweep looks at.
const SWEPT_AT_ONCE: i64 = 200;

/// A store in a Postgres database. Clones are handles onto the same connections.
///
/// It belongs to the runtime that it was connected in: that one must live as long as the store.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) sql: Statements,
    pub(crate) config: Config,
    pub(crate) inbox: Retention,
    pub(crate) nodes: Nodes,
    pub(crate) waker: Waker,
    pub(crate) listening: Listening,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date unless the configuration says not to.
    ///
    /// # Errors
    /// The database cannot be reached; `Misconfigured` if it cannot be used as it is.
    pub async fn connect(config: Config) -> Result<Self, StoreError> {
        let database = Database::new(&config);
        let mut connection = database.connection("connect").await?;
        if config.migrate {
            migrate(&mut connection, &config.schema).await.map_err(|error| from_sqlx("connect", error))?;
        }
        check(&mut connection, &config.schema).await?;
        drop(connection);
        let inner = Inner {
            sql: Statements::new(&config.schema),
            inbox: config.inbox,
            nodes: Nodes::default(),
            waker: Waker::new(&config),
            listening: Listening::default(),
            database,
            config,
        };
        let inner = Arc::new(inner);
        inner.waker.begin(&inner);
        Ok(Self { inner })
    }

    /// Closes all connections. Calls that come later fail as unavailable.
    pub async fn close(&self) {
        self.inner.listening.end();
        self.inner.database.close().await;
    }

    /// Has this process's nodes look for events at once, and the others soon: after a transaction that
    /// [published](crate::Outgoing) has committed, say. Without it they do with their next poll.
    pub fn wake(&self) {
        self.inner.nodes.wake_all();
        self.inner.waker.wake();
    }

    pub(crate) async fn rows(
        &self,
        op: &'static str,
        lane: Lane,
        sql: &SqlStr,
        values: Values,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.inner.database.rows(op, lane, sql, values).await
    }

    /// Runs a statement that answers one row.
    pub(crate) async fn one(
        &self,
        op: &'static str,
        lane: Lane,
        sql: &SqlStr,
        values: Values,
    ) -> Result<PgRow, StoreError> {
        let row = self.rows(op, lane, sql, values).await?.into_iter().next();
        self.read(op, row.ok_or_else(|| corrupt("a statement without an answer")))
    }

    /// Runs a statement that answers one value.
    pub(crate) async fn value<T>(
        &self,
        op: &'static str,
        lane: Lane,
        sql: &SqlStr,
        values: Values,
    ) -> Result<T, StoreError>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let row = self.one(op, lane, sql, values).await?;
        self.read(op, row.try_get(0))
    }

    #[allow(clippy::unused_self, reason = "a call reads as one of the store's")]
    pub(crate) fn read<T>(&self, op: &'static str, read: Read<T>) -> Result<T, StoreError> {
        read.map_err(|error| from_sqlx(op, error))
    }

    /// Empties what the bus has carried, drops what is too old and forgets topics of which nobody knows: a part.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        self.rows("sweep", Lane::Vital, &self.inner.sql.rotate, Values::new()).await?;
        self.rows("sweep", Lane::Vital, &self.inner.sql.sweep, Values::new().with(SWEPT_AT_ONCE)).await.map(drop)
    }
}

impl Inner {
    /// After something was published: wakes this process's nodes that hear one of the topics, and the others if they
    /// do.
    pub(crate) fn wake<'a>(&self, others: bool, topics: impl Iterator<Item = &'a Topic>) {
        self.nodes.wake_hearers(topics);
        if others {
            self.waker.wake();
        }
    }
}
