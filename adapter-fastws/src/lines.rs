//! Log lines that strangers can cause: a limited number a second, and a count of omitted ones.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const SECOND: Duration = Duration::from_secs(1);

/// Log lines of one kind, for the whole process.
#[derive(Debug)]
pub(crate) struct Lines {
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the present second began.
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Lines {
    /// At most `most` lines a second.
    pub(crate) const fn new(most: u32) -> Self {
        Self { most, state: Mutex::new(State { since: None, lines: 0, left_out: 0 }) }
    }

    /// Whether a line may be logged now; then returns the number of omitted lines before it.
    pub(crate) fn next(&self) -> Option<u64> {
        self.next_at(Instant::now())
    }

    fn next_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= SECOND) {
            state.since = Some(now);
            state.lines = 0;
        }
        if state.lines == self.most {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines_and_the_next_one_counts_the_others() {
        let (lines, start) = (Lines::new(2), Instant::now());
        let at = |millis| lines.next_at(start + Duration::from_millis(millis));
        assert_eq!([at(0), at(1), at(2), at(999)], [Some(0), Some(0), None, None]);
        assert_eq!([at(1_000), at(1_500), at(1_999)], [Some(2), Some(0), None]);
        assert_eq!(at(60_000), Some(1));
    }
}
