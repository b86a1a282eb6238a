use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use strait_core::store::{
    Attach, Attached, ChannelStore, Claim, Delivered, Detached, EventHubStore, Fence, Lease, LeaseTerm, Location, Lock,
    Member, NewChannel, Opened, Page, Patch, Present, Publication, Published, Record, Relay, Replay, Served,
    StoreError, Subscribed, Subscription, Written,
};
use strait_core::{ChannelId, Event, NodeId, Position, Topic};

use crate::bus::Bus;
use crate::config::RedisConfig;
use crate::keys::Keys;
use crate::publish::Expiries;
use crate::random::Random;
use crate::router::Router;

/// A store in Redis. Clones are handles onto the same connections.
#[derive(Clone)]
pub struct RedisStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Arc<RedisConfig>,
    pub(crate) keys: Keys,
    pub(crate) router: Router,
    pub(crate) random: Random,
    pub(crate) expiries: Expiries,
    /// This process's nodes.
    buses: RwLock<Vec<Weak<Bus>>>,
}

impl Inner {
    pub(crate) fn add_bus(&self, bus: &Arc<Bus>) {
        let mut buses = self.buses.write();
        buses.retain(|bus| bus.strong_count() > 0);
        buses.push(Arc::downgrade(bus));
    }

    /// Redis acknowledged a publication: this process's nodes with its topic note the position.
    pub(crate) fn acknowledged(&self, topic: &Topic, position: Position) {
        for bus in self.buses.read().iter().filter_map(Weak::upgrade) {
            bus.acknowledged(topic, position);
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// A store that connects at its first use.
    #[must_use]
    pub fn new(config: RedisConfig) -> Self {
        let config = Arc::new(config);
        Self {
            inner: Arc::new(Inner {
                keys: Keys::new(&config.prefix, config.database),
                router: Router::new(Arc::clone(&config)),
                random: Random::new(),
                expiries: Expiries::new(),
                buses: RwLock::default(),
                config,
            }),
        }
    }
}

/// Whole milliseconds for scripts: at least one, and within the range of Redis' own arithmetic.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    const CENTURY: u64 = 100 * 366 * 24 * 3600 * 1000;
    u64::try_from(duration.as_millis()).unwrap_or(CENTURY).clamp(1, CENTURY)
}

#[async_trait]
impl ChannelStore for RedisStore {
    async fn open(&self, new: NewChannel) -> Result<Opened, StoreError> {
        self.inner.open(&new).await
    }

    async fn get(&self, id: &ChannelId) -> Result<Option<Record>, StoreError> {
        self.inner.get(id).await
    }

    async fn find(&self, location: &Location) -> Result<Option<Record>, StoreError> {
        self.inner.find(location).await
    }

    async fn attach(&self, id: &ChannelId, attach: Attach) -> Result<Attached, StoreError> {
        self.inner.attach(id, &attach).await
    }

    async fn detach(&self, fence: &Fence, grace: Duration) -> Result<Detached, StoreError> {
        self.inner.detach(fence, grace).await
    }

    async fn write(&self, fence: &Fence, patch: Patch) -> Result<Written, StoreError> {
        self.inner.write(fence, &patch).await
    }

    async fn lock(&self, id: &ChannelId, _by: &NodeId, ttl: Duration) -> Result<Option<Lock>, StoreError> {
        self.inner.lock(id, ttl).await
    }

    async fn unlock(&self, lock: &Lock) -> Result<bool, StoreError> {
        self.inner.unlock(lock).await
    }

    async fn claim(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        self.inner.claim(fence, by, ttl).await
    }

    async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError> {
        self.inner.renew(claim, ttl).await
    }

    async fn remove(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.inner.remove(claims).await
    }

    async fn lease(&self, node: &NodeId, term: LeaseTerm, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.lease(node, term, ttl).await
    }

    async fn release(&self, node: &NodeId) -> Result<(), StoreError> {
        self.inner.release(node).await
    }

    async fn claim_due_of(
        &self,
        _by: &NodeId,
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        self.inner.claim_due(served, limit, ttl).await
    }

    async fn connected(
        &self,
        node: &NodeId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<ChannelId>, StoreError> {
        self.inner.connected(node, cursor, limit).await
    }
}

#[async_trait]
impl EventHubStore for RedisStore {
    async fn subscribe(&self, subscriptions: &[Subscription]) -> Result<Vec<Subscribed>, StoreError> {
        self.inner.subscribe(subscriptions).await
    }

    async fn unsubscribe(&self, members: &[(Fence, Topic)]) -> Result<Vec<bool>, StoreError> {
        self.inner.unsubscribe(members).await
    }

    async fn topics(&self, id: &ChannelId) -> Result<Vec<Topic>, StoreError> {
        self.inner.topics(id).await
    }

    async fn members(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Member>, StoreError> {
        self.inner.members(topic, cursor, limit).await
    }

    async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, StoreError> {
        self.inner.presence(topic, cursor, limit).await
    }

    async fn publish(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>> {
        self.inner.publish(publications).await
    }

    async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.inner.replay(topic, after, limit).await
    }

    async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        self.inner.history(topic, limit).await
    }

    async fn deliver(&self, sends: &[(ChannelId, Arc<Event>)]) -> Result<Vec<Delivered>, StoreError> {
        self.inner.deliver(sends).await
    }

    async fn inbox(&self, id: &ChannelId, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.inner.inbox(id, after, limit).await
    }

    async fn relay(&self, topic: &Topic, _by: &NodeId, ttl: Duration) -> Result<Option<Relay>, StoreError> {
        self.inner.relay(topic, ttl).await
    }

    async fn relay_done(&self, relay: &Relay, through: &Position, keep: Option<Duration>) -> Result<bool, StoreError> {
        self.inner.relay_done(relay, through, keep).await
    }
}
