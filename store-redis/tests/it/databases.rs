//! Databases of one server that share a prefix.

use std::sync::Arc;

use strait_core::store::{Command, EventBus, EventHubStore, Publication};
use strait_core::testkit::Ears;
use strait_core::{ChannelId, Close, Event, NodeId, Payload, Topic};
use strait_store_redis::RedisStore;
use strait_store_redis::testkit::Server;

use crate::kit::quick;
use strait_store_redis::RedisConfig;

#[tokio::test]
async fn a_node_hears_nothing_of_another_database_with_the_same_prefix() {
    let server = Server::start(&[]).await;
    let (topic, node) = (Topic::new("room").unwrap(), NodeId::unique());
    let mut databases = Vec::new();
    for number in [0, 1, 2] {
        let config = RedisConfig::from_url(&format!("{}/{number}", server.url())).unwrap();
        let (store, ears) = (RedisStore::new(quick(config)), Ears::new());
        // All of them have a node of this name.
        let bus = store.start(&node, ears.clone()).await.unwrap();
        bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
        databases.push((store, ears, bus));
    }
    let close = |reason: String| Command::Close { channel: ChannelId::new("c").unwrap(), close: Close::policy(reason) };
    for (number, (store, _, bus)) in databases.iter().enumerate() {
        let event = Arc::new(Event::message(Payload::text(number.to_string())));
        let publication = Publication { topic: topic.clone(), event, retention: None, key: None };
        store.publish(&[publication]).await.remove(0).unwrap();
        assert!(bus.send(&node, &[close(number.to_string())]).await.unwrap());
    }
    // The server sends publications of all databases in one order: another database's earlier event would come first.
    for (number, (store, ears, bus)) in databases.iter().enumerate() {
        let event = Arc::new(Event::message(Payload::text("last")));
        let publication = Publication { topic: topic.clone(), event, retention: None, key: None };
        store.publish(&[publication]).await.remove(0).unwrap();
        let heard = ears.hear(&topic, 2).await;
        let payloads: Vec<Payload> = heard.iter().map(|(_, event)| event.payload.clone()).collect();
        assert_eq!(payloads, [Payload::text(number.to_string()), Payload::text("last")]);
        assert!(!ears.has_gap(&topic));
        assert_eq!(ears.obey(1).await, [close(number.to_string())]);
        bus.stop().await;
    }
}
