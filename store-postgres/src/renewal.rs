//! Connections that work, but lead to the wrong server: a primary that others took over from keeps its sessions, and
//! refuses to write.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The least time between two renewals. A server that stays read-only gets each connection anew this often at most.
const PAUSE: Duration = Duration::from_secs(2);

/// Whether an error says that the server is not the one to write to.
///
/// 25006: a read-only transaction. 0A000: a server in recovery has no unlogged tables; also a prepared statement whose
/// answer changed, which a new connection prepares anew.
pub(crate) fn is_wrong_server(code: &str) -> bool {
    matches!(code, "25006" | "0A000")
}

/// Says which connections are older than the last refusal.
#[derive(Debug, Default)]
pub(crate) struct Renewal(watch::Sender<()>, Mutex<Option<Instant>>);

impl Renewal {
    /// The server refused: all connections that are open now end before they are used again, `LISTEN`'s too.
    /// Answers whether that is news.
    pub(crate) fn begin(&self) -> bool {
        let mut last = self.1.lock();
        let is_due = last.is_none_or(|last| last.elapsed() >= PAUSE);
        if is_due {
            *last = Some(Instant::now());
            metrics::counter!("strait_postgres_renewals_total").increment(1);
            self.0.send_replace(());
        }
        is_due
    }

    /// Whether a connection of this age was opened before the last refusal.
    pub(crate) fn ends(&self, age: Duration) -> bool {
        self.1.lock().is_some_and(|last| age > last.elapsed())
    }

    /// Changes with each renewal from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_connections_that_were_open_and_no_later_ones() {
        let renewal = Renewal::default();
        let changes = renewal.subscribe();
        assert!(!renewal.ends(Duration::MAX));
        assert!(renewal.begin());
        assert!(changes.has_changed().unwrap());
        assert!(renewal.ends(Duration::from_secs(600)));
        assert!(!renewal.ends(Duration::ZERO));
    }
}
