//! The store itself: the state that its handles share.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{Connection, Row, SqlStr};
use strait_core::Topic;
use strait_core::store::{StoreError, StoreErrorKind};
use tokio::time::timeout;

use crate::bus::{Listening, Nodes, Waker};
use crate::config::PostgresConfig;
use crate::database::{Database, Lane, Values, late};
use crate::error::{error, from_sqlx};
use crate::migrate::{LATEST, check, migrate};
use crate::ready::Ready;
use crate::statements::Statements;
use crate::values::{Read, corrupt};

/// The topics of one transaction, which keeps the changed ones locked.
const SWEPT_AT_ONCE: i64 = 200;
/// The most parts of one sweep.
const MOST_PARTS: usize = 50;

/// A store in a Postgres database. Clones are handles onto the same connections.
///
/// Its connections belong to the runtime of its first use, which must run as long as other runtimes use the store.
/// After that runtime's end they are made anew on the next one that uses the store. A node's tasks belong to the
/// runtime that started it, and end with it.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) sql: Statements,
    pub(crate) config: PostgresConfig,
    pub(crate) ready: Ready,
    pub(crate) nodes: Nodes,
    pub(crate) waker: Waker,
    pub(crate) listening: Listening,
}

impl PostgresStore {
    /// A store that connects at its first use, and then brings the schema up to date unless the configuration forbids
    /// it. It does so again when a call finds that the schema is gone.
    #[must_use]
    pub fn new(config: PostgresConfig) -> Self {
        let inner = Inner {
            sql: Statements::new(&config.schema),
            ready: Ready::default(),
            nodes: Nodes::new(),
            waker: Waker::new(&config),
            listening: Listening::default(),
            database: Database::new(&config),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Checks that the database can be reached and used, as the first call does anyway.
    ///
    /// # Errors
    /// The database cannot be reached; `Misconfigured` if it cannot be used as it is.
    pub async fn connect(&self) -> Result<(), StoreError> {
        self.inner.ready.or_prepare(async || self.prepare().await).await?;
        self.inner.waker.begin(&self.inner);
        Ok(())
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        let config = &self.inner.config;
        let failed = |error| from_sqlx("connect", error);
        // Not a pooled connection: a time-out leaves it half-way through, and nothing else may use it.
        let mut connection = self.inner.database.connection("connect").await?;
        let found = timeout(config.operation, check(&mut connection, &config.schema)).await;
        let found = found.map_err(|_| late("connect"))??;
        if found < LATEST && !config.migrate {
            let source = "the schema is missing or old, let a role that may create it connect with migrations on";
            return Err(error(StoreErrorKind::Misconfigured, "connect", source));
        }
        if found < LATEST {
            migrate(&mut connection, &config.schema).await.map_err(failed)?;
        }
        connection.close().await.map_err(failed)
    }

    /// Closes all connections. Later calls fail as unavailable.
    pub async fn close(&self) {
        self.inner.listening.end();
        self.inner.database.close().await;
    }

    /// Makes this process's nodes look for events at once, and the others soon. Call it, for example, after the commit
    /// of a transaction that has [published](crate::Outgoing). Otherwise nodes find the events with their next poll.
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
        self.connect().await?;
        self.inner.database.rows(op, lane, sql, values).await.inspect_err(|failure| self.inner.ready.doubt(failure))
    }

    /// Runs a statement with one row for an answer.
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

    /// Runs a statement with one value for an answer.
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

    /// Does a part of the sweep: empties read slots of the feed, drops old events and forgets unused topics.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let rotated = self.rows("sweep", Lane::Vital, &self.inner.sql.rotate, Values::new()).await;
        self.sweep_topics().await?;
        rotated.map(drop)
    }

    async fn sweep_topics(&self) -> Result<(), StoreError> {
        for _ in 0..MOST_PARTS {
            let values = Values::new().with(SWEPT_AT_ONCE);
            if !self.value::<bool>("sweep", Lane::Vital, &self.inner.sql.sweep, values).await? {
                break;
            }
        }
        Ok(())
    }
}

impl Inner {
    /// After a publication: wakes the nodes of this process that hear one of the topics, and with `others` those of
    /// other processes.
    pub(crate) fn wake<'a>(&self, others: bool, topics: impl Iterator<Item = &'a Topic>) {
        self.nodes.wake_hearers(topics);
        if others {
            self.waker.wake();
        }
    }
}
