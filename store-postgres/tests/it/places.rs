//! A node's place on the bus: the node loses it and takes another one while others go on.

use std::time::Duration;

use strait_core::store::{Command, EventBus};
use strait_core::testkit::Ears;
use strait_core::{ChannelId, Close, NodeId};
use strait_store_postgres::sqlx::{PgConnection, query, query_scalar, raw_sql};
use strait_store_postgres::{PostgresConfig, PostgresStore};

use crate::kit::proxy::{Proxy, Way, server_of};
use crate::kit::{
    Schema, count_rows, count_waiting, eventually, hearing, publication, publish, topic, url, waits_for_lock,
};

/// Takes a node's place from it, and holds its name until the connection's transaction ends: the node waits for it.
async fn hold_name(schema: &Schema, id: &NodeId) -> PgConnection {
    let mut holder = schema.connection().await;
    schema.run("UPDATE {s}.hearer SET number = DEFAULT WHERE id = $1", id.as_str()).await;
    raw_sql("BEGIN").execute(&mut holder).await.unwrap();
    query(schema.sql("DELETE FROM {s}.hearer WHERE id = $1")).bind(id.as_str()).execute(&mut holder).await.unwrap();
    waits_for_lock(schema, "{s}.join_bus(").await;
    holder
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
    let blocking = holding(&schema, POLLS).await;
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
    // A node that begins to hear waits for the topic; one that ends does not.
    let blocking = holding(&schema, "SELECT FROM {s}.topic WHERE name = 'a' FOR UPDATE").await;
    end(held).await;
    waits_for_lock(&schema, "{s}.hear(").await;
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

/// The server's answer to the first attempt was lost.
#[tokio::test]
async fn who_tries_again_gets_another_place_at_once() {
    let schema = Schema::new();
    schema.store().await.close().await;
    let mut connection = schema.connection().await;
    let mut join = async |holder: &str, number: i64| -> bool {
        let sql = schema.sql("SELECT {s}.join_bus('lost', 30000, $1, $2)");
        query_scalar(sql).bind(holder).bind(number).fetch_one(&mut connection).await.unwrap()
    };
    assert!(join("one", 1).await);
    assert!(join("one", 2).await, "what the old number left behind is not mistaken for the new one's");
    assert!(!join("two", 3).await);
    let there = "SELECT number FROM {s}.hearer WHERE id = $1";
    assert_eq!(count(&mut schema.connection().await, &schema, there, "lost").await, 2);
}

/// Begins a transaction that blocks others.
async fn holding(schema: &Schema, sql: &str) -> PgConnection {
    let mut connection = schema.connection().await;
    raw_sql("BEGIN").execute(&mut connection).await.unwrap();
    raw_sql(schema.sql(sql)).execute(&mut connection).await.unwrap();
    connection
}

/// No poll reads until this ends.
const POLLS: &str = "LOCK TABLE {s}.outbox IN ACCESS EXCLUSIVE MODE";

#[tokio::test]
async fn a_start_that_is_dropped_keeps_no_name() {
    let schema = Schema::new();
    let (store, other) = (schema.store().await, schema.store().await);
    let id = NodeId::unique();
    let name = format!("INSERT INTO {{s}}.hearer (id, holder, until) VALUES ('{id}', 'x', 'infinity')");
    let mut held = holding(&schema, &name).await;
    let starting = tokio::spawn({
        let id = id.clone();
        async move { store.start(&id, Ears::new()).await.map(drop) }
    });
    waits_for_lock(&schema, "{s}.join_bus(").await;
    starting.abort();
    assert!(starting.await.unwrap_err().is_cancelled());
    raw_sql("ROLLBACK").execute(&mut held).await.unwrap();
    // Unless the aborted start frees its place, the place outlasts this wait.
    eventually("the name to be free", async || other.start(&id, Ears::new()).await.ok()).await;
}

#[tokio::test]
async fn a_start_that_fails_keeps_no_name() {
    let schema = Schema::new();
    let other = schema.store().await;
    let proxy = Proxy::before(&server_of(&url())).await;
    let config = PostgresConfig::from_url(&proxy.url(&schema.url)).unwrap().schema(&schema.name).unwrap();
    let store = PostgresStore::new(config.operation_timeout(Duration::from_millis(500)));
    store.connect().await.unwrap();
    let id = NodeId::unique();
    let held = holding(&schema, POLLS).await;
    let starting = tokio::spawn({
        let id = id.clone();
        async move { store.start(&id, Ears::new()).await.map(drop) }
    });
    // The node has its place, and does not read yet.
    waits_for_lock(&schema, "{s}.outbox").await;
    proxy.set(Way::Cut);
    starting.await.unwrap().unwrap_err();
    end(held).await;
    assert_eq!(count_rows(&schema, "hearer").await, 1, "it could not be given back at once");
    proxy.set(Way::Open);
    eventually("the name to be free", async || other.start(&id, Ears::new()).await.ok()).await;
}

#[tokio::test]
async fn of_joining_and_leaving_at_once_the_later_one_holds() {
    let schema = Schema::new();
    let (store, other) = (schema.store().await, schema.store().await);
    let name = topic("a");
    publish(&other, publication("a", "0")).await;
    let (ears, bus) = hearing(&store, &[]).await;
    let blocking = holding(&schema, "SELECT FROM {s}.topic WHERE name = 'a' FOR UPDATE").await;
    let joining = tokio::spawn({
        let (bus, name) = (bus.clone(), name.clone());
        async move { bus.interest(std::slice::from_ref(&name), &[]).await }
    });
    waits_for_lock(&schema, "{s}.hear(").await;
    bus.interest(&[], std::slice::from_ref(&name)).await.unwrap();
    end(blocking).await;
    joining.await.unwrap().unwrap();
    let mut published = 0;
    let none = async || {
        published += 1;
        publish(&other, publication("a", published.to_string())).await;
        (count_rows(&schema, "interest").await == 0).then_some(())
    };
    eventually("interest without members to end", none).await;
    assert!(ears.events(&name).is_empty(), "nobody is there to hear");
}

/// The leave reaches the interest first, and is done last. `dropped`: its caller waits for it no more.
async fn leaves_then_joins(dropped: bool) {
    let schema = Schema::new();
    let (store, other) = (schema.store().await, schema.store().await);
    let name = topic("a");
    let (ears, bus) = hearing(&store, &["a"]).await;
    let blocking = holding(&schema, "SELECT FROM {s}.interest FOR UPDATE").await;
    let call = |on: bool| {
        let (bus, name) = (bus.clone(), name.clone());
        tokio::spawn(async move {
            let (now, none) = (std::slice::from_ref(&name), &[][..]);
            if on { bus.interest(now, none).await } else { bus.interest(none, now).await }
        })
    };
    let leaving = call(false);
    waits_for_lock(&schema, "{s}.hear(").await;
    if dropped {
        leaving.abort();
    }
    let joining = call(true);
    let under_way = async || (joining.is_finished() || count_waiting(&schema, "{s}.hear(").await == 2).then_some(());
    eventually("the other call", under_way).await;
    end(blocking).await;
    joining.await.unwrap().unwrap();
    assert_eq!(leaving.await.is_err(), dropped);
    eventually("the end of both", async || (count_waiting(&schema, "{s}.hear(").await == 0).then_some(())).await;
    publish(&other, publication("a", "1")).await;
    ears.hear(&name, 1).await;
}

#[tokio::test]
async fn of_leaving_and_joining_at_once_the_later_one_holds() {
    leaves_then_joins(false).await;
}

#[tokio::test]
async fn who_leaves_and_is_dropped_does_not_undo_who_joins() {
    leaves_then_joins(true).await;
}

#[tokio::test]
async fn who_cannot_say_that_it_leaves_has_left_all_the_same() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (_ears, bus) = hearing(&store, &["a", "b"]).await;
    let rename = schema.sql("ALTER FUNCTION {s}.hear RENAME TO hear_not");
    query(rename).execute(&mut schema.connection().await).await.unwrap();
    bus.interest(&[], &[topic("a")]).await.unwrap_err();
    let left = async || (count_rows(&schema, "interest").await == 1).then_some(());
    eventually("the interest to end", left).await;
}

#[tokio::test]
async fn a_call_that_reaches_the_database_late_undoes_no_later_one() {
    let schema = Schema::new();
    let store = schema.store().await;
    let id = NodeId::unique();
    let _bus = store.start(&id, Ears::new()).await.unwrap();
    let mut connection = schema.connection().await;
    let number = count(&mut connection, &schema, "SELECT number FROM {s}.hearer WHERE id = $1", id.as_str()).await;
    for (begins, ends, asked, left) in
        [("{a}", "{}", 12, 1), ("{}", "{a}", 11, 1), ("{a}", "{}", 10, 1), ("{}", "{a}", 11, 1), ("{}", "{a}", 13, 0)]
    {
        let sql = schema.sql("SELECT FROM {s}.hear($1, $2, $3::text[], $4::text[], $5)");
        let call = query(sql).bind(number).bind(id.as_str()).bind(begins).bind(ends).bind(i64::from(asked));
        call.execute(&mut connection).await.unwrap();
        assert_eq!(count_rows(&schema, "interest").await, left, "{asked}");
    }
}
