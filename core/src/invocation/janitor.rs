//! Cleans up at gateways: connections that ended without a notice, relays and sequences that stopped half-way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::time::timeout_at;

use super::Invocation;
use crate::error::Error;
use crate::gateway::{GatewayConnection, Probed};
use crate::handler::DisconnectReason;
use crate::hub::gateways::shards;
use crate::hub::{PAGE, ending};
use crate::name::{ChannelId, Topic};
use crate::policy::Ordering;
use crate::store::{LeaseTerm, Record, RecordPhase};

/// Channels that are checked at once.
const AT_ONCE: usize = 16;
/// The time for retries of `on_disconnect` while it answers `unavailable`: other channels are due as well.
const PATIENCE: Duration = Duration::from_secs(10);
/// Abandoned channels that are ended at once.
const CLAIMS: usize = 32;

impl Invocation {
    /// Ends channels that lost their connection without a notice, posts unfinished work, and completes ends that others
    /// began. Call it every few minutes; work that exceeds its time waits for the next call.
    ///
    /// The call waits for one lease term before it claims others' channels, so its deadline must be later than that.
    ///
    /// # Errors
    /// The store's error.
    pub async fn sweep(&self) -> Result<(), Error> {
        let hub = self.hub();
        if hub.is_started() {
            // A node claims abandoned channels by itself, under its own lease.
            let swept = self.sweep_connections().await;
            self.settle().await;
            return swept;
        }
        // Run both at once: checking the connections may take longer than a lease lasts.
        let (swept, claimed) = futures_util::future::join(self.sweep_connections(), self.end_abandoned()).await;
        self.settle().await;
        swept.and(claimed)
    }

    async fn sweep_connections(&self) -> Result<(), Error> {
        let topics = Mutex::new(BTreeSet::new());
        let now = || Instant::now() < self.posts;
        for shard in shards().take_while(|_| now()) {
            let mut cursor = None;
            loop {
                let page = self.hub().store().members(&shard, cursor.as_deref(), PAGE).await?;
                let members = stream::iter(page.items).take_while(|_| std::future::ready(now()));
                members.for_each_concurrent(AT_ONCE, |member| self.look_at(member.fence.id, &topics)).await;
                match page.next.filter(|_| now()) {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
        }
        topics.into_inner().iter().for_each(|topic| self.hub().resume_relay(topic));
        Ok(())
    }

    async fn look_at(&self, id: ChannelId, topics: &Mutex<BTreeSet<Topic>>) {
        if let Err(error) = self.mend(&id, topics).await
            && let Some(count) = self.hub().lines().channel_not_mended.count()
        {
            tracing::warn!(
                count,
                channel = %id,
                error = %error.in_full(),
                "a channel at a gateway could not be looked after"
            );
        }
    }

    async fn mend(&self, id: &ChannelId, topics: &Mutex<BTreeSet<Topic>>) -> Result<(), Error> {
        let Some(record) = self.hub().store().get(id).await?.filter(|record| record.phase != RecordPhase::Dead) else {
            return Ok(());
        };
        let Some(at) = GatewayConnection::of(&record.location) else { return Ok(()) };
        if let Some(reason) = self.has_gone(&record, &at).await {
            self.hub().evict(record, reason);
            return Ok(());
        }
        if record.phase == RecordPhase::Opening && !self.hub().may_be_opening(&record) {
            self.post_held(id, self.posts).await?;
        }
        let endpoint = self.app.endpoint(&record.endpoint);
        if endpoint.is_some_and(|endpoint| matches!(endpoint.ordering, Ordering::Sequenced(_))) {
            self.resume_sequence(&at, &record).await?;
        }
        let subscribed = self.hub().store().topics(id).await?;
        let retained = subscribed.into_iter().filter(|topic| self.hub().retention(topic).is_some());
        topics.lock().extend(retained);
        Ok(())
    }

    /// The reason why a channel's connection must have ended, if it has.
    async fn has_gone(&self, record: &Record, at: &GatewayConnection) -> Option<DisconnectReason> {
        let gateway = self.hub().gateways().gateway.as_ref()?;
        let capabilities = gateway.capabilities();
        let age = SystemTime::now().duration_since(record.opened_at).unwrap_or_default();
        if capabilities.longest().is_some_and(|longest| age > longest) {
            return Some(DisconnectReason::Expired);
        }
        if age < capabilities.quiet || self.hub().may_be_opening(record) {
            return None;
        }
        (gateway.probe(at, self.posts).await == Probed::Gone).then_some(DisconnectReason::Lost)
    }

    /// Ends channels of dead nodes, and ends that others began. As on a node, this begins only after a whole term:
    /// otherwise, after an outage of the store, every process would claim all others' channels.
    async fn end_abandoned(&self) -> Result<(), Error> {
        let hub = self.hub();
        let (term, node) = (hub.lease_term(), hub.node());
        let began = Instant::now();
        hub.store().lease(node, LeaseTerm::Acquire, term).await?;
        let mut renewed = began;
        while began.elapsed() < term {
            let pause = (term / 3).min(term.saturating_sub(began.elapsed()));
            if Instant::now() + pause >= self.posts {
                tracing::warn!(
                    "the janitor ends nothing that others began to end: give the function a time-out that is longer than a lease"
                );
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            let before = Instant::now();
            if renewed.elapsed() >= term
                || hub.store().lease(node, LeaseTerm::Renew, term).await? == crate::store::Lease::Lost
            {
                tracing::warn!("the janitor lost its lease, and ends nothing that others began to end this time");
                return Ok(());
            }
            renewed = before;
        }
        // Claim only just after an answer of the store: a claim that waited for it would find all other leases expired.
        let until = renewed + term / 3;
        while Instant::now() < self.posts.min(until) {
            let Ok(claims) = timeout_at(until.into(), hub.claim_due(&self.app, CLAIMS)).await else { break };
            let claims = claims?;
            let last = claims.len() < CLAIMS;
            let ends = claims.into_iter().map(|claim| ending::end_claimed(self.app.clone(), claim, PATIENCE, None));
            let ended = stream::iter(ends).for_each_concurrent(CLAIMS, |end| end);
            if timeout_at(self.posts.into(), ended).await.is_err() {
                tracing::warn!("the janitor has no time to end all that it claimed, a later run does");
                break;
            }
            if last {
                break;
            }
        }
        hub.store().release(node).await?;
        Ok(())
    }
}
