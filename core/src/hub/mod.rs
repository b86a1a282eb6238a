//! The event hub: publishing, subscribing, direct sends, and what a node does to stay in touch with the others.

mod delivery;
pub(crate) mod ending;
mod lease;
mod members;
mod publish;
mod recovery;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinHandle;

pub(crate) use members::Joined;
pub use publish::Publish;

use delivery::Delivery;
use lease::LeaseClock;
use members::Members;
use publish::Lane;

use crate::app::App;
use crate::channel::Channel;
use crate::close::Close;
use crate::error::Error;
use crate::event::{Event, EventKind, Payload, Position, Retention};
use crate::frame::Frame;
use crate::name::{ChannelId, NodeId, Topic, UserId};
use crate::store::{
    BusNode, Command, Delivered, Health, Location, Page, Present, RecordPhase, Sink, Store, StoreError, StoreErrorKind,
};

/// How many lanes publications and deliveries run in; a topic is always in the same one.
const LANES: usize = 16;
/// How many members of an index are asked for at once.
const PAGE: usize = 256;

type Sharded<K, V> = Box<[RwLock<std::collections::HashMap<K, V, RandomState>>]>;

/// What an application sets of its hub.
#[derive(Debug, Clone)]
pub(crate) struct HubSettings {
    /// Prefixes of topics and what is kept of them, the longest first.
    pub(crate) retentions: Vec<(String, Retention)>,
    pub(crate) lease: Duration,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self { retentions: Vec::new(), lease: Duration::from_secs(15) }
    }
}

/// Publishes, sends and asks, from handlers (as an argument) and from outside of them. Clones are the same hub.
#[derive(Clone)]
pub struct EventHub(Arc<Inner>);

pub(crate) struct Inner {
    node: NodeId,
    store: Arc<dyn Store>,
    settings: HubSettings,
    bus: OnceLock<Arc<dyn BusNode>>,
    hasher: RandomState,
    channels: Sharded<ChannelId, Channel>,
    topics: Sharded<Topic, Arc<Members>>,
    lanes: Box<[Lane]>,
    delivery: Box<[Arc<Delivery>]>,
    lease: LeaseClock,
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
    pub(crate) fn new(node: NodeId, store: Arc<dyn Store>, settings: HubSettings) -> Self {
        fn shards<K, V>() -> Sharded<K, V> {
            (0..LANES).map(|_| RwLock::default()).collect()
        }
        Self(Arc::new(Inner {
            node,
            store,
            lease: LeaseClock::new(),
            started: AtomicBool::new(false),
            settings,
            bus: OnceLock::new(),
            hasher: RandomState::default(),
            channels: shards(),
            topics: shards(),
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            delivery: (0..LANES).map(|_| Arc::default()).collect(),
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

    /// How many channels are connected to this node.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.0.channels.iter().map(|shard| shard.read().len()).sum()
    }

    /// How many topics have members on this node.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.0.topics.iter().map(|shard| shard.read().len()).sum()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    pub(crate) fn lease_term(&self) -> Duration {
        self.0.settings.lease
    }

    /// Makes a channel known on this node, if the lease under which it was stored, its number then, is still the node's:
    /// else its record counts as that of a dead node, and nobody attaches it anew.
    pub(crate) fn register(&self, channel: &Channel, lease: u64) -> bool {
        // Under the lock: whoever counts up the leases goes through the channels after that.
        let mut shard = self.0.channels[self.0.shard(channel.id())].write();
        let held = self.lease_number() == lease;
        if held {
            channel.inner.lease.store(lease, Ordering::Release);
            shard.insert(channel.id().clone(), channel.clone());
        }
        held
    }

    /// Takes a channel's connection off this node: no events come any more, nobody finds it here.
    pub(crate) async fn leave_here(&self, channel: &Channel) {
        self.leave_all(channel).await;
        let mut shard = self.0.channels[self.0.shard(channel.id())].write();
        // The channel may have come back to this node by another connection.
        if shard.get(channel.id()).is_some_and(|found| Arc::ptr_eq(&found.inner, &channel.inner)) {
            shard.remove(channel.id());
        }
    }

    pub(crate) async fn start(&self, app: &App) -> Result<(), StoreError> {
        if self.0.started.swap(true, Ordering::AcqRel) {
            let conflict = StoreError::new(StoreErrorKind::Conflict, "hub", "start");
            return Err(conflict.because("the application was started before"));
        }
        let started = self.try_start(app).await;
        if started.is_err() {
            self.0.started.store(false, Ordering::Release);
        }
        started
    }

    async fn try_start(&self, app: &App) -> Result<(), StoreError> {
        let sure_until = self.acquire_lease().await?;
        let bus = match self.0.store.start(&self.0.node, Arc::clone(&self.0) as Arc<dyn Sink>).await {
            Ok(bus) => bus,
            Err(error) => {
                self.release_lease().await;
                return Err(error);
            }
        };
        // `started` lets nobody else come here.
        let _ = self.0.bus.set(bus);
        let mut tasks: Vec<_> =
            self.0.delivery.iter().map(|lane| tokio::spawn(Arc::clone(lane).run(self.clone()))).collect();
        tasks.extend(self.begin_lease(app, sure_until));
        *self.0.tasks.lock() = tasks;
        Ok(())
    }

    pub(crate) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        tasks.iter().for_each(JoinHandle::abort);
        self.0.delivery.iter().for_each(|lane| lane.stop());
        self.0.lease.end();
        if let Some(bus) = self.0.bus.get() {
            bus.stop().await;
        }
        self.release_lease().await;
    }

    /// Sends to one channel, wherever it is; `false` if there is no such channel. A detached channel gets it when it
    /// is back.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn send(&self, id: &ChannelId, payload: Payload) -> Result<bool, Error> {
        if let Some(channel) = self.0.channel(id)
            && channel.inner.endpoint.grace.is_none()
        {
            channel.send(&payload).await?;
            return Ok(true);
        }
        Ok(self.send_all(std::slice::from_ref(id), payload).await? > 0)
    }

    /// Sends to every channel of a user, and tells to how many.
    ///
    /// # Errors
    /// What the store answers; some of the channels may have been sent to.
    pub async fn send_to_user(&self, user: &UserId, payload: Payload) -> Result<usize, Error> {
        let mut sent = 0;
        let topic = Topic::of_user(user)?;
        let mut cursor = None;
        loop {
            let page = self.0.store.members(&topic, cursor.as_deref(), PAGE).await?;
            let ids: Vec<_> = page.items.into_iter().map(|member| member.fence.id).collect();
            sent += self.send_all(&ids, payload.clone()).await?;
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(sent),
            }
        }
    }

    async fn send_all(&self, ids: &[ChannelId], payload: Payload) -> Result<usize, Error> {
        let event = Arc::new(Event::message(payload));
        let sends: Vec<_> = ids.iter().map(|id| (id.clone(), Arc::clone(&event))).collect();
        let mut sent = 0;
        let delivered = self.0.store.deliver(&sends).await?;
        for ((channel, event), delivered) in sends.into_iter().zip(delivered) {
            sent += usize::from(match delivered {
                Delivered::Absent => false,
                Delivered::Stored(_) => true,
                Delivered::At { location, position } => {
                    self.command(&location, Command::Deliver { channel, position, event }).await?
                }
            });
        }
        Ok(sent)
    }

    /// Closes a channel, wherever it is connected; `false` if it is not.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn close_channel(&self, id: &ChannelId, close: Close) -> Result<bool, Error> {
        if let Some(channel) = self.0.channel(id) {
            channel.close(close);
            return Ok(true);
        }
        match self.0.store.get(id).await? {
            Some(record) if matches!(record.phase, RecordPhase::Opening | RecordPhase::Open) => {
                self.command(&record.location, Command::Close { channel: id.clone(), close }).await
            }
            Some(_) | None => Ok(false),
        }
    }

    /// Closes every channel of a user, and tells how many.
    ///
    /// # Errors
    /// What the store answers; some of the channels may have been closed.
    pub async fn close_user(&self, user: &UserId, close: Close) -> Result<usize, Error> {
        let topic = Topic::of_user(user)?;
        let (mut closed, mut cursor) = (0, None);
        loop {
            let page = self.0.store.members(&topic, cursor.as_deref(), PAGE).await?;
            for member in page.items {
                let command = Command::Close { channel: member.fence.id, close: close.clone() };
                closed += usize::from(self.command(&member.location, command).await?);
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(closed),
            }
        }
    }

    /// One page of who is present in a topic.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, Error> {
        Ok(self.0.store.presence(topic, cursor, limit).await?)
    }

    /// The last `limit` events that are kept of a topic, in order; how many are kept [`AppBuilder::retain`] says.
    ///
    /// # Errors
    /// What the store answers.
    ///
    /// [`AppBuilder::retain`]: crate::AppBuilder::retain
    pub async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, Error> {
        Ok(self.0.store.history(topic, limit).await?)
    }

    async fn command(&self, location: &Location, command: Command) -> Result<bool, Error> {
        match location {
            Location::Node { node, .. } if *node == self.0.node => {
                let here = self.0.channel(command.channel()).is_some();
                self.0.command(command);
                Ok(here)
            }
            Location::Node { node, .. } => Ok(self.0.bus()?.send(node, &[command]).await?),
            Location::Gateway { .. } => {
                Err(Error::unavailable("the channel is at a gateway that this node cannot reach"))
            }
        }
    }
}

impl Sink for Inner {
    fn events(&self, topic: &Topic, events: &[(Position, Arc<Event>)]) {
        if let Some(members) = self.members(topic) {
            self.delivery[self.shard(topic)].push(&members, events);
        }
    }

    fn command(&self, command: Command) {
        match command {
            Command::Deliver { channel, event, .. } => {
                if let Some(channel) = self.channel(&channel)
                    && event.kind == EventKind::Message
                {
                    channel.inner.outlet.send(&Frame::of(&event.payload));
                }
            }
            Command::Close { channel, close } => {
                if let Some(channel) = self.channel(&channel) {
                    channel.close(close);
                }
            }
            Command::Evict { fence } => {
                if let Some(channel) = self.channel(&fence.id)
                    && channel.fence().generation <= fence.generation
                {
                    channel.displace();
                }
            }
        }
    }

    fn gap(&self, topics: &[Topic]) {
        for topic in topics {
            if let Some(members) = self.members(topic) {
                self.delivery[self.shard(topic)].gap(&members);
            }
        }
    }
}
