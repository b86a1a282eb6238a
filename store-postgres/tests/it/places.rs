//! A node's place on the bus, which it loses and takes anew while others go on.

use std::time::Duration;

use strait_core::store::{Command, EventBus};
use strait_core::testkit::Ears;
use strait_core::{ChannelId, Close, NodeId};
use strait_store_postgres::sqlx::{PgConnection, query, query_scalar, raw_sql};

use crate::kit::{Schema, eventually, hearing, topic};

/// Takes a node's place from it, and holds its name until the connection's transaction ends: the node waits for it.
async fn hold_name(schema: &Schema, id: &NodeId) -> PgConnection {
    let mut holder = schema.connection().await;
    schema.run("UPDATE {s}.hearer SET number = DEFAULT WHERE id = $1", id.as_str()).await;
    raw_sql("BEGIN").execute(&mut holder).await.unwrap();
    query(schema.sql("DELETE FROM {s}.hearer WHERE id = $1")).bind(id.as_str()).execute(&mut holder).await.unwrap();
    waits(schema, "join_bus").await;
    holder
}

/// Until a call of a function waits for a lock.
async fn waits(schema: &Schema, function: &str) {
    let mut looking = schema.connection().await;
    let sql = format!(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{{s}}.{function}(%' \
         AND pid <> pg_backend_pid()"
    );
    let waiting = async || query(schema.sql(&sql)).fetch_optional(&mut looking).await.unwrap();
    eventually("a call to wait", waiting).await;
}

async fn end(mut connection: PgConnection) {
    raw_sql("COMMIT").execute(&mut connection).await.unwrap();
}

async fn count(connection: &mut PgConnection, schema: &Schema, sql: &str, value: &str) -> i64 {
    query_scalar(schema.sql(sql)).bind(value).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn who_left_takes_no_new_place() {
    let schema = Schema::new();
    let store = schema.store().await;
    let id = NodeId::unique();
    let bus = store.start(&id, Ears::new()).await.unwrap();
    let held = hold_name(&schema, &id).await;
    bus.stop().await;
    end(held).await;
    eventually("the name to be free", async || store.start(&id, Ears::new()).await.ok()).await;
}

#[tokio::test]
async fn what_is_sent_to_a_new_place_before_the_node_reads_there_arrives() {
    let schema = Schema::new();
    let (store, sender) = (schema.store().await, schema.store().await);
    let (id, ears) = (NodeId::unique(), Ears::new());
    let _bus = store.start(&id, ears.clone()).await.unwrap();
    let (_, sending) = hearing(&sender, &[]).await;
    let held = hold_name(&schema, &id).await;
    // No poll reads until this ends.
    let mut blocking = schema.connection().await;
    raw_sql("BEGIN").execute(&mut blocking).await.unwrap();
    raw_sql(schema.sql("LOCK TABLE {s}.outbox IN ACCESS EXCLUSIVE MODE")).execute(&mut blocking).await.unwrap();
    end(held).await;
    let close = Command::Close { channel: ChannelId::unique(), close: Close::policy("kicked") };
    let sent = async || sending.send(&id, std::slice::from_ref(&close)).await.unwrap().then_some(());
    eventually("the new place", sent).await;
    end(blocking).await;
    eventually("the command", async || (!ears.commands().is_empty()).then_some(())).await;
    assert_eq!(ears.commands(), [close]);
}

#[tokio::test]
async fn what_ends_while_a_node_begins_anew_has_ended() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (id, name) = (NodeId::unique(), topic("a"));
    let bus = store.start(&id, Ears::new()).await.unwrap();
    bus.interest(std::slice::from_ref(&name), &[]).await.unwrap();
    let held = hold_name(&schema, &id).await;
    // Who begins to hear waits for the topic, who ends does not.
    let mut blocking = schema.connection().await;
    raw_sql("BEGIN").execute(&mut blocking).await.unwrap();
    query(schema.sql("SELECT FROM {s}.topic WHERE name = 'a' FOR UPDATE")).execute(&mut blocking).await.unwrap();
    end(held).await;
    waits(&schema, "hear").await;
    let ending = tokio::spawn({
        let (bus, name) = (bus.clone(), name.clone());
        async move { bus.interest(&[], std::slice::from_ref(&name)).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    end(blocking).await;
    ending.await.unwrap().unwrap();
    eventually("the node to hear", async || bus.health().hears.then_some(())).await;
    let interest = "SELECT count(*) FROM {s}.interest i JOIN {s}.hearer h ON h.number = i.node WHERE h.id = $1";
    assert_eq!(count(&mut schema.connection().await, &schema, interest, id.as_str()).await, 0);
}

/// The answer to its first attempt was lost.
#[tokio::test]
async fn who_tries_again_gets_another_place_at_once() {
    let schema = Schema::new();
    schema.store().await.close().await;
    let mut connection = schema.connection().await;
    let lost: Option<i64> = query_scalar(schema.sql("SELECT {s}.join_bus($1, 30000, 'one')"))
        .bind("lost")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let again = |holder: &'static str| {
        query_scalar::<_, Option<i64>>(schema.sql("SELECT {s}.join_bus($1, 30000, $2)")).bind("lost").bind(holder)
    };
    let found = again("one").fetch_one(&mut connection).await.unwrap();
    assert!(found.is_some() && found != lost, "a new number: what the old one left behind is not mistaken for it");
    assert_eq!(again("two").fetch_one(&mut connection).await.unwrap(), None);
    let there = "SELECT count(*) FROM {s}.hearer WHERE id = $1";
    assert_eq!(count(&mut connection, &schema, there, "lost").await, 1);
}
