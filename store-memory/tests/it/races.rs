use std::sync::Arc;
use std::thread;

use strait_core::store::{ChannelStore, EventBus, EventHubStore, Publication};
use strait_core::testkit::Ears;
use strait_core::{Event, NodeId, Payload, Topic};
use strait_store_memory::{MemoryStore, Stats};

/// Runs what never waits for anything on this thread.
fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// A topic that goes and comes with its only hearer loses no publication between the hearer's coming and going.
#[test]
fn a_topic_goes_without_losing_a_publication() {
    let store = MemoryStore::new();
    let topic = Topic::new("a").unwrap();
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let (store, topic) = (store.clone(), topic.clone());
            thread::spawn(move || {
                now(async {
                    let event = Arc::new(Event::message(Payload::text("x")));
                    let publication = Publication { topic, event, retention: None, key: None };
                    for _ in 0..30_000 {
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
            thread::yield_now();
            bus.interest(&[], std::slice::from_ref(&topic)).await.unwrap();
            let events = ears.events(&topic);
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

/// A sink that owns its node is let go when the node stops.
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
