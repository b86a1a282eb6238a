use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::faults::Faults;
use crate::event::{Event, Position};
use crate::name::{ChannelId, NodeId, Topic};
use crate::store::{
    Attach, Attached, BusNode, ChannelStore, Claim, Command, Delivered, Detached, EventBus, EventHubStore, Fence,
    Health, Lease, LeaseTerm, Location, Lock, Member, NewChannel, Opened, Page, Patch, Present, Publication, Published,
    Record, Relay, Replay, Served, Sink, Store, StoreError, Subscribed, Subscription, Written,
};

/// A store with operations that fail by its [`Faults`], those of its nodes on the bus included.
///
/// A refused or lost `publish` fails all of its slice.
#[derive(Debug)]
pub struct Faulty<S: ?Sized> {
    faults: Faults,
    store: Arc<S>,
}

impl<S: ?Sized> Clone for Faulty<S> {
    fn clone(&self) -> Self {
        Self { faults: self.faults.clone(), store: Arc::clone(&self.store) }
    }
}

impl<S: Store + ?Sized> Faulty<S> {
    /// Wraps a store.
    #[must_use]
    pub fn new(store: Arc<S>, faults: Faults) -> Self {
        Self { faults, store }
    }

    /// The faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

#[async_trait]
impl<S: Store + ?Sized> ChannelStore for Faulty<S> {
    async fn open(&self, new: NewChannel) -> Result<Opened, StoreError> {
        self.faults.around("open", self.store.open(new)).await
    }

    async fn get(&self, id: &ChannelId) -> Result<Option<Record>, StoreError> {
        self.faults.around("get", self.store.get(id)).await
    }

    async fn find(&self, location: &Location) -> Result<Option<Record>, StoreError> {
        self.faults.around("find", self.store.find(location)).await
    }

    async fn attach(&self, id: &ChannelId, attach: Attach) -> Result<Attached, StoreError> {
        self.faults.around("attach", self.store.attach(id, attach)).await
    }

    async fn detach(&self, fence: &Fence, grace: Duration) -> Result<Detached, StoreError> {
        self.faults.around("detach", self.store.detach(fence, grace)).await
    }

    async fn write(&self, fence: &Fence, patch: Patch) -> Result<Written, StoreError> {
        self.faults.around("write", self.store.write(fence, patch)).await
    }

    async fn lock(&self, id: &ChannelId, by: &NodeId, ttl: Duration) -> Result<Option<Lock>, StoreError> {
        self.faults.around("lock", self.store.lock(id, by, ttl)).await
    }

    async fn unlock(&self, lock: &Lock) -> Result<bool, StoreError> {
        self.faults.around("unlock", self.store.unlock(lock)).await
    }

    async fn claim(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        self.faults.around("claim", self.store.claim(fence, by, ttl)).await
    }

    async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError> {
        self.faults.around("renew", self.store.renew(claim, ttl)).await
    }

    async fn remove(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.faults.around("remove", self.store.remove(claims)).await
    }

    async fn lease(&self, node: &NodeId, term: LeaseTerm, ttl: Duration) -> Result<Lease, StoreError> {
        self.faults.around("lease", self.store.lease(node, term, ttl)).await
    }

    async fn release(&self, node: &NodeId) -> Result<(), StoreError> {
        self.faults.around("release", self.store.release(node)).await
    }

    async fn claim_due_of(
        &self,
        by: &NodeId,
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        self.faults.around("claim_due", self.store.claim_due_of(by, served, limit, ttl)).await
    }

    async fn connected(
        &self,
        node: &NodeId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<ChannelId>, StoreError> {
        self.faults.around("connected", self.store.connected(node, cursor, limit)).await
    }
}

#[async_trait]
impl<S: Store + ?Sized> EventHubStore for Faulty<S> {
    async fn subscribe(&self, subscriptions: &[Subscription]) -> Result<Vec<Subscribed>, StoreError> {
        self.faults.around("subscribe", self.store.subscribe(subscriptions)).await
    }

    async fn unsubscribe(&self, members: &[(Fence, Topic)]) -> Result<Vec<bool>, StoreError> {
        self.faults.around("unsubscribe", self.store.unsubscribe(members)).await
    }

    async fn topics(&self, id: &ChannelId) -> Result<Vec<Topic>, StoreError> {
        self.faults.around("topics", self.store.topics(id)).await
    }

    async fn members(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Member>, StoreError> {
        self.faults.around("members", self.store.members(topic, cursor, limit)).await
    }

    async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, StoreError> {
        self.faults.around("presence", self.store.presence(topic, cursor, limit)).await
    }

    async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.faults.around("replay", self.store.replay(topic, after, limit)).await
    }

    async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        self.faults.around("history", self.store.history(topic, limit)).await
    }

    async fn deliver(&self, sends: &[(ChannelId, Arc<Event>)]) -> Result<Vec<Delivered>, StoreError> {
        self.faults.around("deliver", self.store.deliver(sends)).await
    }

    async fn inbox(&self, id: &ChannelId, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.faults.around("inbox", self.store.inbox(id, after, limit)).await
    }

    async fn relay(&self, topic: &Topic, by: &NodeId, ttl: Duration) -> Result<Option<Relay>, StoreError> {
        self.faults.around("relay", self.store.relay(topic, by, ttl)).await
    }

    async fn relay_done(&self, relay: &Relay, through: &Position, keep: Option<Duration>) -> Result<bool, StoreError> {
        self.faults.around("relay_done", self.store.relay_done(relay, through, keep)).await
    }

    async fn publish(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>> {
        let call = async { Ok(self.store.publish(publications).await) };
        let failed = |error: StoreError| {
            let each = |_| Err(StoreError::new(error.kind, error.backend, error.op));
            publications.iter().map(each).collect()
        };
        self.faults.around("publish", call).await.unwrap_or_else(failed)
    }
}

#[async_trait]
impl<S: Store + ?Sized> EventBus for Faulty<S> {
    async fn start(&self, node: &NodeId, sink: Arc<dyn Sink>) -> Result<Arc<dyn BusNode>, StoreError> {
        let sink = Arc::new(FaultySink { faults: self.faults.clone(), sink });
        let node = self.faults.around("start", self.store.start(node, sink)).await?;
        Ok(Arc::new(FaultyNode { faults: self.faults.clone(), node }))
    }
}

#[derive(Debug)]
struct FaultySink {
    faults: Faults,
    sink: Arc<dyn Sink>,
}

impl Sink for FaultySink {
    fn events(&self, topic: &Topic, events: &[(Position, Arc<Event>)]) {
        if self.faults.ears.hear(topic, &self.sink) {
            self.sink.events(topic, events);
        }
    }

    fn command(&self, command: Command) {
        self.sink.command(command);
    }

    fn gap(&self, topics: &[Topic]) {
        self.sink.gap(topics);
    }

    fn reconnected(&self) {
        self.sink.reconnected();
    }

    fn runtime(&self, topic: &Topic) -> Option<Handle> {
        self.sink.runtime(topic)
    }

    fn relay(&self, topics: &[Topic]) {
        self.sink.relay(topics);
    }
}

#[derive(Debug)]
struct FaultyNode {
    faults: Faults,
    node: Arc<dyn BusNode>,
}

#[async_trait]
impl BusNode for FaultyNode {
    async fn interest(&self, on: &[Topic], off: &[Topic]) -> Result<Vec<Position>, StoreError> {
        self.faults.around("interest", self.node.interest(on, off)).await
    }

    async fn send(&self, node: &NodeId, commands: &[Command]) -> Result<bool, StoreError> {
        self.faults.around("send", self.node.send(node, commands)).await
    }

    fn health(&self) -> Health {
        let health = self.node.health();
        Health { hears: health.hears && !self.faults.ears.are_deaf(), ..health }
    }

    async fn stop(&self) {
        self.node.stop().await;
    }
}
