//! A wrapper around a store that measures its calls, and counts and logs their failures.
//!
//! [`App`](crate::App) wraps every store that is not in the process's memory. Every method is forwarded, even those
//! with a default in the traits: a test compares.

mod health;
mod operation;
mod outage;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub(crate) use health::StoreHealth;
use operation::Operation;
pub(crate) use outage::Refuses;

use crate::event::{Event, Position};
use crate::name::{ChannelId, NodeId, Topic};
use crate::store::{
    Attach, AttachAs, Attached, BusNode, ChannelStore, Claim, Command, Delivered, Detached, Ended, EventBus,
    EventHubStore, Fence, Health, Lease, LeaseTerm, Location, Lock, Member, NewChannel, Opened, Page, Patch, Present,
    Publication, Published, Record, Relay, Replay, Served, Sink, Store, StoreError, Subscribed, Subscription, Written,
};

/// See the [module's documentation](self).
#[derive(Debug)]
struct Observed<S: ?Sized> {
    health: Arc<StoreHealth>,
    store: Arc<S>,
}

/// Observes a store, unless it is in the process's memory.
pub(crate) fn observe(store: Arc<dyn Store>) -> (Arc<dyn Store>, Arc<StoreHealth>) {
    if store.is_in_process() {
        return (store, Arc::new(StoreHealth::unknown()));
    }
    let health = Arc::new(StoreHealth::observed());
    (Arc::new(Observed { health: Arc::clone(&health), store }), health)
}

impl<S: Store + ?Sized> Observed<S> {
    async fn around<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        around(&self.health, operation, call).await
    }
}

/// A call with a caller that may stop waiting for it.
struct Pending {
    operation: Operation,
    answered: bool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.answered {
            health::given_up(self.operation);
        }
    }
}

/// Awaits a call and measures it. The caller must still check the answer.
async fn timed<T>(health: &StoreHealth, operation: Operation, call: impl Future<Output = T>) -> T {
    let mut pending = Pending { operation, answered: false };
    let began = Instant::now();
    let answer = call.await;
    pending.answered = true;
    health.took(operation, began.elapsed());
    answer
}

async fn around<T>(
    health: &StoreHealth,
    operation: Operation,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = timed(health, operation, call).await;
    match &answer {
        Ok(_) => health.succeeded(operation),
        Err(error) => health.failed(operation, error),
    }
    answer
}

#[async_trait]
impl<S: Store + ?Sized> ChannelStore for Observed<S> {
    fn is_in_process(&self) -> bool {
        self.store.is_in_process()
    }

    async fn open(&self, new: NewChannel) -> Result<Opened, StoreError> {
        self.around(Operation::Open, self.store.open(new)).await
    }

    async fn get(&self, id: &ChannelId) -> Result<Option<Record>, StoreError> {
        self.around(Operation::Get, self.store.get(id)).await
    }

    async fn find(&self, location: &Location) -> Result<Option<Record>, StoreError> {
        self.around(Operation::Find, self.store.find(location)).await
    }

    async fn attach(&self, id: &ChannelId, attach: Attach) -> Result<Attached, StoreError> {
        let anew = matches!(attach.by, AttachAs::Holder { .. });
        let answer = self.around(Operation::Attach, self.store.attach(id, attach)).await;
        if anew && matches!(answer, Ok(Attached::Attached { .. })) {
            self.health.attached_anew();
        }
        answer
    }

    async fn detach(&self, fence: &Fence, grace: Duration) -> Result<Detached, StoreError> {
        self.around(Operation::Detach, self.store.detach(fence, grace)).await
    }

    async fn write(&self, fence: &Fence, patch: Patch) -> Result<Written, StoreError> {
        self.around(Operation::Write, self.store.write(fence, patch)).await
    }

    async fn lock(&self, id: &ChannelId, by: &NodeId, ttl: Duration) -> Result<Option<Lock>, StoreError> {
        self.around(Operation::Lock, self.store.lock(id, by, ttl)).await
    }

    async fn unlock(&self, lock: &Lock) -> Result<bool, StoreError> {
        self.around(Operation::Unlock, self.store.unlock(lock)).await
    }

    async fn claim(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        let answer = self.around(Operation::Claim, self.store.claim(fence, by, ttl)).await;
        self.health.ended(usize::from(matches!(answer, Ok(Some(_)))));
        answer
    }

    async fn end(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Ended>, StoreError> {
        let answer = self.around(Operation::End, self.store.end(fence, by, ttl)).await;
        self.health.ended(usize::from(matches!(answer, Ok(Some(_)))));
        answer
    }

    async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError> {
        self.around(Operation::Renew, self.store.renew(claim, ttl)).await
    }

    async fn remove(&self, claims: &[Claim]) -> Result<(), StoreError> {
        self.around(Operation::Remove, self.store.remove(claims)).await
    }

    async fn lease(&self, node: &NodeId, term: LeaseTerm, ttl: Duration) -> Result<Lease, StoreError> {
        self.around(Operation::Lease, self.store.lease(node, term, ttl)).await
    }

    async fn release(&self, node: &NodeId) -> Result<(), StoreError> {
        self.around(Operation::Release, self.store.release(node)).await
    }

    async fn claim_due_of(
        &self,
        by: &NodeId,
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let answer = self.around(Operation::ClaimDue, self.store.claim_due_of(by, served, limit, ttl)).await;
        self.health.ended(answer.as_ref().map_or(0, Vec::len));
        answer
    }

    async fn connected(
        &self,
        node: &NodeId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<ChannelId>, StoreError> {
        self.around(Operation::Connected, self.store.connected(node, cursor, limit)).await
    }

    async fn claim_due(&self, by: &NodeId, limit: usize, ttl: Duration) -> Result<Vec<Claim>, StoreError> {
        let answer = self.around(Operation::ClaimDue, self.store.claim_due(by, limit, ttl)).await;
        self.health.ended(answer.as_ref().map_or(0, Vec::len));
        answer
    }
}

#[async_trait]
impl<S: Store + ?Sized> EventHubStore for Observed<S> {
    async fn subscribe(&self, subscriptions: &[Subscription]) -> Result<Vec<Subscribed>, StoreError> {
        self.around(Operation::Subscribe, self.store.subscribe(subscriptions)).await
    }

    async fn unsubscribe(&self, members: &[(Fence, Topic)]) -> Result<Vec<bool>, StoreError> {
        self.around(Operation::Unsubscribe, self.store.unsubscribe(members)).await
    }

    async fn topics(&self, id: &ChannelId) -> Result<Vec<Topic>, StoreError> {
        self.around(Operation::Topics, self.store.topics(id)).await
    }

    async fn members(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Member>, StoreError> {
        self.around(Operation::Members, self.store.members(topic, cursor, limit)).await
    }

    async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, StoreError> {
        self.around(Operation::Presence, self.store.presence(topic, cursor, limit)).await
    }

    /// Each refused publication counts. The store works as long as it takes one of a slice.
    async fn publish(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>> {
        let answers = timed(&self.health, Operation::Publish, self.store.publish(publications)).await;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            self.health.failed(Operation::Publish, error);
        }
        if answers.iter().any(Result::is_ok) {
            self.health.succeeded(Operation::Publish);
        }
        answers
    }

    async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.around(Operation::Replay, self.store.replay(topic, after, limit)).await
    }

    async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        self.around(Operation::History, self.store.history(topic, limit)).await
    }

    async fn deliver(&self, sends: &[(ChannelId, Arc<Event>)]) -> Result<Vec<Delivered>, StoreError> {
        self.around(Operation::Deliver, self.store.deliver(sends)).await
    }

    async fn inbox(&self, id: &ChannelId, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.around(Operation::Inbox, self.store.inbox(id, after, limit)).await
    }

    async fn relay(&self, topic: &Topic, by: &NodeId, ttl: Duration) -> Result<Option<Relay>, StoreError> {
        self.around(Operation::Relay, self.store.relay(topic, by, ttl)).await
    }

    async fn relay_done(&self, relay: &Relay, through: &Position, keep: Option<Duration>) -> Result<bool, StoreError> {
        self.around(Operation::RelayDone, self.store.relay_done(relay, through, keep)).await
    }
}

#[async_trait]
impl<S: Store + ?Sized> EventBus for Observed<S> {
    async fn start(&self, node: &NodeId, sink: Arc<dyn Sink>) -> Result<Arc<dyn BusNode>, StoreError> {
        let node = self.around(Operation::Start, self.store.start(node, sink)).await?;
        Ok(Arc::new(ObservedNode { health: Arc::clone(&self.health), node }))
    }
}

#[derive(Debug)]
struct ObservedNode {
    health: Arc<StoreHealth>,
    node: Arc<dyn BusNode>,
}

#[async_trait]
impl BusNode for ObservedNode {
    async fn interest(&self, on: &[Topic], off: &[Topic]) -> Result<Vec<Position>, StoreError> {
        around(&self.health, Operation::Interest, self.node.interest(on, off)).await
    }

    async fn send(&self, node: &NodeId, commands: &[Command]) -> Result<bool, StoreError> {
        around(&self.health, Operation::Send, self.node.send(node, commands)).await
    }

    fn health(&self) -> Health {
        self.node.health()
    }

    async fn stop(&self) {
        self.node.stop().await;
    }
}

#[cfg(test)]
mod tests {
    /// The names of the methods that a source declares with a receiver.
    fn methods(source: &str) -> impl Iterator<Item = &str> {
        source.lines().filter_map(|line| {
            let line = line.strip_prefix("    ")?;
            let (name, arguments) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split_once('(')?;
            // The receiver of a long signature is on the next line.
            (arguments.is_empty() || arguments.starts_with("&self")).then_some(name)
        })
    }

    /// A method with a default that is not forwarded would use the default on every store.
    #[test]
    fn every_method_of_the_traits_is_forwarded() {
        let traits = [include_str!("../store/channel.rs"), include_str!("../store/hub.rs")];
        let bus = include_str!("../store/bus.rs").split("pub trait EventBus").nth(1).expect("the bus");
        let own = include_str!("mod.rs").split("mod tests").next().expect("the code");
        let forwarded: Vec<&str> = methods(own).collect();
        let mut compared = 0;
        for source in traits {
            let source = source.split("#[async_trait]").nth(1).expect("the trait");
            for method in methods(source) {
                assert!(forwarded.contains(&method), "{method} is not forwarded");
                compared += 1;
            }
        }
        for method in methods(bus) {
            assert!(forwarded.contains(&method), "{method} is not forwarded");
            compared += 1;
        }
        assert!(compared > 30, "the traits have more methods than {compared}");
    }
}
