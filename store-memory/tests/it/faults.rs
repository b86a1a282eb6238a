use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{
    ChannelStore, Command, EventBus, EventHubStore, LeaseTerm, Publication, Sink, Store, StoreErrorKind,
};
use strait_core::testkit::{Ears, Fault, Faults, Faulty, Gate};
use strait_core::{Event, NodeId, Payload, Topic};
use strait_store_memory::MemoryStore;

const TERM: Duration = Duration::from_secs(60);

fn store() -> (Faulty<MemoryStore>, Faults) {
    let faults = Faults::new();
    (Faulty::new(Arc::new(MemoryStore::new()), faults.clone()), faults)
}

fn publication() -> Publication {
    let event = Arc::new(Event::message(Payload::text("x")));
    Publication { topic: Topic::new("a").unwrap(), event, retention: None, key: None }
}

#[tokio::test]
async fn without_faults_everything_passes_and_is_counted() {
    let (store, faults) = store();
    let node = NodeId::unique();
    for _ in 0..3 {
        store.lease(&node, LeaseTerm::Acquire, TERM).await.unwrap();
    }
    assert_eq!((faults.calls("lease"), faults.calls("open")), (3, 0));
}

#[tokio::test]
async fn the_next_calls_are_refused_without_effect() {
    let (store, faults) = store();
    let node = NodeId::unique();
    faults.next("lease", 2, &Fault::Refuse(StoreErrorKind::Unavailable));
    for _ in 0..2 {
        let error = store.lease(&node, LeaseTerm::Acquire, TERM).await.unwrap_err();
        assert_eq!((error.kind, error.backend, error.op), (StoreErrorKind::Unavailable, "faulty", "lease"));
    }
    let renewed = store.lease(&node, LeaseTerm::Renew, TERM).await.unwrap();
    assert_eq!(renewed, strait_core::store::Lease::Lost, "the refused calls had no effect");
    assert_eq!(faults.calls("lease"), 3);
}

#[tokio::test]
async fn a_lost_answer_has_taken_effect() {
    let (store, faults) = store();
    let ears = Ears::new();
    let bus = store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    let topic = publication().topic;
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    faults.next("publish", 1, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    let answers = store.publish(&[publication(), publication()]).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.kind == StoreErrorKind::Timeout)));
    assert_eq!(ears.events(&topic).len(), 2);
}

#[tokio::test]
async fn an_operation_fails_until_it_is_healed() {
    let (store, faults) = store();
    let bus = store.start(&NodeId::unique(), Ears::new() as Arc<dyn Sink>).await.unwrap();
    let to = NodeId::unique();
    faults.always("send", Fault::Refuse(StoreErrorKind::Misconfigured));
    for _ in 0..3 {
        assert!(bus.send(&to, &[] as &[Command]).await.is_err());
    }
    bus.interest(&[], &[]).await.unwrap();
    faults.heal("send");
    assert!(!bus.send(&to, &[]).await.unwrap());
}

#[tokio::test]
async fn a_call_hangs_until_its_gate_opens() {
    let (store, faults) = store();
    let gate = Gate::new();
    faults.next("release", 1, &Fault::Hang(gate.clone()));
    let hanging = tokio::spawn({
        let store = store.clone();
        async move { store.release(&NodeId::unique()).await }
    });
    while gate.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    store.release(&NodeId::unique()).await.unwrap();
    assert!(!hanging.is_finished());
    gate.open();
    hanging.await.unwrap().unwrap();
    assert_eq!(gate.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_may_be_late() {
    let (store, faults) = store();
    faults.always("release", Fault::Delay(Duration::from_secs(3)));
    let started = tokio::time::Instant::now();
    store.release(&NodeId::unique()).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn any_store_can_be_faulty() {
    let whole: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let faulty: Arc<dyn Store> = Arc::new(Faulty::new(whole, Faults::new()));
    assert!(faulty.release(&NodeId::unique()).await.is_ok());
}

/// The wrapper changes nothing of a store that works: it passes the suite itself.
mod conformance {
    use strait_core::testkit::{Harness, async_trait};

    use super::*;

    #[derive(Debug)]
    struct Wrapped(Faulty<MemoryStore>, MemoryStore);

    #[async_trait]
    impl Harness for Wrapped {
        async fn handle(&self) -> Arc<dyn Store> {
            Arc::new(self.0.clone())
        }

        async fn lose_log(&self, topic: &Topic) {
            self.1.lose_log(topic);
        }

        async fn clean_up(&self) {}
    }

    async fn make() -> Wrapped {
        let store = MemoryStore::new();
        Wrapped(Faulty::new(Arc::new(store.clone()), Faults::new()), store)
    }

    strait_core::testkit::suite!(make);
}
