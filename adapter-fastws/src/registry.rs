//! The connections of one runtime, and the sweeper that looks after all of them: no connection has a timer of its own.

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

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Registry {
    peers: Mutex<Slab<Arc<Peer>>>,
    /// Places that are taken here, by connections and by handshakes that may become some.
    taken: AtomicUsize,
    /// Those of all registries of a server.
    of_all: Arc<AtomicUsize>,
    tick: AtomicU64,
    /// Says that `tick` is shorter now.
    finer: Arc<Notify>,
    draining: std::sync::atomic::AtomicBool,
    connections: metrics::Gauge,
}

/// Room for one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Registry>);

/// A connection that the sweeper looks after, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    place: Place,
    key: usize,
}

impl Registry {
    /// A registry whose places count together with those of others.
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

    /// Takes one of so many places of all registries; `None` if there is none left.
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

    /// From here on nobody is let in.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.lock().iter().map(|(_, peer)| Arc::clone(peer)).collect()
    }

    /// Looks after the connections until the registry is gone.
    pub(crate) async fn sweep(registry: Weak<Self>) {
        let look = |registry: Arc<Self>| (registry.tick.load(Ordering::Relaxed), Arc::clone(&registry.finer));
        while let Some((tick, finer)) = registry.upgrade().map(look) {
            tokio::select! {
                () = sleep(Duration::from_millis(tick)) => {}
                () = finer.notified() => continue,
            }
            if let Some(registry) = registry.upgrade() {
                let now = millis(Instant::now());
                registry.peers.lock().iter().for_each(|(_, peer)| peer.sweep(now));
            }
        }
    }
}

impl Place {
    /// The handshake has become a connection.
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
        if peers.len() * 4 < peers.capacity() {
            peers.shrink_to_fit();
        }
        drop(peers);
        registry.connections.decrement(1);
    }
}
