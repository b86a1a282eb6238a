//! The end of a channel: claim it, run `on_disconnect`, sweep what is stored.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::EventHub;
use super::lease::jittered;
use crate::app::App;
use crate::channel::Channel;
use crate::conversation::guarded;
use crate::handler::{DisconnectContext, DisconnectReason};
use crate::invocation::tries::retried;
use crate::name::{ChannelId, NodeId};
use crate::panics::survived;
use crate::store::{Claim, Ended, Fence, StoreError};

/// Ends a channel of this node, once: others that end it too find it claimed.
pub(crate) async fn end(channel: Channel, reason: DisconnectReason, connected: bool) {
    let hub = channel.app().hub().clone();
    survived("ending", hub.leave_here(&channel)).await;
    if connected {
        channel.inner.endpoint.counters.closed.increment(1);
    }
    let claim = || async {
        if let Some(ended) = take(&hub, &channel, connected).await? {
            return Ok(Ending::Here(ended));
        }
        if hub.attached_unheard(&channel).await? {
            return Ok(take(&hub, &channel, connected).await?.map_or(Ending::Elsewhere, Ending::Here));
        }
        Ok(if hub.is_forgotten(&channel).await? { Ending::Forgotten } else { Ending::Elsewhere })
    };
    let Some(ending) = persist("claim", claim).await else { return };
    let first = !matches!(ending, Ending::Elsewhere) && !channel.inner.ending.swap(true, Ordering::AcqRel);
    match ending {
        Ending::Here(Ended::Claimed(claim)) if first => Box::pin(run(&channel, *claim, reason, connected)).await,
        // There is nothing to claim and nothing to sweep.
        Ending::Forgotten if first && connected => disconnect(&channel, reason).await,
        Ending::Here(_) | Ending::Forgotten | Ending::Elsewhere => {}
    }
}

/// Claims a channel, or does away with it where there is no `on_disconnect` to run.
async fn take(hub: &EventHub, channel: &Channel, connected: bool) -> Result<Option<Ended>, StoreError> {
    let (store, fence, by) = (hub.store(), channel.fence(), claimant(hub, channel));
    if connected && channel.inner.endpoint.disconnect.is_some() {
        let claim = store.claim(&fence, &by, hub.lease_term()).await?;
        return Ok(claim.map(|claim| Ended::Claimed(Box::new(claim))));
    }
    store.end(&fence, &by, hub.lease_term()).await
}

/// The name under which a claim is asked for again. Several tasks of a node may end one channel of a gateway at once, each
/// with a `Channel` of its own: one of them has the claim.
fn claimant(hub: &EventHub, channel: &Channel) -> NodeId {
    hub.node().part(Arc::as_ptr(&channel.inner) as usize)
}

/// Whose business the end of a channel is.
enum Ending {
    Here(Ended),
    /// The store has lost the channel, and only this node knows of it.
    Forgotten,
    Elsewhere,
}

/// Ends a channel that another node, or nobody, held.
pub(crate) async fn end_claimed(app: App, claim: Claim) {
    match app.rehydrate(claim.record.clone()) {
        Some(channel) => run(&channel, claim, DisconnectReason::Expired, true).await,
        None => {
            metrics::counter!("strait_channels_unserved_total").increment(1);
            let endpoint = &claim.record.endpoint;
            tracing::warn!(%endpoint, "no node has had a channel's endpoint for long, it ends without on_disconnect");
            persist("remove", || app.store().remove(std::slice::from_ref(&claim))).await;
        }
    }
}

/// Records of channels that nobody was told of, which are removed one after the other: while the store is away they may
/// become many.
#[derive(Default)]
pub(super) struct Undoing(Mutex<Undo>);

#[derive(Default)]
struct Undo {
    waiting: VecDeque<ChannelId>,
    is_running: bool,
}

impl Undoing {
    fn next(&self) -> Option<ChannelId> {
        let mut undo = self.0.lock();
        let next = undo.waiting.pop_front();
        undo.is_running = next.is_some();
        next
    }
}

/// Removes the record of a channel that nobody was told of, if there is one.
pub(crate) fn undo(hub: &EventHub, id: ChannelId) {
    // Without a runtime the node ends, and its lease with it.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut undo = hub.0.undoing.0.lock();
    undo.waiting.push_back(id);
    if !std::mem::replace(&mut undo.is_running, true) {
        runtime.spawn(undo_all(hub.clone()));
    }
}

/// As [`undo`], at once and while there is time. What is left then is found when it is due.
pub(crate) async fn undo_now(hub: &EventHub, channel: &Channel, until: Instant) {
    let fence = channel.fence();
    let undone = async {
        if let Some(claim) = retried(until, || hub.store().claim(&fence, hub.node(), hub.lease_term())).await? {
            retried(until, || hub.store().remove(std::slice::from_ref(&claim))).await?;
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = undone.await {
        tracing::warn!(error = %error.in_full(), "a channel that nobody was told of waits until it is due");
    }
}

async fn undo_all(hub: EventHub) {
    while let Some(id) = hub.0.undoing.next() {
        let fence = Fence { id, generation: 1 };
        if let Some(Some(claim)) = persist("claim", || hub.store().claim(&fence, hub.node(), hub.lease_term())).await {
            persist("remove", || hub.store().remove(std::slice::from_ref(&claim))).await;
        }
    }
}

async fn run(channel: &Channel, claim: Claim, reason: DisconnectReason, connected: bool) {
    let hub = channel.app().hub();
    let term = hub.lease_term();
    channel.inner.generation.store(claim.fence.generation, Ordering::Release);
    let renewing = Box::pin(async {
        loop {
            sleep(term / 3).await;
            if let Some(Err(error)) = survived("ending", hub.store().renew(&claim, term)).await {
                tracing::warn!(error = %error.in_full(), "a claim could not be renewed");
            }
        }
    });
    let ending = Box::pin(async {
        if connected {
            disconnect(channel, reason).await;
        }
        survived("ending", hub.leave_all(channel)).await;
        persist("remove", || hub.store().remove(std::slice::from_ref(&claim))).await;
    });
    match select(ending, renewing).await {
        Either::Left(_) => {}
        Either::Right((never, _)) => match never {},
    }
}

async fn disconnect(channel: &Channel, reason: DisconnectReason) {
    let endpoint = &channel.inner.endpoint;
    let Some(handler) = &endpoint.disconnect else { return };
    let context = DisconnectContext { channel: channel.clone(), reason };
    match timeout(endpoint.limits.handler, guarded(|| handler(context))).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(channel = %channel.id(), error = %error.in_full(), "on_disconnect failed"),
        Err(_) => tracing::error!(channel = %channel.id(), "on_disconnect took too long"),
    }
}

/// Tries until the store answers, also if it panics. `None` if it answers what trying again does not change: the
/// janitor of some node finds what is left.
async fn persist<T, F: Future<Output = Result<T, StoreError>>>(op: &str, mut call: impl FnMut() -> F) -> Option<T> {
    let mut pause = Duration::from_millis(100);
    loop {
        match survived("ending", call()).await {
            Some(Ok(done)) => return Some(done),
            Some(Err(error)) if !error.is_retryable() => {
                tracing::error!(op, error = %error.in_full(), "a channel could not be ended");
                return None;
            }
            Some(Err(error)) => tracing::warn!(op, error = %error.in_full(), "ending a channel waits for the store"),
            None => {}
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
