//! Limits the sockets that are accepted in a second. Further ones wait in the kernel's queue, at no cost and without a
//! refusal.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The sockets of this time may come at once.
const BURST: Duration = Duration::from_secs(1);

/// See the [module's documentation](self). One for all runtimes together.
#[derive(Debug)]
pub(super) struct Rate {
    each: Duration,
    start: Instant,
    /// The time of the next free place, counted from [`BURST`] before the start.
    next: Mutex<Duration>,
}

impl Rate {
    pub(super) fn new(a_second: u32) -> Self {
        Self { each: BURST / a_second.max(1), start: Instant::now(), next: Mutex::default() }
    }

    /// Waits until one more socket may be accepted.
    pub(super) async fn pass(&self) {
        let wait = self.take(self.start.elapsed());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes the next place; returns the wait from `now`, which counts from the start.
    fn take(&self, now: Duration) -> Duration {
        let mut next = self.next.lock();
        // Places that were free for longer than the burst are lost.
        *next = (*next).max(now) + self.each;
        next.saturating_sub(now + BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_brings_as_many_as_it_may_after_a_burst_of_as_many() {
        let rate = Rate::new(100);
        let ms = Duration::from_millis;
        assert!((0..100).all(|_| rate.take(ms(0)).is_zero()));
        assert_eq!((rate.take(ms(0)), rate.take(ms(0))), (ms(10), ms(20)));
        // A quiet second restores the burst, and ten restore no more.
        for now in [ms(1_020), ms(11_020)] {
            assert!((0..100).all(|_| rate.take(now).is_zero()));
            assert_eq!(rate.take(now), ms(10));
            rate.take(now);
        }
        // The wait may end late: the places behind it make up for that.
        let late = ms(11_020) + ms(45);
        assert_eq!((0..4).filter(|_| rate.take(late).is_zero()).count(), 2);
    }
}
