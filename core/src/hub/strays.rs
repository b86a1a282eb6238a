//! Strays: channels without a record in the store, because the store lost its data or the node its lease.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::EventHub;
use crate::channel::Channel;
use crate::close::Close;

/// The interval between closes if there are few strays.
const MOST_A_STRAY: Duration = Duration::from_millis(10);

impl EventHub {
    /// Closes strays one after the other, within one lease term: otherwise all their clients would connect again at
    /// once. No handler of a stray starts before its close.
    pub(super) fn see_off(&self, mut strays: Vec<(Channel, Close)>) {
        // Earlier strays are being closed already.
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
        // The channel may have been attached again after all.
        if channel.inner.stray.load(Ordering::Acquire) {
            channel.close(close);
        }
    }
}
