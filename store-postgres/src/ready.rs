//! Whether the schema is known to be there: found out before the first call, and again when a call misses it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use strait_core::store::StoreError;
use tokio::sync::Mutex;

use crate::error::answered;

/// The schema is looked for at most this often: a part of it may be missing for good.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Ready {
    is_ready: AtomicBool,
    /// When it was found out last. Held while somebody does.
    found: Mutex<Option<Instant>>,
}

impl Ready {
    /// Prepares unless that has been done. Of many calls at once one does it, and the others wait.
    pub(crate) async fn or_prepare(
        &self,
        prepare: impl AsyncFnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut found = self.found.lock().await;
        if !self.is_ready.load(Ordering::Acquire) {
            prepare().await?;
            *found = Some(Instant::now());
            self.is_ready.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// After a call that failed: the next one prepares anew if the schema, or a part of it, is missing.
    pub(crate) fn doubt(&self, failure: &StoreError) {
        if misses_schema(failure)
            && let Ok(found) = self.found.try_lock()
            && found.is_none_or(|at| at.elapsed() >= PAUSE)
            && self.is_ready.swap(false, Ordering::AcqRel)
        {
            tracing::error!(error = %failure.in_full(), "the database has lost the schema, it is looked for");
        }
    }
}

/// Whether a statement named a schema, a table or a function that is not there: it has had no effect.
fn misses_schema(failure: &StoreError) -> bool {
    matches!(answered(failure), Some("3F000" | "42P01" | "42883"))
}
