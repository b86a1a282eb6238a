use std::time::Duration;

use strait_core::Retention;

use crate::clock::{Clock, MonotonicClock};
use crate::store::MemoryStore;

/// The most that a store keeps.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) inbox: Retention,
    pub(crate) keys: usize,
}

/// Makes a [`MemoryStore`] with its own limits.
#[derive(Debug)]
pub struct Builder {
    limits: Limits,
    clock: Box<dyn Clock>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            limits: Limits { inbox: Retention { count: 256, age: Duration::from_secs(600) }, keys: 10_000 },
            clock: Box::<MonotonicClock>::default(),
        }
    }
}

impl Builder {
    /// How many direct sends wait for one channel, and for how long: 256 and ten minutes unless set. A channel that
    /// missed some gets notice of a gap.
    #[must_use]
    pub fn inbox(mut self, count: u32, age: Duration) -> Self {
        self.limits.inbox = Retention { count, age };
        self
    }

    /// How many idempotency keys one topic remembers at most, 10,000 unless set. With more publications within a key's
    /// time, the store forgets the oldest key early.
    #[must_use]
    pub fn keys(mut self, most: usize) -> Self {
        self.limits.keys = most.max(1);
        self
    }

    /// The source of time: [`MonotonicClock`] unless set.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// The store, empty.
    #[must_use]
    pub fn build(self) -> MemoryStore {
        MemoryStore::with(self.limits, self.clock)
    }
}
