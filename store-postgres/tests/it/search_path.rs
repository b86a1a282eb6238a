//! Functions that others put into the search path: none of them is called.

use strait_core::store::{
    Attach, AttachAs, ChannelStore, EventHubStore, Location, NewChannel, PresenceEntry, Subscription,
};
use strait_core::{ChannelId, ConnectionId, NodeId};
use strait_store_postgres::sqlx::{AssertSqlSafe, Connection, PgConnection, query_scalar, raw_sql};
use strait_store_postgres::{PostgresConfig, PostgresStore};

use crate::kit::server::Server;
use crate::kit::{Schema, hearing, publication, publish, topic};

/// Functions of another role: each fits a call of Strait's better than the function meant.
const TRAPS: &[&str] = &[
    "to_json(text) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('public.sprung'); RETURN pg_catalog.to_json($1); END $$",
    "convert_to(text, text) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('public.sprung'); \
     RETURN pg_catalog.convert_to($1, 'UTF8'); END $$",
    "nextval(text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.nextval('public.sprung'::regclass); \
     RETURN pg_catalog.nextval($1::regclass); END $$",
    "floor(numeric, text) RETURNS numeric LANGUAGE sql AS $$ SELECT 1.0 $$",
];

async fn sprung(connection: &mut PgConnection) -> bool {
    query_scalar("SELECT is_called FROM public.sprung").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn no_function_of_another_role_is_called() {
    let Some(server) = Server::start().await else { return };
    let mut admin = PgConnection::connect(&server.url()).await.unwrap();
    let role = "CREATE ROLE stranger LOGIN; GRANT CREATE ON SCHEMA public TO stranger";
    raw_sql(role).execute(&mut admin).await.unwrap();
    let mut stranger = PgConnection::connect(&server.url().replace("postgres@", "stranger@")).await.unwrap();
    let sequence = "CREATE SEQUENCE public.sprung; GRANT ALL ON SEQUENCE public.sprung TO PUBLIC";
    raw_sql(sequence).execute(&mut stranger).await.unwrap();
    for trap in TRAPS {
        raw_sql(AssertSqlSafe(format!("CREATE FUNCTION public.{trap}"))).execute(&mut stranger).await.unwrap();
    }
    let direct = Schema::at(server.url());
    let pooled = Schema::at(server.url());
    let pooled_config =
        PostgresConfig::from_url(&pooled.url).unwrap().schema(&pooled.name).unwrap().transaction_pooler();
    for (schema, store) in [(&direct, direct.store().await), (&pooled, PostgresStore::new(pooled_config))] {
        use_presence(&store).await;
        for call in ["publish('a', '1', key => 'k')", "publish_text('a', '1', key => 'l')"] {
            let sql = schema.sql(&format!("SELECT {{s}}.{call}"));
            strait_store_postgres::sqlx::query(sql).execute(&mut schema.connection().await).await.unwrap();
        }
        publish(&store, publication("a", "x")).await;
        assert!(!sprung(&mut admin).await, "pooled: {}", std::ptr::eq(schema, &pooled));
        store.close().await;
    }
    // The traps do work.
    let call = "SELECT to_json('x'::text), convert_to('x', 'UTF8')";
    raw_sql(call).execute(&mut admin).await.unwrap();
    assert!(sprung(&mut admin).await);
    direct.drop().await;
    pooled.drop().await;
}

/// SQL puts joins and leaves together.
async fn use_presence(store: &PostgresStore) {
    let (ears, bus) = hearing(store, &["a"]).await;
    let id = ChannelId::unique();
    let node = NodeId::unique();
    let location = Location::Node { node: node.clone(), connection: ConnectionId::from(id.clone()) };
    let new = NewChannel {
        id: id.clone(),
        endpoint: "room".into(),
        location: location.clone(),
        opening: "{}".into(),
        session: None,
        grace: None,
        token: None,
        due: None,
    };
    let record = store.open(new).await.unwrap().record;
    let presence = Some(PresenceEntry { user: None, data: None });
    let subscription = Subscription { fence: record.fence(), topic: topic("a"), indexed: true, presence };
    store.subscribe(&[subscription]).await.unwrap();
    ears.hear(&topic("a"), 1).await;
    let attach = Attach { by: AttachAs::Holder { generation: 1 }, location, next_token: None };
    store.attach(&id, attach).await.unwrap();
    let lock = store.lock(&id, &node, std::time::Duration::from_secs(60)).await.unwrap().unwrap();
    store.unlock(&lock).await.unwrap();
    bus.stop().await;
}
