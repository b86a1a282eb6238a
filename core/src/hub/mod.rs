//! The event hub: publishing, subscribing, direct sends, and a node's connection to the others.

mod comparison;
mod delivery;
mod direct;
pub(crate) mod ending;
mod ends;
pub(crate) mod gateways;
mod held;
pub(crate) mod lease;
mod lines;
mod members;
mod memberships;
mod not_ready;
mod publish;
mod recovery;
mod strays;

use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub(crate) use gateways::Gateways;
pub use gateways::{Continuation, Work};
pub(crate) use memberships::Memberships;
pub use not_ready::NotReady;
pub use publish::Publish;

use comparison::Comparison;
use delivery::Delivery;
use ends::Ends;
use lease::LeaseClock;
use lines::Lines;
use members::{Emptied, Members};
use publish::Lane;

use crate::app::App;
use crate::channel::Channel;
use crate::error::Error;
use crate::event::Retention;
use crate::name::{ChannelId, NodeId, Topic};
use crate::observed::{StoreHealth, observe};
use crate::store::{BusNode, Health, Sink, Store, StoreError, StoreErrorKind};

/// The number of lanes for publications and deliveries; a topic always uses the same one.
const LANES: usize = 16;
/// Members of an index that are read at once.
pub(crate) const PAGE: usize = 256;

/// The time for which a stopping node waits for a store that has not taken all ends.
const LAST_ENDS: Duration = Duration::from_secs(5);

type Sharded<K, V> = Box<[RwLock<std::collections::HashMap<K, V, RandomState>>]>;

/// An application's settings of its hub.
#[derive(Debug, Clone)]
pub(crate) struct HubSettings {
    /// Prefixes of topics with their retention, the longest first.
    pub(crate) retentions: Vec<(String, Retention)>,
    pub(crate) lease: Duration,
    /// The bytes of events that may wait in a delivery lane.
    pub(crate) delivery_bytes: usize,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self { retentions: Vec::new(), lease: Duration::from_secs(15), delivery_bytes: 32 * 1024 * 1024 }
    }
}

/// Publishes, sends and queries, inside handlers (as an argument) and outside. Clones are the same hub.
#[derive(Clone)]
pub struct EventHub(Arc<Inner>);

pub(crate) struct Inner {
    node: NodeId,
    store: Arc<dyn Store>,
    store_health: Arc<StoreHealth>,
    lines: Lines,
    settings: HubSettings,
    bus: OnceLock<Arc<dyn BusNode>>,
    hasher: RandomState,
    channels: Sharded<ChannelId, Channel>,
    topics: Sharded<Topic, Arc<Members>>,
    lanes: Box<[Lane]>,
    delivery: Box<[Arc<Delivery>]>,
    /// The runtimes of the deliveries, in turn.
    runtimes: Mutex<Vec<Handle>>,
    lease: LeaseClock,
    gateways: Gateways,
    ends: Ends,
    comparison: Comparison,
    started: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for EventHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHub").field("node", &self.0.node).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("hub::Inner").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Inner {
    fn shard<K: std::hash::Hash>(&self, key: &K) -> usize {
        (self.hasher.hash_one(key) % LANES as u64) as usize
    }

    fn channel(&self, id: &ChannelId) -> Option<Channel> {
        self.channels[self.shard(id)].read().get(id).cloned()
    }

    fn members(&self, topic: &Topic) -> Option<Arc<Members>> {
        self.topics[self.shard(topic)].read().get(topic).cloned()
    }

    fn bus(&self) -> Result<&Arc<dyn BusNode>, Error> {
        let gone = || Error::unavailable("the node is not running").because("the application was not started");
        self.bus.get().ok_or_else(gone)
    }
}

impl EventHub {
    pub(crate) fn new(node: NodeId, store: Arc<dyn Store>, settings: HubSettings, gateways: Gateways) -> Self {
        fn shards<K, V>() -> Sharded<K, V> {
            (0..LANES).map(|_| RwLock::default()).collect()
        }
        let (store, store_health) = observe(store);
        Self(Arc::new(Inner {
            node,
            store,
            store_health,
            lines: Lines::default(),
            lease: LeaseClock::new(),
            gateways,
            ends: Ends::default(),
            comparison: Comparison::default(),
            started: AtomicBool::new(false),
            delivery: (0..LANES).map(|lane| Arc::new(Delivery::new(lane, settings.delivery_bytes))).collect(),
            settings,
            bus: OnceLock::new(),
            hasher: RandomState::default(),
            channels: shards(),
            topics: shards(),
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            runtimes: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// This node's name: new with each start.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    /// Whether publications of other nodes arrive here.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.bus.get().map_or(Health { hears: false, lag: None }, |bus| bus.health())
    }

    /// Whether the node surely holds its lease: only then it handles messages and takes connections.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.is_sure_at(Instant::now())
    }

    pub(crate) fn is_sure_at(&self, now: Instant) -> bool {
        self.0.lease.is_sure(now)
    }

    /// The number of channels that are connected to this node.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.0.channels.iter().map(|shard| shard.read().len()).sum()
    }

    /// The number of topics with members on this node.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.0.topics.iter().map(|shard| shard.read().len()).sum()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.0.lines
    }

    pub(crate) fn lease_term(&self) -> Duration {
        self.0.settings.lease
    }

    /// Registers the channel, unless the node's lease changed since the channel was stored under `lease`. Otherwise its
    /// record counts as that of a dead node, and is never attached again.
    pub(crate) fn register(&self, channel: &Channel, lease: u64) -> bool {
        // Register under the lock: a node counts a new lease first, and then goes through all its channels.
        let mut shard = self.0.channels[self.0.shard(channel.id())].write();
        let held = self.lease_number() == lease;
        if held {
            channel.inner.lease.store(lease, Ordering::Release);
            shard.insert(channel.id().clone(), channel.clone());
        }
        held
    }

    /// Removes a channel from this node: it gets no more events, and lookups here do not find it.
    pub(crate) async fn leave_here(&self, channel: &Channel) {
        let emptied = self.drop_here(channel);
        self.end_interest(emptied).await;
    }

    /// Does the same as [`leave_here`](Self::leave_here), in memory only.
    fn drop_here(&self, channel: &Channel) -> Emptied {
        let emptied = self.leave_memory(channel);
        let mut shard = self.0.channels[self.0.shard(channel.id())].write();
        // The channel may have come back to this node by another connection.
        if let Entry::Occupied(found) = shard.entry(channel.id().clone())
            && Arc::ptr_eq(&found.get().inner, &channel.inner)
        {
            self.0.comparison.begin(channel.id());
            found.remove();
        }
        emptied
    }

    /// Whether this is a node on the bus.
    pub(crate) fn is_started(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    pub(crate) async fn start(&self, app: &App, deliveries: &[Handle]) -> Result<(), StoreError> {
        if self.0.started.swap(true, Ordering::AcqRel) {
            let conflict = StoreError::new(StoreErrorKind::Conflict, "hub", "start");
            return Err(conflict.because("the application was started before"));
        }
        let started = self.try_start(app, deliveries).await;
        if started.is_err() {
            self.0.started.store(false, Ordering::Release);
        }
        started
    }

    async fn try_start(&self, app: &App, deliveries: &[Handle]) -> Result<(), StoreError> {
        let here = [Handle::current()];
        let runtimes = if deliveries.is_empty() { &here } else { deliveries };
        *self.0.runtimes.lock() = runtimes.to_vec();
        let sure_until = self.acquire_lease().await?;
        let bus = match self.0.store.start(&self.0.node, Arc::clone(&self.0) as Arc<dyn Sink>).await {
            Ok(bus) => bus,
            Err(error) => {
                self.release_lease().await;
                return Err(error);
            }
        };
        // `started` keeps other callers out.
        let _ = self.0.bus.set(bus);
        let lanes = self.0.delivery.iter().zip(runtimes.iter().cycle());
        let mut tasks: Vec<_> =
            lanes.map(|(lane, runtime)| runtime.spawn(Arc::clone(lane).run(self.clone()))).collect();
        tasks.extend(self.begin_lease(app, sure_until));
        *self.0.tasks.lock() = tasks;
        Ok(())
    }

    pub(crate) async fn stop(&self) {
        self.wait_for_ends(LAST_ENDS).await;
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        tasks.iter().for_each(JoinHandle::abort);
        self.0.delivery.iter().for_each(|lane| lane.stop());
        self.0.lease.end();
        if let Some(bus) = self.0.bus.get() {
            bus.stop().await;
        }
        self.release_lease().await;
    }
}
