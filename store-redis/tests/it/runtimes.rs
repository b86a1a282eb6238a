//! The threads that connections run on.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{ChannelStore, EventBus, EventHubStore, LeaseTerm, Publication, Sink};
use strait_core::{Event, NodeId, Payload, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::placed::{Placed, listening, probed, runtime};
use crate::kit::{eventually, quick};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(quick(RedisConfig::new(server.address().ip().to_string(), server.address().port())))
}

async fn publish(store: &RedisStore, topic: &Topic) {
    let event = Arc::new(Event::message(Payload::text("x")));
    let publication = Publication { topic: topic.clone(), event, retention: None, key: None };
    store.publish(&[publication]).await.remove(0).unwrap();
}

#[test]
fn the_end_of_a_runtime_breaks_no_call_of_another_one() {
    let (stays, goes) = (runtime(), runtime());
    let server = stays.block_on(Server::start(&[]));
    let (store, topic) = (store(&server), Topic::new("a").unwrap());
    let (first, node) = (store.clone(), NodeId::unique());
    goes.block_on(goes.spawn(async move { first.lease(&node, LeaseTerm::Acquire, Duration::from_secs(9)).await }))
        .unwrap()
        .unwrap();
    drop(goes);
    // Not one that may be made again.
    stays.block_on(publish(&store, &topic));
}

#[test]
fn a_topic_is_heard_where_it_is_delivered_whoever_asks_for_it() {
    let (own, other, asking) = (runtime(), runtime(), runtime());
    let (here, there) = (own.handle().id(), other.handle().id());
    let [near, far] = ["near", "far"].map(|name| Topic::new(name).unwrap());
    let sink = Placed::new(&far, &other);
    own.block_on(async {
        let server = Server::start(&[]).await;
        let store = store(&server);
        let bus = store.start(&NodeId::unique(), Arc::clone(&sink) as Arc<dyn Sink>).await.unwrap();
        eventually("the bus to prove that it hears", async || probed(&server).await == 1).await;
        let (asked, topics) = (Arc::clone(&bus), [near.clone(), far.clone()]);
        asking.spawn(async move { asked.interest(&topics, &[]).await }).await.unwrap().unwrap();
        asking.shutdown_background();
        assert!(bus.health().hears, "one place more to listen at is no deafness");
        let before = listening(&server).await;
        for topic in [&near, &far] {
            publish(&store, topic).await;
            sink.ears.hear(topic, 1).await;
        }
        assert_eq!(sink.heard(), [(near.clone(), here), (far.clone(), there)]);
        assert!(!sink.ears.has_gap(&near) && !sink.ears.has_gap(&far));
        eventually("both places to hear the probe", async || probed(&server).await == 2 && bus.health().hears).await;
        assert_eq!(listening(&server).await, before, "nobody had to connect anew");
        bus.stop().await;
    });
}
