//! The cost of a connection.

use std::sync::Arc;

use strait_core::store::{Attach, AttachAs, Attached, ChannelStore, Location};
use strait_core::{ChannelId, ConnectionId, NodeId};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::{calls, channel, quick};

/// Counts the scripts during `of`: each call is one.
async fn cost<T>(server: &Server, of: impl Future<Output = T>) -> (u64, T) {
    let before = calls(server, "evalsha").await;
    let done = of.await;
    (calls(server, "evalsha").await - before, done)
}

#[tokio::test]
async fn a_connect_to_a_node_is_one_round_trip_and_one_at_a_gateway_notes_its_place_behind_its_record() {
    let server = Server::start(&[]).await;
    let store = RedisStore::new(quick(RedisConfig::new(server.address().ip().to_string(), server.address().port())));
    let node = NodeId::unique();
    let here = |connection| Location::Node { node: node.clone(), connection };
    let there = |connection| Location::Gateway { endpoint: Arc::from("https://gateway.example"), connection };
    let new = channel(here);
    let (trips, opened) = cost(&server, store.open(new.clone())).await;
    assert_eq!((trips, opened.unwrap().created), (1, true));
    let location = here(ConnectionId::from(ChannelId::unique()));
    let attach = Attach { by: AttachAs::Holder { generation: 1 }, location, next_token: None };
    let (trips, attached) = cost(&server, store.attach(&new.id, attach)).await;
    let Attached::Attached { displaced, .. } = attached.unwrap() else { panic!("it is refused") };
    assert_eq!((trips, displaced), (1, Some(new.location)));
    let (trips, opened) = cost(&server, store.open(channel(there))).await;
    assert_eq!((trips, opened.unwrap().created), (2, true));
}
