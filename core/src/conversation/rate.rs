//! The rate limit of a client's messages: a token bucket.

use std::time::{Duration, Instant};

use crate::policy::RateLimit;

/// Whether a message is within the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
    /// The client has been beyond the limit for longer than the patience.
    Flooding,
}

/// A client that stayed within its limit this long is forgiven.
const FORGIVEN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f32,
    filled: Option<Instant>,
    /// The first and the last time beyond the limit.
    beyond: Option<(Instant, Instant)>,
}

impl Bucket {
    pub(super) fn new(limit: Option<&RateLimit>) -> Self {
        Self { tokens: limit.map_or(0.0, |limit| limit.burst as f32), filled: None, beyond: None }
    }

    pub(super) fn take(&mut self, limit: &RateLimit, now: Instant) -> Taken {
        let burst = limit.burst as f32;
        // Messages that were read together have the same time.
        if self.filled != Some(now) {
            let passed = self.filled.map_or(0.0, |filled| now.saturating_duration_since(filled).as_secs_f32());
            self.tokens = (self.tokens + passed * limit.per_second as f32).min(burst);
            self.filled = Some(now);
        }
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Taken::Yes;
        }
        let since = match self.beyond {
            Some((since, last)) if now.saturating_duration_since(last) < FORGIVEN => since,
            _ => now,
        };
        self.beyond = Some((since, now));
        if now.saturating_duration_since(since) >= limit.patience { Taken::Flooding } else { Taken::No }
    }

    /// Whether the bucket was beyond the limit at exactly this time.
    pub(super) fn was_beyond(&self, now: Instant) -> bool {
        self.beyond.is_some_and(|(_, last)| last == now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { per_second: 100, burst: 20, patience: Duration::from_secs(5) };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut bucket, start) = (Bucket::new(Some(&LIMIT)), Instant::now());
        let passed = (0..100).filter(|_| bucket.take(&LIMIT, start) == Taken::Yes).count();
        assert_eq!(passed, 20);
        assert!(bucket.was_beyond(start) && !bucket.was_beyond(start + Duration::from_millis(1)));
        let passed = (0..100).filter(|n| bucket.take(&LIMIT, start + Duration::from_millis(10 * n)) == Taken::Yes);
        assert!((95..=100).contains(&passed.count()));
    }

    #[test]
    fn only_who_floods_for_long_is_flooding() {
        let (mut bucket, start) = (Bucket::new(Some(&LIMIT)), Instant::now());
        let mut flood = |from: u64, to: u64| -> Option<u64> {
            (from..to)
                .find(|ms| (0..2).any(|_| bucket.take(&LIMIT, start + Duration::from_millis(*ms)) == Taken::Flooding))
        };
        assert_eq!(flood(0, 4_000), None);
        assert_eq!(flood(10_000, 14_000), None, "a pause is forgiven");
        let found = flood(14_000, 20_000).expect("it is noticed in the end");
        assert!((15_000..15_200).contains(&found), "{found}");
    }
}
