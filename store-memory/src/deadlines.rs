use std::collections::BTreeSet;
use std::ops::Bound;

use parking_lot::Mutex;
use strait_core::ChannelId;

use crate::clock::Tick;

/// Detached and dead channels by the time at which their grace or claim runs out, those at gateways by the end of their
/// time there. Touched only when a channel opens at a gateway, detaches, attaches or ends.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Mutex<BTreeSet<(Tick, ChannelId)>>);

impl Deadlines {
    /// Moves a channel's deadline; 0 stands for none.
    pub(crate) fn change(&self, channel: &ChannelId, from: Tick, to: Tick) {
        let mut all = self.0.lock();
        if from != 0 {
            all.remove(&(from, channel.clone()));
        }
        if to != 0 {
            all.insert((to, channel.clone()));
        }
    }

    /// The first due channels after one of them; they stay.
    pub(crate) fn due(&self, after: Option<(Tick, ChannelId)>, now: Tick, limit: usize) -> Vec<(Tick, ChannelId)> {
        let all = self.0.lock();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = all.range((after, Bound::Unbounded));
        rest.take_while(|(at, _)| *at <= now).take(limit).cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
