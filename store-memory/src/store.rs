use std::sync::Arc;

use strait_core::Topic;
use strait_core::store::{StoreError, StoreErrorKind};

use crate::bus::Mailboxes;
use crate::channels::Channels;
use crate::clock::{Clock, Timeline};
use crate::limits::{Builder, Limits};
use crate::topics::Topics;

/// A store in this process's memory. Clones are handles onto the same data.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) limits: Limits,
    pub(crate) time: Timeline,
    pub(crate) channels: Channels,
    pub(crate) topics: Topics,
    pub(crate) mailboxes: Mailboxes,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// An empty store with other limits.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn with(limits: Limits, clock: Box<dyn Clock>) -> Self {
        let inner = Inner {
            limits,
            time: Timeline::new(clock),
            channels: Channels::default(),
            topics: Topics::default(),
            mailboxes: Mailboxes::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Loses the log of a topic, as a store that fails over may: its epoch changes, and a subscriber that comes with a
    /// position gets notice of a gap. For tests of a client's reaction.
    pub fn lose_log(&self, topic: &Topic) {
        let topics = &self.inner.topics;
        topics.existing(topic, |state| state.lose_log(topics.random.epoch()));
    }
}

pub(crate) fn conflict(op: &'static str, source: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, "memory", op).because(source)
}
