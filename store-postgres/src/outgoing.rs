//! Publishing inside the application's own transaction.

use std::sync::Arc;

use sqlx::{Postgres, Transaction};
use strait_core::store::{MAX_KEY, MAX_PAYLOAD, StoreError, StoreErrorKind};
use strait_core::{Payload, Retention, Topic};

use crate::error::{error, from_sqlx};
use crate::store::PostgresStore;
use crate::values::{format, millis};

/// An event that a transaction publishes: it exists if and only if the transaction commits.
#[derive(Debug, Clone)]
#[must_use]
pub struct Outgoing {
    topic: Topic,
    payload: Payload,
    retention: Option<Retention>,
    key: Option<Arc<str>>,
}

impl Outgoing {
    /// An event with the retention of the topic's last one.
    pub fn new(topic: Topic, payload: Payload) -> Self {
        Self { topic, payload, retention: None, key: None }
    }

    /// The retention of the topic. It should equal that of
    /// [`AppBuilder::retain`](strait_core::AppBuilder::retain).
    pub fn retain(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Publishes only one of the topic's events with the same key, see
    /// [`Publication::key`](strait_core::store::Publication::key).
    pub fn key(mut self, key: impl AsRef<str>) -> Self {
        self.key = Some(Arc::from(key.as_ref()));
        self
    }

    /// Refuses the values that the database would refuse, too.
    fn check(&self) -> Result<(), StoreError> {
        let refused = |source| Err(error(StoreErrorKind::Conflict, "publish_in", source));
        if self.topic.is_reserved() {
            return refused("topics that begin with $ are Strait's own");
        }
        if self.payload.bytes().len() > MAX_PAYLOAD {
            return refused("a payload has at most 1048576 bytes");
        }
        if self.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_KEY) {
            return refused("an idempotency key has 1 to 256 bytes");
        }
        Ok(())
    }
}

impl PostgresStore {
    /// Publishes in a transaction of the application's own, on any connection to the store's database. It takes no lock
    /// that another transaction waits for. Call [`wake`](Self::wake) after the commit: the event then need not wait for
    /// the next poll.
    ///
    /// In SQL it is `SELECT strait.publish('topic', '{"a":1}')`.
    ///
    /// # Errors
    /// `Conflict` for a topic of Strait's own (`$…`), a payload of more than [`MAX_PAYLOAD`] bytes, or a key that has
    /// not 1 to [`MAX_KEY`] bytes. The transaction can go on after these. After an error of the database it can only be
    /// rolled back.
    pub async fn publish_in(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        outgoing: &Outgoing,
    ) -> Result<(), StoreError> {
        outgoing.check()?;
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
            .inspect_err(|failure| self.inner.ready.doubt(failure))
    }
}
