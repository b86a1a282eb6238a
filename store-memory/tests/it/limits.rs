use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strait_core::store::{
    ChannelStore, Delivered, EventHubStore, LeaseTerm, Location, NewChannel, Publication, Published, Record, Replay,
};
use strait_core::{ChannelId, ConnectionId, Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_memory::{ManualClock, MemoryStore};

const BEGINNING: Position = Position { epoch: 0, offset: 0, check: 0 };

fn message() -> Arc<Event> {
    Arc::new(Event::message(Payload::text("x")))
}

async fn publish(store: &MemoryStore, key: Option<&str>, retention: Option<Retention>) -> Published {
    let topic = Topic::new("a").unwrap();
    let publication = Publication { topic, event: message(), retention, key: key.map(Arc::from) };
    store.publish(&[publication]).await.remove(0).unwrap()
}

async fn resumable(store: &MemoryStore) -> Record {
    let id = ChannelId::unique();
    let connection = ConnectionId::from(id.clone());
    let new = NewChannel {
        id,
        endpoint: Arc::from("room"),
        location: Location::Gateway { endpoint: Arc::from("https://gateway.example"), connection },
        opening: Bytes::new(),
        session: None,
        grace: Some(Duration::from_secs(60)),
        token: None,
        due: None,
    };
    store.open(new).await.unwrap().record
}

/// A node and its store keep one copy of the data that a client opens with.
#[tokio::test]
async fn long_opening_data_is_kept_once() {
    let store = MemoryStore::new();
    for (length, is_shared) in [(8, false), (16 * 1024, true)] {
        let id = ChannelId::unique();
        let opening = Bytes::from(vec![b'x'; length]);
        let new = NewChannel {
            id: id.clone(),
            endpoint: Arc::from("room"),
            location: Location::Node { node: NodeId::unique(), connection: ConnectionId::from(id) },
            opening: opening.clone(),
            session: None,
            grace: None,
            token: None,
            due: None,
        };
        let opened = store.open(new).await.unwrap().record;
        let found = store.get(&opened.id).await.unwrap().expect("it is stored");
        assert_eq!(opening, opened.opening);
        assert_eq!(opening, found.opening);
        assert_eq!(found.opening.as_ptr() == opening.as_ptr(), is_shared, "{length}");
    }
}

async fn deliver(store: &MemoryStore, to: &Record) -> Position {
    match store.deliver(&[(to.id.clone(), message())]).await.unwrap().remove(0) {
        Delivered::At { position: Some(position), .. } => position,
        other => panic!("must be located and kept, is {other:?}"),
    }
}

fn kept(replay: &Replay) -> Option<usize> {
    match replay {
        Replay::Events { events, .. } => Some(events.len()),
        Replay::Gap { .. } => None,
    }
}

#[tokio::test]
async fn keys_are_remembered_five_minutes_or_as_long_as_the_log() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let hour = Retention { count: 10, age: Duration::from_secs(3600) };
    for (retention, time) in [(None, 300), (Some(hour), 3600)] {
        assert!(!publish(&store, Some("k"), retention).await.duplicate);
        clock.advance(Duration::from_secs(time - 1));
        assert!(publish(&store, Some("k"), retention).await.duplicate);
        clock.advance(Duration::from_secs(1));
        assert!(!publish(&store, Some("k"), retention).await.duplicate);
        clock.advance(Duration::from_secs(time));
    }
}

#[tokio::test]
async fn a_topic_remembers_so_many_keys() {
    let store = MemoryStore::builder().keys(2).build();
    for key in ["a", "b", "c"] {
        assert!(!publish(&store, Some(key), None).await.duplicate);
    }
    assert!(publish(&store, Some("c"), None).await.duplicate);
    assert!(publish(&store, Some("b"), None).await.duplicate);
    assert!(!publish(&store, Some("a"), None).await.duplicate, "it was the oldest of three");
}

#[tokio::test]
async fn an_inbox_that_overflows_has_a_gap() {
    let store = MemoryStore::builder().inbox(3, Duration::from_secs(60)).build();
    let record = resumable(&store).await;
    let mut positions = Vec::new();
    for _ in 0..5 {
        positions.push(deliver(&store, &record).await);
    }
    let inbox = async |after: &Position| kept(&store.inbox(&record.id, after, 10).await.unwrap());
    assert_eq!(inbox(&BEGINNING).await, None);
    assert_eq!(inbox(&positions[0]).await, None);
    assert_eq!(inbox(&positions[1]).await, Some(3));
    assert_eq!(inbox(&positions[4]).await, Some(0));
}

#[tokio::test]
async fn an_inbox_forgets_what_is_old() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::builder().clock(clock.clone()).inbox(10, Duration::from_secs(60)).build();
    let record = resumable(&store).await;
    let first = deliver(&store, &record).await;
    clock.advance(Duration::from_secs(30));
    let second = deliver(&store, &record).await;
    clock.advance(Duration::from_secs(30));
    let inbox = async |after: &Position| kept(&store.inbox(&record.id, after, 10).await.unwrap());
    assert_eq!((inbox(&BEGINNING).await, inbox(&first).await), (None, Some(1)));
    clock.advance(Duration::from_secs(30));
    assert_eq!((inbox(&first).await, inbox(&second).await), (None, Some(0)));
}

/// A topic without use goes away while a node renews its lease.
#[tokio::test]
async fn retained_topics_end_without_publications() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let retention = Retention { count: 10, age: Duration::from_secs(60) };
    let last = publish(&store, None, Some(retention)).await.position;
    let topic = Topic::new("a").unwrap();
    clock.advance(Duration::from_secs(59));
    let node = NodeId::unique();
    store.lease(&node, LeaseTerm::Acquire, Duration::from_secs(600)).await.unwrap();
    assert_eq!(kept(&store.replay(&topic, &last, 10).await.unwrap()), Some(0));
    assert_eq!(store.stats().topics, 1);
    clock.advance(Duration::from_secs(1));
    store.lease(&node, LeaseTerm::Renew, Duration::from_secs(600)).await.unwrap();
    assert_eq!(store.stats().topics, 0);
}

#[tokio::test]
async fn a_topic_that_keeps_less_ends_earlier() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::builder().clock(clock.clone()).build();
    for seconds in [3600, 60] {
        publish(&store, None, Some(Retention { count: 10, age: Duration::from_secs(seconds) })).await;
    }
    clock.advance(Duration::from_secs(60));
    store.claim_due(&NodeId::unique(), 1, Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.stats().topics, 0);
}
