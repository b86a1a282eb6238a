//! Events that a transaction publishes on a retained topic reach members at gateways, though no hub has published them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strait_core::store::{ChannelStore, EventHubStore, NewChannel, Replay, Subscription};
use strait_core::testkit::async_trait;
use strait_core::{
    App, Binary, Capabilities, ChannelId, Close, ConnectionId, Endpoint, Gateway, GatewayConnection, NodeId, Payload,
    Post, Posted, Probed,
};
use strait_store_postgres::sqlx::Connection;
use strait_store_postgres::{Outgoing, PostgresStore};

use crate::kit::{KEEP, Schema, eventually, texts, topic};

/// A gateway that takes every message.
#[derive(Debug, Default, Clone)]
struct Willing(Arc<Mutex<Vec<Vec<u8>>>>);

#[async_trait]
impl Gateway for Willing {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_message: 1024,
            binary: Binary::Refused,
            close_codes: false,
            lifetime: None,
            handshake: Duration::ZERO,
            patience: Duration::from_secs(5),
            quiet: Duration::ZERO,
        }
    }

    async fn post(&self, posts: &[Post], _: Instant) -> Vec<Posted> {
        self.0.lock().extend(posts.iter().map(|post| post.frame.payload().to_vec()));
        vec![Posted::Sent; posts.len()]
    }

    async fn close(&self, _: &GatewayConnection, _: &Close, _: Instant) -> Posted {
        Posted::Sent
    }

    async fn probe(&self, _: &GatewayConnection, _: Instant) -> Probed {
        Probed::Alive
    }
}

/// A channel at a gateway hears a topic.
async fn subscribe(store: &PostgresStore, name: &str) {
    let connection = ConnectionId::from(ChannelId::unique());
    let at = GatewayConnection { endpoint: "https://gateway.example".into(), id: connection };
    let new = NewChannel {
        id: ChannelId::unique(),
        location: at.location(),
        endpoint: "room".into(),
        opening: "{}".into(),
        session: None,
        grace: None,
        token: None,
        due: None,
    };
    let fence = store.open(new).await.unwrap().record.fence();
    let subscription = Subscription { fence, topic: topic(name), indexed: true, presence: None };
    store.subscribe(&[subscription]).await.unwrap();
}

async fn publish(schema: &Schema, store: &PostgresStore, text: &str) {
    let mut connection = schema.connection().await;
    let mut transaction = connection.begin().await.unwrap();
    let outgoing = Outgoing::new(topic("a"), Payload::text(text)).retain(KEEP);
    store.publish_in(&mut transaction, &outgoing).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_node_takes_what_it_has_sequenced_to_members_at_gateways() {
    let schema = Schema::new();
    let (store, gateway) = (schema.store().await, Willing::default());
    subscribe(&store, "a").await;
    let app = App::new().endpoint(Endpoint::new("room", "/").public()).retain("a", KEEP);
    let app = app.gateway(gateway.clone()).store(store.clone()).build().unwrap();
    app.start().await.unwrap();
    for n in 1..=3 {
        publish(&schema, &store, &n.to_string()).await;
        let posted = async || (gateway.0.lock().len() == n).then_some(());
        eventually("the post", posted).await;
    }
    app.stop().await;
    assert_eq!(*gateway.0.lock(), [b"1", b"2", b"3"]);
}

/// The functions' janitor takes the relay, or the next publisher.
#[tokio::test]
async fn where_there_are_no_nodes_a_relay_finds_what_transactions_have_published() {
    let schema = Schema::new();
    let store = schema.store().await;
    subscribe(&store, "a").await;
    publish(&schema, &store, "x").await;
    let relay = store.relay(&topic("a"), &NodeId::unique(), KEEP.age).await.unwrap().unwrap();
    let Replay::Events { events, head, .. } = store.replay(&topic("a"), &relay.from, 10).await.unwrap() else {
        panic!("nothing was lost")
    };
    assert_eq!(texts(&events), ["x"]);
    assert!(store.relay_done(&relay, &head, None).await.unwrap());
}
