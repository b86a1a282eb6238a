use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds on the store's clock.
pub(crate) type Tick = u64;

/// The source of a store's time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// How long the clock has run; never goes back.
    fn elapsed(&self) -> Duration;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn elapsed(&self) -> Duration {
        (**self).elapsed()
    }
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct MonotonicClock(Instant);

impl Default for MonotonicClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(ticks(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// A clock together with the time of day at which the store was made.
#[derive(Debug)]
pub(crate) struct Timeline {
    clock: Box<dyn Clock>,
    made: SystemTime,
    made_at: Tick,
}

impl Timeline {
    pub(crate) fn new(clock: Box<dyn Clock>) -> Self {
        let made_at = ticks(clock.elapsed());
        Self { clock, made: SystemTime::now(), made_at }
    }

    pub(crate) fn now(&self) -> Tick {
        ticks(self.clock.elapsed())
    }

    pub(crate) fn wall(&self, at: Tick) -> SystemTime {
        let since = Duration::from_nanos(at.saturating_sub(self.made_at));
        self.made.checked_add(since).unwrap_or(self.made)
    }
}

pub(crate) fn ticks(duration: Duration) -> Tick {
    Tick::try_from(duration.as_nanos()).unwrap_or(Tick::MAX)
}

/// `duration` after `now`; at least one tick, so that 0 is free to mean "never set".
pub(crate) fn after(now: Tick, duration: Duration) -> Tick {
    now.saturating_add(ticks(duration)).max(1)
}
