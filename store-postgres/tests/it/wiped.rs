//! A database that has lost the schema, or comes back without it.

use std::time::Duration;

use strait_core::store::{
    ChannelStore, Command, EventHubStore, Lease, LeaseTerm, Location, NewChannel, Publication, StoreErrorKind,
};
use strait_core::{ChannelId, Close, ConnectionId, NodeId};
use strait_store_postgres::PostgresStore;
use strait_store_postgres::sqlx::{Connection, PgConnection, query};

use crate::kit::server::Server;
use crate::kit::{Schema, eventually, hearing, publication, publish, texts, topic};

const LONG: Duration = Duration::from_secs(600);

/// Drops the schema. Drops again after a failure, as the drop needs the locks of all tables while others use them.
async fn wipe(schema: &Schema) {
    let dropped = async || {
        let mut connection = PgConnection::connect(&schema.url).await.ok()?;
        query(schema.sql("DROP SCHEMA {s} CASCADE")).execute(&mut connection).await.ok().map(drop)
    };
    eventually("the schema to be dropped", dropped).await;
}

#[tokio::test]
async fn nodes_make_a_lost_schema_anew_and_tell_of_gaps() {
    let Some(server) = Server::start().await else { return };
    let schema = Schema::at(server.url());
    let (one, two) = (schema.store().await, schema.store().await);
    // Moves the numbers beyond those of a schema that is created again.
    for n in 0..5 {
        publish(&two, publication(&format!("before {n}"), "x")).await;
    }
    let (ears, bus) = hearing(&one, &["kept", "passing", "quiet"]).await;
    let (_, sending) = hearing(&two, &[]).await;
    publish(&two, publication("kept", "1")).await;
    publish(&two, Publication { retention: None, ..publication("passing", "1") }).await;
    ears.hear(&topic("kept"), 1).await;
    ears.hear(&topic("passing"), 1).await;
    let (node, id) = (NodeId::unique(), ChannelId::unique());
    one.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap();
    let new = NewChannel {
        location: Location::Node { node: node.clone(), connection: ConnectionId::from(id.clone()) },
        id: id.clone(),
        endpoint: "room".into(),
        opening: "{}".into(),
        session: None,
        grace: None,
        token: None,
        due: None,
    };
    one.open(new.clone()).await.unwrap();

    wipe(&schema).await;
    // As for a store that has lost everything: the node attaches its channels again, and closes those that it cannot.
    let lost =
        async || one.lease(&node, LeaseTerm::Renew, LONG).await.ok().filter(|lease| *lease == Lease::Lost).map(drop);
    eventually("the lease to be lost", lost).await;
    assert_eq!(one.get(&id).await.unwrap(), None);
    for name in ["kept", "passing", "quiet"] {
        eventually("a gap", async || ears.has_gap(&topic(name)).then_some(())).await;
    }
    eventually("the node to hear", async || bus.health().hears.then_some(())).await;
    publish(&two, publication("kept", "2")).await;
    publish(&two, Publication { retention: None, ..publication("passing", "2") }).await;
    for name in ["kept", "passing"] {
        assert_eq!(texts(&ears.hear(&topic(name), 2).await), ["1", "2"]);
    }
    assert!(one.open(new).await.unwrap().created);
    // Commands go to the new places.
    let close = Command::Close { channel: id, close: Close::policy("kicked") };
    let (target, target_ears) = (NodeId::unique(), strait_core::testkit::Ears::new());
    let _target = strait_core::store::EventBus::start(&one, &target, target_ears.clone()).await.unwrap();
    let sent = async || sending.send(&target, std::slice::from_ref(&close)).await.ok()?.then_some(());
    eventually("the node's place", sent).await;
    eventually("the command", async || (!target_ears.commands().is_empty()).then_some(())).await;
    schema.drop().await;
}

/// Another role has to create the schema.
#[tokio::test]
async fn without_the_right_to_migrate_a_lost_schema_is_waited_for() {
    let schema = Schema::new();
    schema.store().await.close().await;
    let store = PostgresStore::new(schema.config().migrate(false));
    publish(&store, publication("a", "1")).await;
    wipe(&schema).await;
    let refused = async || store.publish(&[publication("a", "2")]).await.remove(0).err().map(|error| error.kind);
    assert_eq!(eventually("a refusal", refused).await, StoreErrorKind::Misconfigured);
    schema.store().await.close().await;
    let published = async || store.publish(&[publication("a", "2")]).await.remove(0).ok().map(drop);
    eventually("a publication", published).await;
    assert_eq!(texts(&store.history(&topic("a"), 10).await.unwrap()), ["2"]);
}
