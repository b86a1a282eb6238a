//! The node's lease. Its holder handles messages; a node that loses it loses its channels to other nodes.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use futures_util::stream::{self, StreamExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};

use super::{EventHub, ending};
use crate::app::App;
use crate::channel::Channel;
use crate::close::Close;
use crate::handler::DisconnectReason;
use crate::name::ConnectionId;
use crate::panics::survived;
use crate::store::{
    Attach, AttachAs, Attached, Claim, Lease, LeaseTerm, Location, RecordPhase, Served, StoreError, StoreErrorKind,
};

/// Due channels that are claimed at once.
const CLAIMS: usize = 32;
/// Lease terms for which the node leaves channels of unknown endpoints to other nodes.
const UNSERVED: u32 = 20;
/// Claimed channels that are ended at once.
const ENDING_AT_ONCE: usize = 8 * CLAIMS;
/// Channels that are attached again at once.
const ATTACHED_AT_ONCE: usize = 64;

/// The end of the sure lease, by this process's own monotonic clock, counted from before the renewal was sent.
pub(super) struct LeaseClock {
    origin: Instant,
    /// Microseconds after the origin; 0 while no lease is held.
    until: AtomicU64,
    /// The start of the unbroken lease, in the same unit.
    since: AtomicU64,
    /// A check has found the lease unsure since it was last held.
    doubted: AtomicBool,
    /// The lease was lost, and some channels have yet to be attached again.
    lost: AtomicBool,
    /// Counts the leases that this node has had.
    number: AtomicU64,
}

impl LeaseClock {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            until: AtomicU64::new(0),
            since: AtomicU64::new(0),
            doubted: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            number: AtomicU64::new(0),
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        // `as_micros` would divide 128-bit numbers at every message.
        let passed = at.duration_since(self.origin);
        passed.as_secs() * 1_000_000 + u64::from(passed.subsec_micros())
    }

    /// Sets the lease's end. Returns whether a check has found it unsure until now: the waiting handlers must be woken.
    fn hold(&self, until: Instant) -> bool {
        let now = self.micros(Instant::now());
        if self.until.load(Ordering::Acquire) <= now {
            self.since.store(now, Ordering::Release);
        }
        self.until.store(self.micros(until), Ordering::SeqCst);
        self.doubted.swap(false, Ordering::SeqCst)
    }

    /// Starts the unbroken time anew after a failed renewal: other nodes that could not renew get a whole term, too.
    fn falter(&self) {
        self.since.store(self.micros(Instant::now()), Ordering::Release);
    }

    /// The time for which the lease was held and renewed without a break; zero while it is unsure.
    fn held_for(&self) -> Duration {
        let now = self.micros(Instant::now());
        let sure = now < self.until.load(Ordering::Acquire);
        Duration::from_micros(if sure { now.saturating_sub(self.since.load(Ordering::Acquire)) } else { 0 })
    }

    /// Whether the lease was lost and channels are still being attached again.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    pub(super) fn is_sure(&self, now: Instant) -> bool {
        let sure = self.micros(now) < self.until.load(Ordering::SeqCst);
        if sure {
            return true;
        }
        self.doubted.store(true, Ordering::SeqCst);
        // The lease may have been renewed just before the doubt was set: then no wake-up would follow.
        self.micros(now) < self.until.load(Ordering::SeqCst)
    }
}

/// A random time between half of the duration and the whole, so that nodes that started together drift apart.
pub(crate) fn jittered(duration: Duration) -> Duration {
    let random = RandomState::default().hash_one(Instant::now()) % 1024;
    duration / 2 + duration.mul_f64(random as f64 / 2048.0)
}

impl EventHub {
    /// Begins a term in the store; returns the end of the sure time.
    pub(super) async fn acquire_lease(&self) -> Result<Instant, StoreError> {
        let before = Instant::now();
        match self.0.store.lease(&self.0.node, LeaseTerm::Acquire, self.lease_term()).await? {
            Lease::Held => Ok(before + self.lease_term()),
            Lease::Lost => Err(StoreError::new(StoreErrorKind::Conflict, "hub", "lease")),
        }
    }

    pub(super) async fn release_lease(&self) {
        if let Err(error) = self.0.store.release(&self.0.node).await {
            tracing::warn!(error = %error.in_full(), "the lease was not given back, it ends by itself");
        }
    }

    /// Holds the lease: messages are handled from here on.
    pub(super) fn begin_lease(&self, app: &App, sure_until: Instant) -> [JoinHandle<()>; 3] {
        self.0.lease.hold(sure_until);
        let (renewed, renewals) = watch::channel(Instant::now());
        [
            tokio::spawn(self.clone().keep_lease(renewed)),
            tokio::spawn(self.clone().reap(app.clone(), renewals)),
            tokio::spawn(self.clone().keep_compared(app.clone())),
        ]
    }

    async fn keep_lease(self, renewed: watch::Sender<Instant>) {
        let term = self.lease_term();
        let mut pause = term / 3;
        loop {
            sleep(pause).await;
            let before = Instant::now();
            let held = survived("lease", self.renew_lease()).await == Some(true);
            if held {
                if pause < term / 3 {
                    // The cause of the delay may have cost the store its last writes.
                    self.0.comparison.ask();
                }
                renewed.send_replace(before);
            } else {
                self.0.lease.falter();
            }
            pause = if held { term / 3 } else { term / 10 };
        }
    }

    /// Renews the lease; returns whether it is held.
    async fn renew_lease(&self) -> bool {
        let (term, lease) = (self.lease_term(), &self.0.lease);
        if lease.lost.load(Ordering::Acquire) {
            // Start over, however far the last attempt came.
            return self.begin_anew().await;
        }
        let before = Instant::now();
        match timeout(term / 3, self.0.store.lease(&self.0.node, LeaseTerm::Renew, term)).await {
            Ok(Ok(Lease::Held)) => {
                // The lease may have run out while the answer was awaited.
                if lease.hold(before + term) {
                    tracing::info!("the lease is sure again");
                    self.wake_all();
                }
                true
            }
            Ok(Ok(Lease::Lost)) => {
                tracing::warn!("the lease was lost, channels are attached again");
                if lease.is_sure(Instant::now()) {
                    tracing::error!("the store has lost the lease before its time, and may have lost more");
                    for channel in self.connected().iter().filter(|channel| self.is_of_this_lease(channel)) {
                        channel.inner.forgotten.store(true, Ordering::Release);
                    }
                }
                lease.end();
                lease.lost.store(true, Ordering::Release);
                self.begin_anew().await
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %error.in_full(), "the lease could not be renewed");
                false
            }
            Err(_) => {
                tracing::warn!("the lease could not be renewed in time");
                false
            }
        }
    }

    /// After a lost lease, begins a new term and attaches each channel that no other node took, in a new generation.
    async fn begin_anew(&self) -> bool {
        let term = self.lease_term();
        let sure_until = match timeout(term / 3, self.acquire_lease()).await {
            Ok(Ok(sure_until)) => sure_until,
            Ok(Err(error)) => {
                tracing::warn!(error = %error.in_full(), "no new lease");
                return false;
            }
            Err(_) => {
                tracing::warn!("no new lease in time");
                return false;
            }
        };
        // From here on `register` refuses channels that were stored under the old lease.
        self.0.lease.number.fetch_add(1, Ordering::AcqRel);
        // Attach many at once, to finish long before the new term ends.
        let channels = stream::iter(self.connected());
        let strays = channels.map(|channel| self.attach_anew(channel)).buffer_unordered(ATTACHED_AT_ONCE);
        self.see_off(strays.filter_map(std::future::ready).collect().await);
        self.0.lease.lost.store(false, Ordering::Release);
        self.0.lease.hold(sure_until);
        self.wake_all();
        self.0.comparison.ask();
        true
    }

    pub(crate) fn lease_number(&self) -> u64 {
        self.0.lease.number.load(Ordering::Acquire)
    }

    /// Returns the channel if it could not be attached, with the close for its client.
    async fn attach_anew(&self, channel: Channel) -> Option<(Channel, Close)> {
        let location = self.location_of(&channel);
        let by = AttachAs::Holder { generation: channel.fence().generation };
        let attach = self.0.store.attach(channel.id(), Attach { by, location, next_token: None });
        match survived("lease", attach).await {
            Some(Ok(Attached::Attached { record, .. })) => {
                channel.inner.generation.store(record.generation, Ordering::Release);
                channel.inner.lease.store(self.lease_number(), Ordering::Release);
                channel.inner.forgotten.store(false, Ordering::Release);
                channel.inner.stray.store(false, Ordering::Release);
                if channel.inner.live.lock().left {
                    // The channel has ended meanwhile, and its claim was of the generation before: no other node ends
                    // it.
                    tokio::spawn(ending::end(channel, DisconnectReason::Lost, true));
                }
                None
            }
            Some(Ok(Attached::Refused)) => {
                Some((channel, Close::restart("ended or taken over while this node was away")))
            }
            failed => {
                if let Some(Err(error)) = failed
                    && let Some(count) = self.lines().channel_not_attached.count()
                {
                    tracing::warn!(count, error = %error.in_full(), "a channel could not be attached again");
                }
                Some((channel, Close::restart("this node lost its lease")))
            }
        }
    }

    /// Whether the store attached a channel again at its own connection although the answer was lost. The channel's
    /// generation is then updated, so that it can be ended.
    pub(super) async fn attached_unheard(&self, channel: &Channel) -> Result<bool, StoreError> {
        let Some(record) = self.0.store.get(channel.id()).await? else { return Ok(false) };
        let known = channel.inner.generation.load(Ordering::Acquire);
        let lives = matches!(record.phase, RecordPhase::Opening | RecordPhase::Open);
        let unheard = lives && record.location == self.location_of(channel) && record.generation > known;
        if unheard {
            channel.inner.generation.store(record.generation, Ordering::Release);
        }
        Ok(unheard)
    }

    fn is_of_this_lease(&self, channel: &Channel) -> bool {
        channel.inner.lease.load(Ordering::Acquire) == self.lease_number()
    }

    /// Whether the store has lost the channel. No record exists, and no other node can have ended the channel: the
    /// lease has surely been held since the channel came here.
    pub(super) async fn is_forgotten(&self, channel: &Channel) -> Result<bool, StoreError> {
        // A resumable channel may have moved to another node, and ended there.
        let stays = channel.inner.endpoint.grace.is_none();
        let own = channel.inner.forgotten.load(Ordering::Acquire)
            || (stays && self.is_of_this_lease(channel) && self.0.lease.is_sure(Instant::now()));
        Ok(own && self.0.store.get(channel.id()).await?.is_none())
    }

    pub(super) fn location_of(&self, channel: &Channel) -> Location {
        Location::Node { node: self.0.node.clone(), connection: ConnectionId::from(channel.id().clone()) }
    }

    pub(crate) fn connected(&self) -> Vec<Channel> {
        self.0.channels.iter().flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>()).collect()
    }

    fn wake_all(&self) {
        for channel in self.connected() {
            channel.inner.outlet.wake();
        }
    }

    /// Ends channels of dead nodes. It begins only after a whole term: otherwise, after an outage of the store, every
    /// node would claim all others' channels. It claims only just after an answer of the store: a claim that waited for
    /// the store would find the other leases expired.
    async fn reap(self, app: App, mut renewals: watch::Receiver<Instant>) {
        let term = self.lease_term();
        let ending = Arc::new(Semaphore::new(ENDING_AT_ONCE));
        while renewals.changed().await.is_ok() {
            sleep(jittered(term / 8)).await;
            // Every living node, even a slow one, has renewed in the two thirds of a term before.
            let until = *renewals.borrow_and_update() + term / 3;
            if self.0.lease.held_for() >= term {
                survived("reaper", self.end_due(&app, &ending, until)).await;
            }
        }
    }

    /// Claims due channels that this application can end, or that no other node has ended for long.
    pub(crate) async fn claim_due(&self, app: &App, limit: usize) -> Result<Vec<Claim>, StoreError> {
        let (term, endpoints) = (self.lease_term(), app.endpoint_names());
        let served = Served { endpoints: &endpoints, patience: term.saturating_mul(UNSERVED) };
        self.0.store.claim_due_of(&self.0.node, Some(&served), limit, term).await
    }

    async fn end_due(&self, app: &App, ending: &Arc<Semaphore>, until: Instant) {
        loop {
            // A claim runs out: take only as many as are worked on.
            let Ok(mut room) = Arc::clone(ending).acquire_many_owned(CLAIMS as u32).await else { return };
            if Instant::now() >= until {
                return;
            }
            let claiming = self.claim_due(app, CLAIMS);
            let Ok(claimed) = timeout_at(until.into(), claiming).await else {
                tracing::warn!("channels that are due could not be claimed in time");
                return;
            };
            match claimed {
                Ok(claims) => {
                    let last = claims.len() < CLAIMS;
                    for claim in claims {
                        let (app, room) = (app.clone(), room.split(1));
                        tokio::spawn(async move {
                            survived("ending", ending::end_claimed(app, claim, ending::PATIENCE, room)).await;
                        });
                    }
                    if last {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %error.in_full(), "channels that are due could not be claimed");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(2);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn who_found_the_lease_unsure_is_woken_when_it_is_held_again() {
        let clock = LeaseClock::new();
        assert!(!clock.hold(Instant::now() + SHORT));
        std::thread::sleep(SHORT);
        assert!(!clock.is_sure(Instant::now()));
        assert!(clock.hold(Instant::now() + LONG));
        assert!(clock.is_sure(Instant::now()));
        assert!(!clock.hold(Instant::now() + LONG));
    }

    /// Two threads produce every order: a doubt during a renewal is not missed.
    #[test]
    fn whoever_finds_the_lease_unsure_while_it_is_renewed_is_woken() {
        let rounds = 20_000;
        let clocks: Vec<_> = (0..rounds).map(|_| LeaseClock::new()).collect();
        let at = AtomicU64::new(0);
        let meet = |round: usize| {
            at.fetch_add(1, Ordering::SeqCst);
            while at.load(Ordering::SeqCst) < 2 * (round as u64 + 1) {
                std::hint::spin_loop();
            }
        };
        let (sure, woken) = std::thread::scope(|scope| {
            let doubts = scope.spawn(|| {
                let look = |(round, clock): (usize, &LeaseClock)| {
                    meet(round);
                    clock.is_sure(Instant::now())
                };
                clocks.iter().enumerate().map(look).collect::<Vec<_>>()
            });
            let hold = |(round, clock): (usize, &LeaseClock)| {
                meet(round);
                clock.hold(Instant::now() + LONG)
            };
            let woken: Vec<_> = clocks.iter().enumerate().map(hold).collect();
            (doubts.join().expect("no panic"), woken)
        });
        assert!(sure.iter().zip(&woken).all(|(sure, woken)| *sure || *woken));
    }

    #[test]
    fn a_break_begins_the_time_anew_however_short_it_was() {
        let clock = LeaseClock::new();
        clock.hold(Instant::now() + LONG);
        std::thread::sleep(SHORT);
        clock.hold(Instant::now() + SHORT);
        assert!(clock.held_for() >= SHORT);
        std::thread::sleep(SHORT);
        assert_eq!(clock.held_for(), Duration::ZERO);
        let again = Instant::now();
        clock.hold(again + LONG);
        // The clock counts whole microseconds.
        assert!(clock.held_for() <= again.elapsed() + Duration::from_micros(1));
    }
}
