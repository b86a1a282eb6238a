//! Limits repeated log lines of an outage: at most one a second, with a count of the events it stands for.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The interval between two lines of one kind.
const APART: Duration = Duration::from_secs(1);

/// Decides which occurrences of one kind are logged: the first one at once, then one a second.
///
/// ```
/// let failures = strait_core::Throttled::default();
/// if let Some(count) = failures.count() {
///     tracing::warn!(count, "the store does not answer");
/// }
/// ```
#[derive(Debug, Default)]
pub struct Throttled(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    last_line: Option<Instant>,
    /// Occurrences since the last line.
    count: u64,
}

impl Throttled {
    /// Counts an occurrence. If a line is due, returns the number of occurrences since the last line, this one
    /// included.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        self.count_at(Instant::now())
    }

    fn count_at(&self, now: Instant) -> Option<u64> {
        let mut seen = self.0.lock();
        seen.count += 1;
        if seen.last_line.is_some_and(|last| now.saturating_duration_since(last) < APART) {
            return None;
        }
        seen.last_line = Some(now);
        Some(std::mem::take(&mut seen.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_one_line_and_the_next_line_counts_what_was_left_out() {
        let (lines, start) = (Throttled::default(), Instant::now());
        let at = |millis| lines.count_at(start + Duration::from_millis(millis));
        assert_eq!(at(0), Some(1), "the first one is told at once");
        assert_eq!([at(1), at(500), at(999)], [None; 3]);
        assert_eq!(at(1000), Some(4));
        assert_eq!(at(1001), None);
        assert_eq!(at(60_000), Some(2));
    }
}
