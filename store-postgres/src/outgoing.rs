//! Publishing inside one's own transaction.

use std::sync::Arc;

use sqlx::{Postgres, Transaction};
use strait_core::store::StoreError;
use strait_core::{Payload, Retention, Topic};

use crate::error::from_sqlx;
use crate::store::PostgresStore;
use crate::values::{format, millis};

/// What a transaction publishes: the event exists if and only if it commits.
#[derive(Debug, Clone)]
#[must_use]
pub struct Outgoing {
    topic: Topic,
    payload: Payload,
    retention: Option<Retention>,
    key: Option<Arc<str>>,
}

impl Outgoing {
    /// An event, kept as the topic's last one was.
    pub fn new(topic: Topic, payload: Payload) -> Self {
        Self { topic, payload, retention: None, key: None }
    }

    /// How much of the topic is kept. It should be what the application says in
    /// [`AppBuilder::retain`](strait_core::AppBuilder::retain).
    pub fn retain(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Of all events with the same key one is published, see
    /// [`Publication::key`](strait_core::store::Publication::key).
    pub fn key(mut self, key: impl AsRef<str>) -> Self {
        self.key = Some(Arc::from(key.as_ref()));
        self
    }
}

impl PostgresStore {
    /// Publishes in a transaction of the application's own, on any connection to the store's database. No lock is taken
    /// that another transaction waits for. After the commit [`wake`](Self::wake) spares the event the wait for the next
    /// poll.
    ///
    /// In SQL it is `SELECT strait.publish('topic', '{"a":1}')`.
    ///
    /// # Errors
    /// What the database answers; the transaction can then only be rolled back.
    pub async fn publish_in(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        outgoing: &Outgoing,
    ) -> Result<(), StoreError> {
        self.connect().await?;
        let retention = outgoing.retention;
        sqlx::query(self.inner.sql.enqueue.clone())
            .bind(outgoing.topic.as_str())
            .bind(format(outgoing.payload.format()))
            .bind(&outgoing.payload.bytes()[..])
            .bind(outgoing.key.as_deref().map(str::as_bytes))
            .bind(retention.map(|kept| i64::from(kept.count)))
            .bind(retention.map(|kept| millis(kept.age)))
            .persistent(!self.inner.config.pooler)
            .execute(&mut **transaction)
            .await
            .map(drop)
            .map_err(|error| from_sqlx("publish_in", error))
    }
}
