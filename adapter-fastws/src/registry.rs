//! The connections of one runtime, and the sweeper that looks after all of them: no connection has a timer of its own.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::sleep;

use crate::peer::{Peer, flag, millis};

const COARSEST: Duration = Duration::from_secs(1);
const FINEST: Duration = Duration::from_millis(5);

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Registry {
    peers: Mutex<Slab<Arc<Peer>>>,
    tick: AtomicU64,
    draining: std::sync::atomic::AtomicBool,
    connections: metrics::Gauge,
}

/// A connection's place in the registry, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<Registry>,
    key: usize,
}

impl Registry {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            peers: Mutex::default(),
            tick: AtomicU64::new(COARSEST.as_millis() as u64),
            draining: false.into(),
            connections: metrics::gauge!("strait_connections"),
        })
    }

    pub(crate) fn register(self: &Arc<Self>, peer: &Arc<Peer>) -> Registered {
        let tick = peer.tick().clamp(FINEST, COARSEST).as_millis() as u64;
        self.tick.fetch_min(tick, Ordering::Relaxed);
        self.connections.increment(1);
        let key = self.peers.lock().insert(Arc::clone(peer));
        if self.is_draining() {
            peer.flag(flag::DRAIN);
        }
        Registered { registry: Arc::clone(self), key }
    }

    pub(crate) fn count(&self) -> usize {
        self.peers.lock().len()
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
        while let Some(tick) = registry.upgrade().map(|registry| registry.tick.load(Ordering::Relaxed)) {
            sleep(Duration::from_millis(tick)).await;
            if let Some(registry) = registry.upgrade() {
                let now = millis(Instant::now());
                registry.peers.lock().iter().for_each(|(_, peer)| peer.sweep(now));
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut peers = self.registry.peers.lock();
        peers.remove(self.key);
        if peers.len() * 4 < peers.capacity() {
            peers.shrink_to_fit();
        }
        drop(peers);
        self.registry.connections.decrement(1);
    }
}
