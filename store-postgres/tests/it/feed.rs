//! The feed's ring of slots: emptied in time, with no publisher waiting and nothing lost.

use std::time::{Duration, Instant};

use strait_store_postgres::sqlx::{PgConnection, query_scalar, raw_sql};

use crate::kit::{
    Schema, count_rows, eventually, hearing, publication, publish, texts, topic, turn_feed, waits_for_lock,
};

async fn run(connection: &mut PgConnection, schema: &Schema, sql: &str) {
    raw_sql(schema.sql(sql)).execute(connection).await.unwrap();
}

#[tokio::test]
async fn the_feed_is_emptied_once_it_has_been_read() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a"]).await;
    publish(&store, publication("a", "x")).await;
    ears.hear(&topic("a"), 1).await;
    let mut connection = schema.connection().await;
    let mut counts = Vec::new();
    while counts.last() != Some(&0) {
        counts.push(count_rows(&schema, "feed").await);
        turn_feed(&schema, &mut connection).await;
    }
    assert!(counts.len() > 4, "another slot has its turn, it is sealed, closed and emptied: {counts:?}");
    let slot = "SELECT slot::bigint FROM {s}.turn";
    let before: i64 = query_scalar(schema.sql(slot)).fetch_one(&mut connection).await.unwrap();
    turn_feed(&schema, &mut connection).await;
    let after: i64 = query_scalar(schema.sql(slot)).fetch_one(&mut connection).await.unwrap();
    assert_eq!(before, after, "nothing turns where nothing is published");
}

#[tokio::test]
async fn nobody_waits_while_a_slot_is_emptied() {
    let schema = Schema::new();
    let (store, other) = (schema.store().await, schema.store().await);
    let (ears, bus) = hearing(&store, &["a"]).await;
    let mut published = 0;
    let mut emptying = schema.connection().await;
    let holds = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock')";
    eventually("a slot to be emptied", async || {
        publish(&other, publication("a", "x")).await;
        published += 1;
        ears.hear(&topic("a"), published).await;
        run(&mut emptying, &schema, "BEGIN").await;
        turn_feed(&schema, &mut emptying).await;
        if query_scalar(holds).fetch_one(&mut emptying).await.unwrap() {
            return Some(());
        }
        run(&mut emptying, &schema, "COMMIT").await;
        None
    })
    .await;
    let began = Instant::now();
    for _ in 0..5 {
        publish(&other, publication("a", "y")).await;
        published += 1;
        ears.hear(&topic("a"), published).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(bus.health().hears && !ears.has_gap(&topic("a")));
    run(&mut emptying, &schema, "COMMIT").await;
}

#[tokio::test]
async fn what_is_written_to_a_slot_that_has_opened_since_the_last_poll_is_heard() {
    let schema = Schema::new();
    let (store, other) = (schema.store().await, schema.store().await);
    let (ears, _bus) = hearing(&store, &["a"]).await;
    let (mut polls, mut turning) = (schema.connection().await, schema.connection().await);
    let sql = "SELECT slot::bigint FROM {s}.slot WHERE closed_at IS NOT NULL";
    let closed = async || -> Option<i64> {
        query_scalar(schema.sql(sql)).fetch_optional(&mut schema.connection().await).await.unwrap()
    };
    let mut published = 0;
    let slot = eventually("a closed slot", async || {
        publish(&other, publication("a", "x")).await;
        published += 1;
        ears.hear(&topic("a"), published).await;
        turn_feed(&schema, &mut turning).await;
        closed().await
    })
    .await;
    publish(&other, publication("a", "x")).await;
    ears.hear(&topic("a"), published + 1).await;
    run(&mut polls, &schema, "BEGIN; LOCK TABLE {s}.mail IN ACCESS EXCLUSIVE MODE").await;
    waits_for_lock(&schema, "{s}.hearer WHERE number").await;
    let empty = "UPDATE {s}.slot SET closed_at = closed_at - interval '6 seconds'; SELECT {s}.rotate_feed()";
    eventually("the slot to be emptied", async || {
        run(&mut turning, &schema, empty).await;
        closed().await.is_none().then_some(())
    })
    .await;
    run(&mut turning, &schema, &format!("UPDATE {{s}}.turn SET slot = {slot}")).await;
    publish(&other, publication("a", "y")).await;
    run(&mut polls, &schema, "COMMIT").await;
    ears.hear(&topic("a"), published + 2).await;
    assert!(!ears.has_gap(&topic("a")));
}

#[tokio::test]
async fn what_is_committed_after_its_slot_was_closed_is_heard() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a", "b"]).await;
    publish(&store, publication("b", "x")).await;
    let (mut late, mut dump, mut turning) =
        (schema.connection().await, schema.connection().await, schema.connection().await);
    let begin = "BEGIN; SELECT {s}.publish_slice('{a}', '{0}', '{1}', '{late}', '{null}', '{null}', '{null}', '{null}', '{null}', \
                 '{null}', '{}')";
    run(&mut late, &schema, begin).await;
    run(&mut dump, &schema, "BEGIN; LOCK TABLE {s}.feed IN ACCESS SHARE MODE").await;
    let closed = "SELECT EXISTS (SELECT FROM {s}.slot WHERE closed_at IS NOT NULL)";
    let is_closed = async || {
        turn_feed(&schema, &mut turning).await;
        query_scalar::<_, bool>(schema.sql(closed)).fetch_one(&mut turning).await.unwrap().then_some(())
    };
    eventually("the slot to be closed", is_closed).await;
    run(&mut late, &schema, "COMMIT").await;
    // Polls pass over the slot, so it cannot be emptied.
    let again = "UPDATE {s}.slot SET closed_at = closed_at - interval '6 seconds'; SELECT {s}.rotate_feed()";
    let heard = async || {
        run(&mut turning, &schema, again).await;
        (!ears.events(&topic("a")).is_empty()).then_some(())
    };
    eventually("the late event", heard).await;
    run(&mut dump, &schema, "COMMIT").await;
    let emptied = async || {
        turn_feed(&schema, &mut dump).await;
        (count_rows(&schema, "feed").await == 0).then_some(())
    };
    eventually("the feed to be empty", emptied).await;
    assert_eq!(texts(&ears.events(&topic("a"))), ["late"]);
    assert!(!ears.has_gap(&topic("a")));
}
