//! Compares the channels that a node holds with what the store lists as the node's own.
//!
//! A store that fails over may lose what was written last. Then a channel that ended is back as a ghost: a record that
//! nobody's connection belongs to. A channel that was opened is connected without a record. The node ends ghosts, and
//! closes channels without a record.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::lease::jittered;
use super::{EventHub, PAGE, ending};
use crate::app::App;
use crate::channel::Channel;
use crate::close::Close;
use crate::name::ChannelId;
use crate::panics::survived;
use crate::store::{Record, RecordPhase, StoreError};

/// A node compares after at most so many leases.
const LEASES: u32 = 4;
/// After a break a node compares within this time: the store and the other nodes have other things to do first.
const SOON: Duration = Duration::from_secs(1);
/// A record that the node has no channel of is looked at again after at most so long.
const SECOND_LOOK: Duration = Duration::from_secs(5);
/// How many records are looked at, or ended, at once.
const AT_ONCE: usize = 32;
/// How many ghosts one comparison ends.
const MOST_GHOSTS: usize = 4096;

/// What comparisons of one node need to know.
#[derive(Default)]
pub(super) struct Comparison {
    asked: Notify,
    /// Channels that the node opens, or ends: they are not in its memory, and yet their records are not ghosts.
    busy: Mutex<HashSet<ChannelId, RandomState>>,
}

impl Comparison {
    /// The store may have lost what was written last: the next comparison comes soon.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    pub(super) fn begin(&self, id: &ChannelId) {
        self.busy.lock().insert(id.clone());
    }

    fn is_busy(&self, id: &ChannelId) -> bool {
        self.busy.lock().contains(id)
    }
}

impl EventHub {
    /// A channel is about to be opened, by the time its record is there.
    pub(crate) fn begins_to_open(&self, id: &ChannelId) {
        self.0.comparison.begin(id);
    }

    /// Nothing opens or ends the channel any more. If it is not in the node's memory, a record that is left is a ghost.
    pub(crate) fn is_done_with(&self, id: &ChannelId) {
        self.0.comparison.busy.lock().remove(id);
    }

    pub(super) async fn keep_compared(self, app: App) {
        loop {
            let pause = jittered(self.lease_term().saturating_mul(LEASES));
            if timeout(pause, self.0.comparison.asked.notified()).await.is_ok() {
                sleep(jittered(SOON.min(self.lease_term()))).await;
            }
            if let Some(Err(error)) = survived("comparison", self.compare(&app)).await {
                tracing::warn!(error = %error.in_full(), "the node's channels could not be compared with their records");
            }
        }
    }

    async fn compare(&self, app: &App) -> Result<(), StoreError> {
        // A node that is not sure of its lease attaches its channels again, if it must: that finds the same.
        if !self.has_its_channels() {
            return Ok(());
        }
        // Before the store is asked: a channel that comes meanwhile is not missed in the listing.
        let held = self.connected().into_iter().map(|channel| (channel.id().clone(), channel));
        let mut unlisted: HashMap<ChannelId, Channel> = held.collect();
        let mut unknown = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.0.store.connected(&self.0.node, cursor.as_deref(), PAGE).await?;
            for id in page.items {
                if unlisted.remove(&id).is_none() && !self.works_on(&id) && unknown.len() < MOST_GHOSTS {
                    unknown.push(id);
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let looks = stream::iter(unlisted.into_values()).map(|channel| async move {
            let close = self.lost_record(&channel).await;
            close.map(|close| (channel, close))
        });
        self.see_off(looks.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await);
        if !unknown.is_empty() {
            self.end_ghosts(app, unknown).await;
        }
        Ok(())
    }

    /// Whether the node holds its lease, and each of its channels under it.
    fn has_its_channels(&self) -> bool {
        self.is_sure() && !self.0.lease.is_lost()
    }

    /// Whether the channel is connected here, or opens or ends.
    fn works_on(&self, id: &ChannelId) -> bool {
        // Busy first: what opens is connected before it is done, and what is connected is busy before it leaves.
        let look = || self.0.comparison.is_busy(id) || self.0.channel(id).is_some();
        look() || self.0.comparison.is_busy(id)
    }

    /// A store has answered that it does not know this attachment of a channel: if its record is gone, the channel is
    /// closed.
    pub(crate) async fn doubt(&self, channel: &Channel) {
        if !channel.is_at_gateway()
            && self.has_its_channels()
            && let Some(close) = self.lost_record(channel).await
        {
            channel.close(close);
        }
    }

    /// Why a channel that is connected here has to be closed, if the store has no living record of it here.
    async fn lost_record(&self, channel: &Channel) -> Option<Close> {
        let is_here = || {
            let inner = &channel.inner;
            !inner.live.lock().left && !inner.stray.load(Ordering::Acquire)
        };
        let lease = self.lease_number();
        if !is_here() {
            return None;
        }
        let record = match self.0.store.get(channel.id()).await {
            Ok(record) => record,
            Err(error) => {
                tracing::debug!(error = %error.in_full(), "a channel's record could not be looked at");
                return None;
            }
        };
        let lives = |record: &Record| record.phase != RecordPhase::Dead && record.location == self.location_of(channel);
        // It may have begun to end meanwhile, and with it its record.
        if record.as_ref().is_some_and(lives) || !is_here() || self.lease_number() != lease {
            return None;
        }
        metrics::counter!("strait_channels_lost_total").increment(1);
        Some(Close::restart(match record {
            None => "the store has lost this channel",
            Some(_) => "ended or taken over elsewhere",
        }))
    }

    /// Ends records of this node that nothing here belongs to, if they are still there after a while.
    async fn end_ghosts(&self, app: &App, unknown: Vec<ChannelId>) {
        if unknown.len() == MOST_GHOSTS {
            self.0.comparison.ask();
        }
        sleep(jittered((self.lease_term() / 3).min(SECOND_LOOK))).await;
        let ends = unknown.into_iter().map(|id| async move {
            match survived("comparison", self.end_ghost(app, &id)).await {
                Some(Ok(ended)) => ended,
                Some(Err(error)) => {
                    tracing::debug!(channel = %id, error = %error.in_full(), "a ghost could not be ended");
                    false
                }
                None => false,
            }
        });
        let ended =
            stream::iter(ends).buffer_unordered(AT_ONCE).filter(|ended| std::future::ready(*ended)).count().await;
        if ended > 0 {
            tracing::warn!(channels = ended, "records of this node that it had no channels of were ended");
        }
    }

    /// Tells whether it was one, and its end is this node's.
    async fn end_ghost(&self, app: &App, id: &ChannelId) -> Result<bool, StoreError> {
        if !self.has_its_channels() || self.works_on(id) {
            return Ok(false);
        }
        let Some(record) = self.0.store.get(id).await? else { return Ok(false) };
        let lives = matches!(record.phase, RecordPhase::Opening | RecordPhase::Open);
        if !lives || record.location.node() != Some(&self.0.node) {
            return Ok(false);
        }
        let Some(claim) = self.0.store.claim(&record.fence(), &self.0.node, self.lease_term()).await? else {
            return Ok(false);
        };
        metrics::counter!("strait_ghosts_ended_total").increment(1);
        ending::end_claimed(app.clone(), claim, ending::PATIENCE, None).await;
        Ok(true)
    }
}
