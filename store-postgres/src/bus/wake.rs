//! `NOTIFY` as a mere wake-up. Its commit takes a lock of the whole database. So it is sent at most once in a while, in
//! its own transaction, and waits for no disk.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::PostgresConfig;
use crate::database::{Lane, Values};
use crate::store::Inner;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Waker {
    /// The channel of all stores of the schema.
    pub(super) channel: String,
    is_on: bool,
    debounce: Duration,
    due: Arc<Notify>,
    task: Mutex<Option<AbortHandle>>,
}

impl Waker {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        Self {
            // A name is cut at 63 bytes: long schemas with the same beginning share their wake-ups.
            channel: format!("strait_{}", &config.schema[..config.schema.len().min(56)]),
            is_on: config.notify,
            debounce: config.debounce,
            due: Arc::default(),
            task: Mutex::default(),
        }
    }

    /// Begins, unless a task already runs. Begins anew after the end of the task's runtime.
    pub(crate) fn begin(&self, inner: &Arc<Inner>) {
        let mut task = self.task.lock();
        if self.is_on && task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = inner.database.spawn(run(Arc::clone(&self.due), self.debounce, Arc::downgrade(inner)));
        }
    }

    /// Wakes the nodes of other processes soon.
    pub(crate) fn wake(&self) {
        self.due.notify_one();
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

async fn run(due: Arc<Notify>, debounce: Duration, inner: Weak<Inner>) {
    loop {
        due.notified().await;
        let Some(inner) = inner.upgrade() else { return };
        notify(&inner, "").await;
        drop(inner);
        tokio::time::sleep(debounce).await;
    }
}

/// Sends a wake-up. Nodes that miss it find the events with their next poll.
pub(super) async fn notify(inner: &Inner, payload: &str) {
    metrics::counter!("strait_postgres_notifications_total").increment(1);
    let values = Values::new().with(inner.waker.channel.as_str()).with(payload);
    if let Err(error) = inner.database.rows("notify", Lane::Vital, &inner.sql.notify, values).await {
        tracing::debug!(error = %error.in_full(), "nodes could not be woken, they poll");
    }
}
