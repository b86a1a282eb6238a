//! A histogram of latencies: constant memory, within 3 % of the true value.

use std::time::Duration;

const STEPS: usize = 32;

/// Counts by size: 32 linear steps to each power of two nanoseconds.
#[derive(Debug)]
pub(crate) struct Latency {
    counts: Vec<u64>,
    total: u64,
}

impl Latency {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; STEPS * 60], total: 0 }
    }

    fn bucket(nanos: u64) -> usize {
        let power = nanos.max(STEPS as u64).ilog2() - STEPS.ilog2();
        let step = usize::try_from(nanos >> power).expect("below 64 once shifted");
        power as usize * STEPS + step
    }

    /// Adds one.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.counts[Self::bucket(nanos)] += 1;
        self.total += 1;
    }

    /// The value that `share` (0 to 1) of all do not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted.max(1)
        });
        let bucket = bucket.unwrap_or(0);
        let power = (bucket / STEPS).saturating_sub(1);
        Duration::from_nanos(((bucket - power * STEPS) as u64) << power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_percent() {
        let mut latency = Latency::new();
        for micros in 1..=1000 {
            latency.record(micros * 1000);
        }
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = latency.quantile(share).as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() < 0.032, "{share}: {found} µs");
        }
        assert_eq!(Latency::new().quantile(0.99), Duration::ZERO);
    }
}
