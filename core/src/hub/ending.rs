//! The end of a channel: claim it, run `on_disconnect`, remove its record.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::EventHub;
use super::ends::{Pauses, Place, ask};
use crate::app::App;
use crate::channel::Channel;
use crate::conversation::guarded;
use crate::error::Error;
use crate::handler::{DisconnectContext, DisconnectReason};
use crate::invocation::tries::retried;
use crate::name::{ChannelId, NodeId};
use crate::panics::survived;
use crate::store::{Claim, Ended, Fence, StoreError};

/// The time for which a node retries `on_disconnect` while it answers `unavailable`.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);
/// The first and the longest pause before a retry.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// A handler that takes longer than this gives its place to other ends.
const LONG: Duration = Duration::from_secs(1);

/// An end that the store has yet to take.
pub(super) enum Unended {
    /// A channel of this node.
    Channel { channel: Channel, reason: DisconnectReason, connected: bool },
    /// The record of a channel that no client knows of, if there is one.
    Record(ChannelId),
    /// Such a record, already claimed.
    Claimed(Box<Claim>),
}

/// The responsibility for the end of a channel.
pub(super) enum Begun {
    Here(Ended),
    /// The store has lost the channel, and only this node knows of it.
    Forgotten,
    /// Another process ends the channel, or the end is done.
    Elsewhere,
}

/// Ends a channel. If several tasks do so, one of them has the claim. If the store does not take the end, a node
/// retries it later; an invocation retries it here until this is dropped.
pub(crate) async fn end(channel: Channel, reason: DisconnectReason, connected: bool) {
    let hub = channel.app().hub().clone();
    let emptied = hub.drop_here(&channel);
    if connected {
        channel.inner.endpoint.counters.closed.increment(1);
    }
    let mut place = hub.0.ends.place().await;
    survived("ending", hub.end_interest(emptied)).await;
    if !hub.is_started() {
        let begun = persist(&hub, "claim", &mut place, || begin(&hub, &channel, connected)).await;
        return go_on(&channel, begun, reason, connected, place).await;
    }
    let end = Unended::Channel { channel, reason, connected };
    if hub.0.ends.is_away() {
        return hub.end_later(end);
    }
    if let Some((end, begun)) = ask(&hub, end).await {
        end.go_on(begun, place).await;
    }
}

/// Removes the record of a channel that no client knows of, if there is one.
pub(crate) fn undo(hub: &EventHub, id: ChannelId) {
    hub.end_later(Unended::Record(id));
}

/// Does the same as [`undo`] at once, while there is time. A record that stays is claimed when it is due.
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

/// Ends a channel that another process held, or that none holds. Retries `on_disconnect` within its patience. The
/// `room` is free once the channel has ended, or waits for its next retry.
pub(crate) async fn end_claimed(app: App, claim: Claim, patience: Duration, room: Option<OwnedSemaphorePermit>) {
    let hub = app.hub().clone();
    let place = hub.0.ends.no_place(room);
    match app.rehydrate(claim.record.clone()) {
        Some(channel) => run(&channel, claim, DisconnectReason::Expired, true, patience, place).await,
        None => {
            metrics::counter!("strait_channels_unserved_total").increment(1);
            let endpoint = &claim.record.endpoint;
            tracing::warn!(%endpoint, "no node has had a channel's endpoint for long, it ends without on_disconnect");
            remove(&hub, &claim, place).await;
        }
    }
}

impl Unended {
    /// Asks the store to begin the end; keeps its progress for the next attempt.
    pub(super) async fn begin(&mut self, hub: &EventHub) -> Result<Begun, StoreError> {
        let nothing = Ok(Begun::Here(Ended::Removed));
        if let Self::Record(id) = self {
            let fence = Fence { id: id.clone(), generation: 1 };
            let Some(claim) = hub.store().claim(&fence, hub.node(), hub.lease_term()).await? else { return nothing };
            *self = Self::Claimed(Box::new(claim));
        }
        match self {
            Self::Channel { channel, connected, .. } => begin(hub, channel, *connected).await,
            Self::Claimed(claim) => {
                hub.store().remove(std::slice::from_ref(claim)).await?;
                nothing
            }
            Self::Record(_) => nothing,
        }
    }

    pub(super) async fn go_on(self, begun: Begun, place: Place) {
        if let Self::Channel { channel, reason, connected } = self {
            go_on(&channel, begun, reason, connected, place).await;
        }
    }
}

async fn begin(hub: &EventHub, channel: &Channel, connected: bool) -> Result<Begun, StoreError> {
    if let Some(ended) = take(hub, channel, connected).await? {
        return Ok(Begun::Here(ended));
    }
    if hub.attached_unheard(channel).await? {
        return Ok(take(hub, channel, connected).await?.map_or(Begun::Elsewhere, Begun::Here));
    }
    Ok(if hub.is_forgotten(channel).await? { Begun::Forgotten } else { Begun::Elsewhere })
}

/// Claims a channel, or removes it if there is no `on_disconnect` to run.
async fn take(hub: &EventHub, channel: &Channel, connected: bool) -> Result<Option<Ended>, StoreError> {
    let (store, fence, by) = (hub.store(), channel.fence(), claimant(hub, channel));
    if connected && channel.inner.endpoint.disconnect.is_some() {
        let claim = store.claim(&fence, &by, hub.lease_term()).await?;
        return Ok(claim.map(|claim| Ended::Claimed(Box::new(claim))));
    }
    store.end(&fence, &by, hub.lease_term()).await
}

/// The claimant's name, stable across retries. Several tasks of a node may end one gateway channel at once, each with
/// its own `Channel`: one of them has the claim.
fn claimant(hub: &EventHub, channel: &Channel) -> NodeId {
    hub.node().part(Arc::as_ptr(&channel.inner) as usize)
}

async fn go_on(channel: &Channel, begun: Begun, reason: DisconnectReason, connected: bool, mut place: Place) {
    let first = !matches!(begun, Begun::Elsewhere) && !channel.inner.ending.swap(true, Ordering::AcqRel);
    match begun {
        Begun::Here(Ended::Claimed(claim)) if first => {
            Box::pin(run(channel, *claim, reason, connected, PATIENCE, place)).await;
        }
        // There is no record to claim or to remove.
        Begun::Forgotten if first && connected => {
            disconnect(channel, reason, PATIENCE, &mut place, &Held::of(Instant::now() + PATIENCE)).await;
        }
        Begun::Here(_) | Begun::Forgotten | Begun::Elsewhere => {}
    }
}

/// How long a claim is surely held, by this node's clock: without an answer of the store it ends by itself.
struct Held(Mutex<Option<Instant>>);

impl Held {
    fn of(until: Instant) -> Self {
        Self(Mutex::new(Some(until)))
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock() = until;
    }

    fn is_sure(&self) -> bool {
        self.0.lock().is_some_and(|until| Instant::now() < until)
    }
}

/// Carries out the end of a claimed channel, and renews the claim meanwhile.
async fn run(
    channel: &Channel,
    claim: Claim,
    reason: DisconnectReason,
    connected: bool,
    patience: Duration,
    mut place: Place,
) {
    let hub = channel.app().hub();
    let term = hub.lease_term();
    channel.inner.generation.store(claim.fence.generation, Ordering::Release);
    let held = Held::of(Instant::now() + term);
    let renewing = pin!(async {
        loop {
            sleep(term / 3).await;
            let asked = Instant::now();
            match survived("ending", hub.store().renew(&claim, term)).await {
                Some(Ok(is_held)) => held.set(is_held.then_some(asked + term)),
                Some(Err(error)) => {
                    if let Some(count) = hub.0.ends.lines.renewals.count() {
                        tracing::warn!(count, error = %error.in_full(), "a claim could not be renewed");
                    }
                }
                None => {}
            }
        }
    });
    let ending = pin!(async {
        place.take().await;
        if connected {
            disconnect(channel, reason, patience, &mut place, &held).await;
        }
        survived("ending", hub.leave_all(channel)).await;
        remove(hub, &claim, place).await;
    });
    match select(ending, renewing).await {
        Either::Left(_) => {}
        Either::Right((never, _)) => match never {},
    }
}

/// Removes the rest of a claimed channel.
async fn remove(hub: &EventHub, claim: &Claim, mut place: Place) {
    persist(hub, "remove", &mut place, || hub.store().remove(std::slice::from_ref(claim))).await;
}

/// Runs `on_disconnect`. Retries it while it answers `unavailable`, within its patience and while the claim is held.
async fn disconnect(channel: &Channel, reason: DisconnectReason, patience: Duration, place: &mut Place, held: &Held) {
    let hub = channel.app().hub();
    let mut waiting = None;
    let mut pauses = Pauses::new(PAUSES.0, PAUSES.1);
    let until = Instant::now() + patience;
    while let Err((error, passes)) = try_disconnect(channel, reason, place).await {
        let again = passes && Instant::now() < until && held.is_sure();
        if again && waiting.is_none() {
            waiting = hub.0.ends.wait_patiently();
        }
        let (count, again) = (hub.0.ends.lines.handlers.count(), again && waiting.is_some());
        if let Some(count) = count {
            let (channel, error) = (channel.id(), error.in_full());
            if again {
                tracing::warn!(count, %channel, %error, "on_disconnect is run again, as something is away");
            } else {
                tracing::error!(count, %channel, %error, "on_disconnect failed");
            }
        }
        if !again {
            return;
        }
        place.leave_for_long();
        pauses.pause().await;
        place.take().await;
        if !held.is_sure() {
            tracing::warn!(channel = %channel.id(), "the claim was lost, another node runs on_disconnect again");
            return;
        }
    }
}

/// Runs `on_disconnect` once. The flag beside an error tells whether a retry may help.
async fn try_disconnect(channel: &Channel, reason: DisconnectReason, place: &mut Place) -> Result<(), (Error, bool)> {
    let endpoint = &channel.inner.endpoint;
    let Some(handler) = &endpoint.disconnect else { return Ok(()) };
    let context = DisconnectContext { channel: channel.clone(), reason };
    let mut running = pin!(timeout(endpoint.limits.handler, guarded(|| handler(context))));
    let ended = match timeout(LONG, &mut running).await {
        Ok(ended) => ended,
        Err(_) => {
            place.leave();
            let ended = running.await;
            place.take().await;
            ended
        }
    };
    match ended {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let passes = error.code() == "unavailable";
            Err((error, passes))
        }
        Err(_) => Err((Error::timeout("on_disconnect took too long"), false)),
    }
}

/// Retries until the store succeeds, through errors and panics. The place is free between attempts.
async fn persist<T, F: Future<Output = Result<T, StoreError>>>(
    hub: &EventHub,
    op: &str,
    place: &mut Place,
    mut call: impl FnMut() -> F,
) -> T {
    let mut pauses = Pauses::for_store();
    loop {
        place.take().await;
        match survived("ending", call()).await {
            Some(Ok(done)) => return done,
            failed => hub.0.ends.failed(op, failed.and_then(Result::err).as_ref()),
        }
        place.leave_for_long();
        pauses.pause().await;
    }
}
