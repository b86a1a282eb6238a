//! Compares the channels that a node holds with the store's list of the node's channels.
//!
//! A store that fails over may lose its last writes. A channel that ended is then back as a ghost: a record without a
//! connection. A channel that was opened is connected without a record. The node ends ghosts, and closes channels
//! without a record.

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

/// The longest time between two comparisons, in lease terms.
const LEASES: u32 = 4;
/// After a break a node compares within this time: the store and the other nodes are busy first.
const SOON: Duration = Duration::from_secs(1);
/// The longest time before a second look at a record without a channel on this node.
const SECOND_LOOK: Duration = Duration::from_secs(5);
/// Records that are checked, or ended, at once.
const AT_ONCE: usize = 32;
/// The most ghosts that one comparison ends.
const MOST_GHOSTS: usize = 4096;

/// The state of a node's comparisons.
#[derive(Default)]
pub(super) struct Comparison {
    asked: Notify,
    /// Channels that the node is opening or ending. They are not in its memory, but their records are no ghosts.
    busy: Mutex<HashSet<ChannelId, RandomState>>,
}

impl Comparison {
    /// The store may have lost its last writes: the next comparison comes soon.
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
    /// Marks a channel as opening, before its record exists.
    pub(crate) fn begins_to_open(&self, id: &ChannelId) {
        self.0.comparison.begin(id);
    }

    /// No task opens or ends the channel any more. Unless it is in the node's memory, a remaining record is a ghost.
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
        // A node that is not sure of its lease attaches its channels again if it must: that finds the same differences.
        if !self.has_its_channels() {
            return Ok(());
        }
        // Read memory before the store: a channel that arrives meanwhile is then not missed in the listing.
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

    /// Whether the channel is connected here, or is opening or ending.
    fn works_on(&self, id: &ChannelId) -> bool {
        // Check busy first: an opening channel is connected before it is done, and a connected one is busy before it
        // leaves.
        let look = || self.0.comparison.is_busy(id) || self.0.channel(id).is_some();
        look() || self.0.comparison.is_busy(id)
    }

    /// Handles a store's answer that it does not know this attachment of a channel: closes the channel if its record is
    /// gone.
    pub(crate) async fn doubt(&self, channel: &Channel) {
        if !channel.is_at_gateway()
            && self.has_its_channels()
            && let Some(close) = self.lost_record(channel).await
        {
            channel.close(close);
        }
    }

    /// The close for a channel that is connected here, if the store has no living record of it here.
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
        // The channel may have begun to end meanwhile, and its record with it.
        if record.as_ref().is_some_and(lives) || !is_here() || self.lease_number() != lease {
            return None;
        }
        metrics::counter!("strait_channels_lost_total").increment(1);
        Some(Close::restart(match record {
            None => "the store has lost this channel",
            Some(_) => "ended or taken over elsewhere",
        }))
    }

    /// Ends records of this node without a channel here, if they are still there after a while.
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

    /// Ends the channel if it is a ghost; returns whether this node ends it.
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
        // The next comparison does not wait for an end that takes long.
        let app = app.clone();
        tokio::spawn(async move {
            survived("ending", ending::end_claimed(app, claim, ending::PATIENCE, None)).await;
        });
        Ok(true)
    }
}
