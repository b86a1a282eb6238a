//! Strays: channels without a record in the store, after it has lost its data or the node its lease.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::EventHub;
use crate::channel::Channel;
use crate::close::Close;

/// Few strays are closed this far apart.
const MOST_A_STRAY: Duration = Duration::from_millis(10);

impl EventHub {
    /// Closes strays one after the other, over at most a lease's term: else all their clients would connect again at
    /// once. Until then no handler of theirs starts.
    pub(super) fn see_off(&self, mut strays: Vec<(Channel, Close)>) {
        // What was a stray before is seen off already.
        strays.retain(|(channel, _)| !channel.inner.stray.swap(true, Ordering::AcqRel));
        if strays.is_empty() {
            return;
        }
        self.0.store_health.closed(strays.len());
        tracing::warn!(channels = strays.len(), "channels without a record are closed one after the other");
        let mut tasks = self.0.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(close_all(strays, self.lease_term())));
    }
}

async fn close_all(strays: Vec<(Channel, Close)>, term: Duration) {
    let pause = (term / u32::try_from(strays.len()).unwrap_or(u32::MAX)).min(MOST_A_STRAY);
    let mut due = Instant::now();
    for (channel, close) in strays {
        sleep_until(due).await;
        due += pause;
        // It may have been attached after all.
        if channel.inner.stray.load(Ordering::Acquire) {
            channel.close(close);
        }
    }
}
