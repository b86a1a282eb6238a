//! The connections of one runtime, and their sweeper: no connection has a timer of its own.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::peer::{Peer, flag, millis};

const COARSEST: Duration = Duration::from_secs(1);
const FINEST: Duration = Duration::from_millis(5);
/// After this many wake-ups the woken tasks get their turn, and others too: thousands may be due at once.
const WOKEN_AT_ONCE: usize = 16;
/// Room for this many connections is kept: with few connections each new one would otherwise allocate it again.
const KEPT: usize = 64;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Registry {
    peers: Mutex<Slab<Arc<Peer>>>,
    /// Places taken in this registry, by connections and by pending handshakes.
    taken: AtomicUsize,
    /// The same count over all registries of a server.
    of_all: Arc<AtomicUsize>,
    tick: AtomicU64,
    /// Says that `tick` is shorter now.
    finer: Arc<Notify>,
    draining: std::sync::atomic::AtomicBool,
    connections: metrics::Gauge,
}

/// A place for one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Registry>);

/// A connection under the sweeper's watch, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    place: Place,
    key: usize,
}

impl Registry {
    /// A registry that shares its count of places with others.
    pub(crate) fn new(of_all: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            peers: Mutex::default(),
            taken: AtomicUsize::new(0),
            of_all,
            tick: AtomicU64::new(COARSEST.as_millis() as u64),
            finer: Arc::default(),
            draining: false.into(),
            connections: metrics::gauge!("strait_connections"),
        })
    }

    /// Takes one of `places` in all registries together; `None` if none is left.
    pub(crate) fn take_place(self: &Arc<Self>, places: usize) -> Option<Place> {
        let taken = self.of_all.fetch_add(1, Ordering::AcqRel);
        self.taken.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(self));
        (taken < places).then_some(place)
    }

    /// Connections, and handshakes that may become some.
    pub(crate) fn count(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From here on the registry admits no client.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.lock().iter().map(|(_, peer)| Arc::clone(peer)).collect()
    }

    /// Sweeps the connections until the registry is gone.
    pub(crate) async fn sweep(registry: Weak<Self>) {
        let look = |registry: Arc<Self>| (registry.tick.load(Ordering::Relaxed), Arc::clone(&registry.finer));
        while let Some((tick, finer)) = registry.upgrade().map(look) {
            tokio::select! {
                () = sleep(Duration::from_millis(tick)) => {}
                () = finer.notified() => continue,
            }
            if let Some(registry) = registry.upgrade() {
                let now = millis(Instant::now());
                let mut from = 0;
                while let Some(rest) = registry.sweep_from(from, now) {
                    from = rest;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Sweeps the connections from a key on; returns the next key if enough tasks were woken.
    fn sweep_from(&self, from: usize, now: u64) -> Option<usize> {
        let peers = self.peers.lock();
        let due = |key: &usize| peers.get(*key).is_some_and(|peer| peer.sweep(now));
        let last = (from..peers.capacity()).filter(due).nth(WOKEN_AT_ONCE - 1);
        last.map(|last| last + 1)
    }
}

impl Place {
    /// The handshake was accepted: registers its connection.
    pub(crate) fn register(self, peer: &Arc<Peer>) -> Registered {
        let registry = &self.0;
        let tick = peer.tick().clamp(FINEST, COARSEST).as_millis() as u64;
        if registry.tick.fetch_min(tick, Ordering::Relaxed) > tick {
            registry.finer.notify_one();
        }
        registry.connections.increment(1);
        let key = registry.peers.lock().insert(Arc::clone(peer));
        if registry.is_draining() {
            peer.flag(flag::DRAIN);
        }
        Registered { place: self, key }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.of_all.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let registry = &self.place.0;
        let mut peers = registry.peers.lock();
        peers.remove(self.key);
        if peers.capacity() > KEPT && peers.len() * 4 < peers.capacity() {
            peers.shrink_to_fit();
        }
        drop(peers);
        registry.connections.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use strait_core::{Gaps, Limits};

    use super::*;

    #[test]
    fn who_is_due_at_the_same_time_is_woken_a_few_at_a_time() {
        const ALL: usize = 100;
        let registry = Registry::new(Arc::default());
        let peer = || Arc::new(Peer::new(&Limits::default(), Gaps::default()));
        let peers: Vec<_> = (0..ALL).map(|_| peer()).collect();
        let place = || registry.take_place(ALL).expect("there is room");
        let mut registered: Vec<_> = peers.iter().map(|peer| Some(place().register(peer))).collect();
        // One in three has gone.
        registered.iter_mut().step_by(3).for_each(|gone| *gone = None);
        assert_eq!(registry.sweep_from(0, millis(Instant::now())), None);
        let now = millis(Instant::now() + Limits::default().silent);
        let woken = || peers.iter().filter(|peer| peer.take_flags() == flag::SILENT).count();
        let (mut from, mut turns) = (Some(0), Vec::new());
        while let Some(key) = from {
            from = registry.sweep_from(key, now);
            turns.push(woken());
        }
        assert_eq!(turns, [WOKEN_AT_ONCE, WOKEN_AT_ONCE, WOKEN_AT_ONCE, WOKEN_AT_ONCE, 66 - 4 * WOKEN_AT_ONCE]);
    }
}
