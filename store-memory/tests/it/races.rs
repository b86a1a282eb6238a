use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use strait_core::store::{
    Attach, AttachAs, Attached, ChannelStore, EventBus, EventHubStore, Fence, LeaseTerm, Location, NewChannel,
    Publication,
};
use strait_core::testkit::Ears;
use strait_core::{ChannelId, Event, NodeId, Payload, Topic};
use strait_store_memory::{MemoryStore, Stats};

const TERM: Duration = Duration::from_secs(60);

/// Runs, on this thread, work that never waits.
fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// A topic that goes and comes with its only hearer loses no publication between the hearer's coming and going.
#[test]
fn a_topic_goes_without_losing_a_publication() {
    let store = MemoryStore::new();
    let topic = Topic::new("a").unwrap();
    let event = Arc::new(Event::message(Payload::text("x")));
    let publication = Publication { topic: topic.clone(), event, retention: None, key: None };
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let (store, publication) = (store.clone(), publication.clone());
            thread::spawn(move || {
                now(async {
                    for _ in 0..200_000 {
                        store.publish(std::slice::from_ref(&publication)).await.remove(0).unwrap();
                    }
                });
            })
        })
        .collect();
    now(async {
        let mut heard = 0;
        while !publishers.iter().all(thread::JoinHandle::is_finished) {
            let ears = Ears::new();
            let bus = store.start(&NodeId::unique(), ears.clone()).await.unwrap();
            let head = bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap()[0];
            let own = store.publish(std::slice::from_ref(&publication)).await.remove(0).unwrap().position;
            bus.interest(&[], std::slice::from_ref(&topic)).await.unwrap();
            let events = ears.events(&topic);
            assert!(events.iter().any(|(position, _)| *position == own), "what was published between is heard");
            for (offset, (position, _)) in (head.offset + 1..).zip(&events) {
                assert_eq!((position.epoch, position.offset), (head.epoch, offset));
            }
            heard += events.len();
            bus.stop().await;
        }
        assert!(heard > 0);
    });
    for publisher in publishers {
        publisher.join().unwrap();
    }
    assert_eq!(store.stats(), Stats::default());
}

fn at(node: &NodeId, id: &ChannelId) -> Location {
    Location::Node { node: node.clone(), connection: id.clone().into() }
}

async fn crowd(store: &MemoryStore, node: &NodeId) -> Vec<ChannelId> {
    let ids: Vec<ChannelId> = (0..5000).map(|_| ChannelId::unique()).collect();
    for id in &ids {
        let (endpoint, opening) = (Arc::from("room"), Bytes::new());
        let (id, location) = (id.clone(), at(node, id));
        let new = NewChannel { id, endpoint, location, opening, session: None, grace: None, token: None, due: None };
        store.open(new).await.unwrap();
    }
    ids
}

/// Claims all due channels on a thread of its own.
fn claim_due(store: &MemoryStore) -> thread::JoinHandle<HashSet<ChannelId>> {
    let store = store.clone();
    thread::spawn(move || {
        let claims = now(async { store.claim_due(&NodeId::unique(), 10_000, TERM).await.unwrap() });
        claims.into_iter().map(|claim| claim.fence.id).collect()
    })
}

/// Several claimers find the same channels due, by their deadlines or on a dead node: one of them claims each.
#[test]
fn what_is_due_is_claimed_once() {
    for detached in [true, false] {
        let store = MemoryStore::new();
        now(async {
            for id in crowd(&store, &NodeId::unique()).await {
                if detached {
                    store.detach(&Fence { id, generation: 1 }, Duration::ZERO).await.unwrap();
                }
            }
        });
        let claimers: Vec<_> = (0..3).map(|_| claim_due(&store)).collect();
        let claimed = claimers.into_iter().map(|claimer| claimer.join().unwrap().len()).sum::<usize>();
        assert_eq!(claimed, 5000, "detached: {detached}");
    }
}

/// A living node takes channels while claimers take those of the dead node: each is claimed or taken, never both.
#[test]
fn a_channel_that_is_taken_is_not_claimed() {
    let store = MemoryStore::new();
    let (dead, living) = (NodeId::unique(), NodeId::unique());
    let ids = now(async {
        store.lease(&living, LeaseTerm::Acquire, TERM).await.unwrap();
        crowd(&store, &dead).await
    });
    let claiming = claim_due(&store);
    let mut taken = HashSet::new();
    now(async {
        for id in &ids {
            let by = AttachAs::Holder { generation: 1 };
            let attach = Attach { by, location: at(&living, id), next_token: None };
            if let Attached::Attached { record, .. } = store.attach(id, attach).await.unwrap() {
                taken.insert(record.id);
            }
        }
    });
    let claimed = claiming.join().unwrap();
    assert_eq!(claimed.intersection(&taken).next(), None);
    assert_eq!(store.stats().connected, taken.len());
}

/// A sink that owns its node is dropped when the node stops.
#[tokio::test]
async fn a_node_that_stopped_lets_its_sink_go() {
    let store = MemoryStore::new();
    let ears = Ears::new();
    let bus = store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(&[Topic::new("a").unwrap()], &[]).await.unwrap();
    bus.stop().await;
    assert_eq!(Arc::strong_count(&ears), 1);
    assert!(store.release(&NodeId::unique()).await.is_ok());
}
