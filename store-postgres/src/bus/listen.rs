//! `LISTEN`, one connection for all nodes of a process. A silent connection is probed, as a dead one looks just like an
//! idle one.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::wake::notify;
use crate::addresses::reachable;
use crate::store::{Inner, PostgresStore};

/// The shortest and the longest pause between attempts to listen.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(8)];
/// After this time `LISTEN` counts as working, and its next end is logged again.
const STEADY: Duration = Duration::from_secs(30);

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(crate) struct Listening(Mutex<Option<AbortHandle>>);

impl Listening {
    /// Begins listening, unless a task already does or the configuration has no connection for it. Begins anew after
    /// the end of the task's runtime.
    pub(crate) fn begin(&self, store: &PostgresStore) {
        let mut task = self.0.lock();
        if store.inner.config.listen_options().is_some() && task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = store.inner.database.spawn(run(Arc::downgrade(&store.inner)));
        }
    }

    pub(crate) fn end(&self) {
        if let Some(task) = self.0.lock().take() {
            task.abort();
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.end();
    }
}

async fn run(inner: Weak<Inner>) {
    // The end is logged once, until `LISTEN` has been steady again.
    let mut is_told = false;
    let mut pause = PAUSES[0];
    loop {
        let began = Instant::now();
        let Some(ended) = listen(&inner).await else { return };
        metrics::gauge!("strait_postgres_listening").set(0);
        if began.elapsed() >= STEADY {
            (is_told, pause) = (false, PAUSES[0]);
        }
        if !is_told {
            tracing::warn!(reason = ended, "LISTEN has ended, nodes poll until it is back");
            is_told = true;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

/// Listens until it fails; `None` once the store is gone.
async fn listen(inner: &Weak<Inner>) -> Option<&'static str> {
    let (options, found, channel, limit, probe, mut renewal) = {
        let inner = inner.upgrade()?;
        let config = &inner.config;
        (
            config.listen_options()?,
            config.found.clone(),
            inner.waker.channel.clone(),
            config.operation,
            config.probe,
            inner.database.renewal.subscribe(),
        )
    };
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(limit)
        .acquire_slow_threshold(Duration::MAX)
        .connect_lazy_with(options.clone());
    let connected = timeout(limit, async {
        pool.set_connect_options(reachable(&options, found.as_deref(), limit).await);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(&channel).await?;
        Ok::<_, sqlx::Error>(listener)
    });
    let Ok(Ok(mut listener)) = connected.await else { return Some("it cannot connect") };
    metrics::gauge!("strait_postgres_listening").set(1);
    let mut is_probing = false;
    loop {
        // Notifications may have been missed before.
        inner.upgrade()?.nodes.wake_all();
        let heard = tokio::select! {
            heard = timeout(probe, listener.try_recv()) => heard,
            _ = renewal.changed() => return Some("the server takes no writes"),
        };
        match heard {
            Ok(Ok(Some(_))) => is_probing = false,
            Ok(Ok(None) | Err(_)) => return Some("the connection was lost"),
            Err(_) if is_probing => return Some("a probe was not heard in time"),
            Err(_) => {
                is_probing = true;
                notify(&*inner.upgrade()?, "probe").await;
            }
        }
    }
}
