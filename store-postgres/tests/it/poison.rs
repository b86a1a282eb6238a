//! Rows that cannot be handled: they harm their own topic, and no other one.

use std::time::Duration;

use strait_core::store::{ChannelStore, EventHubStore, Location, NewChannel, Publication, Replay, StoreErrorKind};
use strait_core::{ChannelId, ConnectionId, NodeId, Payload, Retention};
use strait_store_postgres::sqlx::{Connection, PgConnection, query, query_scalar};
use strait_store_postgres::{Outgoing, PostgresStore};

use crate::kit::{Schema, count_rows, eventually, hearing, publication, publish, texts, topic};

const LONG: Duration = Duration::from_secs(600);

async fn run(schema: &Schema, connection: &mut PgConnection, sql: &str) {
    query(schema.sql(sql)).execute(connection).await.unwrap();
}

/// The SQLSTATE with which a statement fails.
async fn refusal(schema: &Schema, connection: &mut PgConnection, sql: &str) -> String {
    let failed = query(schema.sql(sql)).execute(connection).await.expect_err(sql);
    failed.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

/// Drops the constraints, so that the table takes invalid rows.
async fn open_table(schema: &Schema, connection: &mut PgConnection, table: &str) {
    let drop = "DO $do$ DECLARE name text; BEGIN \
                FOR name IN SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = '{s}.{table}'::regclass \
                LOOP EXECUTE format('ALTER TABLE {s}.{table} DROP CONSTRAINT %I', name); END LOOP; END $do$";
    run(schema, connection, &drop.replace("{table}", table)).await;
}

/// Checks that a channel of a node without a lease is claimed.
async fn claims(store: &PostgresStore) {
    let id = ChannelId::unique();
    let location = Location::Node { node: NodeId::unique(), connection: ConnectionId::from(id.clone()) };
    let new = NewChannel {
        id: id.clone(),
        endpoint: "room".into(),
        location,
        opening: "{}".into(),
        session: None,
        grace: None,
        token: None,
        due: None,
    };
    store.open(new).await.unwrap();
    let claimed = async || {
        let claims = store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap();
        claims.iter().any(|claim| claim.fence.id == id).then_some(())
    };
    eventually("the claim", claimed).await;
}

/// An event published in SQL, kept for longer than the database's clock goes.
#[tokio::test]
async fn a_time_beyond_every_clock_is_cut() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a", "b", "c"]).await;
    let mut connection = schema.connection().await;
    for call in [
        "publish('a', '1', keep_count => 10, keep_age => interval '10000 years')",
        "publish('b', '1', key => 'k', keep_count => 10, keep_age => interval '300000 years')",
        "publish('c', '1', key => 'k', keep_count => 10, keep_age => interval '178000000 years')",
    ] {
        run(&schema, &mut connection, &format!("SELECT {{s}}.{call}")).await;
    }
    for name in ["a", "b", "c"] {
        ears.hear(&topic(name), 1).await;
        assert_eq!(store.history(&topic(name), 10).await.unwrap().len(), 1);
    }
    claims(&store).await;
    let age: i64 =
        query_scalar(schema.sql("SELECT max(keep_age) FROM {s}.topic")).fetch_one(&mut connection).await.unwrap();
    assert_eq!(age, 100 * 365 * 24 * 3600 * 1000);
}

/// The broken channel is claimed, and not swept, again and again; the others are swept.
#[tokio::test]
async fn a_channel_that_cannot_be_read_keeps_no_other_one_from_being_claimed() {
    let schema = Schema::new();
    let store = schema.store().await;
    let broken = "INSERT INTO {s}.channel (id, endpoint, generation, phase, at_gateway, place, connection, opening, \
                  state_version, session_version, opened_at, due) \
                  VALUES ($1, 'room', 1, 2, true, 'https://a.test', '', '', 0, 0, now(), now())";
    schema.run(broken, "broken").await;
    claims(&store).await;
}

/// A topic with a row that makes every statement on it fail; Strait writes no such row.
#[tokio::test]
async fn a_broken_topic_breaks_nothing_else() {
    let schema = Schema::new();
    let store = schema.store().await;
    let mut connection = schema.connection().await;
    let soon = Retention { count: 10, age: Duration::from_millis(1) };
    for name in ["a", "broken", "c"] {
        publish(&store, Publication { retention: Some(soon), ..publication(name, "old") }).await;
    }
    open_table(&schema, &mut connection, "topic").await;
    let break_it =
        "UPDATE {s}.topic SET head = 9223372036854775807, before = 9223372036854775807 WHERE name = 'broken'";
    run(&schema, &mut connection, break_it).await;
    let (ears, _bus) = hearing(&store, &["a", "c"]).await;
    claims(&store).await;
    let swept = async || (count_rows(&schema, "log").await <= 1).then_some(());
    eventually("the old events of the others to be swept", swept).await;

    // In one slice, and in one turn of the sequencer.
    let slice = ["a", "broken", "c"].map(|name| publication(name, "direct"));
    let answers = store.publish(&slice).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_eq!(answers[1].as_ref().unwrap_err().kind, StoreErrorKind::Corrupt);
    for name in ["a", "broken", "c"] {
        run(&schema, &mut connection, &format!("SELECT {{s}}.publish_text('{name}', 'sql')")).await;
    }
    for name in ["a", "c"] {
        assert_eq!(texts(&ears.hear(&topic(name), 2).await), ["direct", "sql"]);
    }
}

/// As older nodes may have written the row.
#[tokio::test]
async fn what_cannot_be_read_is_a_gap_of_its_topic() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, bus) = hearing(&store, &["a", "b"]).await;
    let mut connection = schema.connection().await;
    open_table(&schema, &mut connection, "outbox").await;
    let start = publish(&store, publication("a", "1")).await;
    let insert = "INSERT INTO {s}.outbox (topic, format, payload, keep) VALUES \
                  ('a', 1, '\\xff', 0), ('a', 9, 'x', 0), ('a', 1, '3', 0), ('b', 1, '1', 0)";
    run(&schema, &mut connection, insert).await;
    let three = async || (texts(&ears.events(&topic("a"))) == ["1", "3"]).then_some(());
    eventually("what comes behind it", three).await;
    assert!(ears.has_gap(&topic("a")));
    ears.hear(&topic("b"), 1).await;
    assert!(!ears.has_gap(&topic("b")));
    eventually("the node to hear", async || bus.health().hears.then_some(())).await;
    // The log has it, too.
    assert!(matches!(store.replay(&topic("a"), &start, 10).await.unwrap(), Replay::Gap { head } if head.offset == 4));
    assert_eq!(texts(&store.history(&topic("a"), 10).await.unwrap()), ["1", "3"]);
}

/// An event that the sequencer cannot place is lost, and reported as a gap. Events behind it do not wait for ever.
#[tokio::test]
async fn what_cannot_be_sequenced_is_a_gap_of_its_topic() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a", "b"]).await;
    let mut connection = schema.connection().await;
    publish(&store, publication("a", "1")).await;
    run(&schema, &mut connection, "ALTER TABLE {s}.log ADD CHECK (payload <> 'poison')").await;
    for (name, text) in [("a", "2"), ("a", "poison"), ("a", "3"), ("b", "1")] {
        run(
            &schema,
            &mut connection,
            &format!("SELECT {{s}}.publish_text('{name}', '{text}', keep_count => 9, keep_age => '1 h')"),
        )
        .await;
    }
    let all = async || (texts(&ears.events(&topic("a"))) == ["1", "2", "3"]).then_some(());
    eventually("what comes behind it", all).await;
    let offsets: Vec<_> = ears.events(&topic("a")).iter().map(|(position, _)| position.offset).collect();
    assert_eq!((offsets, ears.has_gap(&topic("a"))), (vec![1, 2, 4], true));
    ears.hear(&topic("b"), 1).await;
    assert!(!ears.has_gap(&topic("b")));
    assert_eq!(texts(&store.history(&topic("a"), 10).await.unwrap()), ["1", "2", "3"], "the log goes on");
    eventually("the outbox to be empty", async || (count_rows(&schema, "outbox").await == 0).then_some(())).await;
}

#[tokio::test]
async fn what_nobody_could_read_is_refused() {
    let schema = Schema::new();
    let _store = schema.store().await;
    let mut connection = schema.connection().await;
    for call in [
        "enqueue('a', 9::smallint, 'x', null, null, null)",
        "enqueue('a', null, 'x', null, null, null)",
        "enqueue('a', 1::smallint, '\\xff', null, null, null)",
        "enqueue('a', 0::smallint, '\\x00ff', null, null, null)",
        "enqueue(chr(1) || 'a', 1::smallint, 'x', null, null, null)",
        "publish('$user:ada', '1')",
        "publish('$opening:a', '1')",
        "publish_text('a', repeat('x', 1048577))",
        "publish_binary('a', convert_to(repeat('x', 1048577), 'UTF8'))",
        "publish_text('a', 'x', key => repeat('k', 257))",
        "publish_text('a', 'x', key => '')",
    ] {
        let code = refusal(&schema, &mut connection, &format!("SELECT {{s}}.{call}")).await;
        assert!(code.starts_with("22"), "{call}: {code}");
    }
    // A role that publishes may write to the table itself.
    let insert = "INSERT INTO {s}.outbox (topic, format, payload, keep, keep_count, keep_age, key) VALUES";
    for row in [
        "(chr(1) || 'a', 1, 'x', 0, null, null, null)",
        "('$user:ada', 1, 'x', 0, null, null, null)",
        "('', 1, 'x', 0, null, null, null)",
        "(repeat('x', 256), 1, 'x', 0, null, null, null)",
        "(E'a\\u0085', 1, 'x', 0, null, null, null)",
        "('a', 3, 'x', 0, null, null, null)",
        "('a', 1, '\\xff', 0, null, null, null)",
        "('a', 2, convert_to(repeat('x', 1048577), 'UTF8'), 0, null, null, null)",
        "('a', 1, 'x', 3, null, null, null)",
        "('a', 1, 'x', 2, 10, null, null)",
        "('a', 1, 'x', 2, null, 10, null)",
        "('a', 1, 'x', 2, 10, 3153600000001, null)",
        "('a', 1, 'x', 2, 10, -1, null)",
        "('a', 1, 'x', 2, -1, 10, null)",
        "('a', 1, 'x', 0, null, null, 'short')",
    ] {
        let code = refusal(&schema, &mut connection, &format!("{insert} {row}")).await;
        assert!(["22021", "23514"].contains(&&*code), "{row}: {code}");
    }
    assert_eq!(count_rows(&schema, "outbox").await, 0);
}

#[tokio::test]
async fn what_can_be_read_is_published() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a"]).await;
    let mut connection = schema.connection().await;
    let texts = ["", "a\0b", "\\000\0\\", "\\\\\0\u{e9}", "𝄞\0"];
    for text in texts {
        let mut transaction = connection.begin().await.unwrap();
        store.publish_in(&mut transaction, &Outgoing::new(topic("a"), Payload::text(text))).await.unwrap();
        transaction.commit().await.unwrap();
    }
    run(&schema, &mut connection, "SELECT {s}.publish_binary('a', '\\xff')").await;
    run(&schema, &mut connection, "SELECT {s}.publish_text('a', repeat('x', 1048576), key => repeat('k', 256))").await;
    let heard = ears.hear(&topic("a"), texts.len() + 2).await;
    let payloads: Vec<&[u8]> = heard.iter().map(|(_, event)| event.payload.bytes().as_ref()).collect();
    assert_eq!(payloads[..texts.len()], texts.map(str::as_bytes));
    assert_eq!((payloads[texts.len()], payloads[texts.len() + 1].len()), (&b"\xff"[..], 1_048_576));
}
