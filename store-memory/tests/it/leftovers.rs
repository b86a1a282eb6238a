use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strait_core::store::{
    Attach, AttachAs, Attached, BusNode, ChannelStore, Claim, Command, Detached, EventBus, EventHubStore, LeaseTerm,
    Location, NewChannel, PresenceEntry, Publication, Sink, Subscribed, Subscription,
};
use strait_core::{ChannelId, ConnectionId, Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_memory::{ManualClock, MemoryStore, Stats};

const TTL: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Deaf;

impl Sink for Deaf {
    fn events(&self, _: &Topic, _: &[(Position, Arc<Event>)]) {}
    fn command(&self, _: Command) {}
    fn gap(&self, _: &[Topic]) {}
}

fn channel(node: &NodeId, grace: Option<Duration>) -> NewChannel {
    let id = ChannelId::unique();
    let connection = ConnectionId::from(id.clone());
    NewChannel {
        id,
        endpoint: Arc::from("room"),
        location: Location::Node { node: node.clone(), connection },
        opening: Bytes::from_static(b"{}"),
        session: None,
        grace,
        token: None,
        due: None,
    }
}

fn topic(name: impl AsRef<str>) -> Topic {
    Topic::new(name).unwrap()
}

/// Runs channels through all their operations. Answers the claims of three quarters of them.
async fn work(store: &MemoryStore, nodes: &[NodeId; 2], bus: &dyn BusNode, count: usize) -> Vec<Claim> {
    let [node, other] = nodes;
    let mut claims = Vec::new();
    for i in 0..count {
        let mut opened = store.open(channel(node, (i % 3 == 0).then_some(TTL))).await.unwrap().record;
        if i % 6 == 0 {
            let by = AttachAs::Holder { generation: opened.generation };
            let attach = Attach { by, location: channel(other, None).location, next_token: None };
            match store.attach(&opened.id, attach).await.unwrap() {
                Attached::Attached { record, .. } => opened = *record,
                Attached::Refused => panic!("the generation is the present one"),
            }
        }
        let joins: Vec<_> = [topic("all"), topic(format!("some:{}", i % 7)), topic(format!("own:{i}"))]
            .into_iter()
            .enumerate()
            .map(|(n, topic)| Subscription {
                fence: opened.fence(),
                topic,
                indexed: n == 1,
                presence: (n == 2).then_some(PresenceEntry { user: None, data: None }),
            })
            .collect();
        let joined = store.subscribe(&joins).await.unwrap();
        assert!(joined.iter().all(|joined| matches!(joined, Subscribed::Joined { .. })));
        bus.interest(&[topic("all"), topic(format!("own:{i}"))], &[]).await.unwrap();
        let event = Arc::new(Event::message(Payload::text("x")));
        let retention = (i % 2 == 0).then_some(Retention { count: 10, age: TTL });
        let key = (i % 5 == 0).then(|| Arc::from("key"));
        let publications = joins.iter().map(|join| Publication {
            topic: join.topic.clone(),
            event: event.clone(),
            retention,
            key: key.clone(),
        });
        for published in store.publish(&publications.collect::<Vec<_>>()).await {
            published.unwrap();
        }
        store.deliver(&[(opened.id.clone(), event)]).await.unwrap();
        if i % 12 == 0 {
            assert_eq!(store.detach(&opened.fence(), TTL).await.unwrap(), Detached::Done);
        }
        if i % 4 != 0 {
            claims.extend(store.claim(&opened.fence(), node, TTL).await.unwrap());
        }
    }
    claims
}

/// Lessons 3 and 28: everything that a channel, a node or a topic left in the store goes with it.
#[tokio::test]
async fn nothing_is_left_of_removed_channels() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let (nodes, janitor) = ([NodeId::unique(), NodeId::unique()], NodeId::unique());
    for node in &nodes {
        store.lease(node, LeaseTerm::Acquire, TTL).await.unwrap();
    }
    let bus = store.start(&nodes[0], Arc::new(Deaf)).await.unwrap();
    let claims = work(&store, &nodes, &*bus, 4000).await;
    let busy = store.stats();
    assert_eq!((busy.records, busy.connected, busy.subscriptions), (4000, 666, 12_000));
    store.remove(&claims).await.unwrap();
    assert_eq!(store.stats().records, 1000);
    bus.stop().await;
    // The others die with their node, at once or when their grace has passed.
    clock.advance(TTL);
    loop {
        let due = store.claim_due(&janitor, 100, TTL).await.unwrap();
        store.remove(&due).await.unwrap();
        if due.is_empty() && store.stats().connected == 0 {
            if store.stats().records == 0 {
                break;
            }
            clock.advance(TTL);
        }
    }
    // Retained events and the keys run out; the janitor's calls sweep them.
    clock.advance(Duration::from_secs(600));
    while store.stats().topics > 0 {
        let before = store.stats().topics;
        store.claim_due(&janitor, 1, TTL).await.unwrap();
        assert!(store.stats().topics < before, "the sweep goes on: {before} topics");
    }
    assert_eq!(store.stats(), Stats::default());
}
