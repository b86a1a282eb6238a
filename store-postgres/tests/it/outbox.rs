//! Publishing inside a transaction of the application.

use std::time::{Duration, Instant};

use strait_core::Payload;
use strait_core::store::{EventHubStore, MAX_KEY, MAX_PAYLOAD, Publication, Replay, StoreErrorKind};
use strait_store_postgres::sqlx::{Connection, PgConnection, query, query_scalar};
use strait_store_postgres::{Outgoing, PostgresStore};
use tokio::time::timeout;

use crate::kit::{KEEP, Schema, eventually, hearing, publication, publish, texts, topic};

#[path = "../../examples/orders.rs"]
#[allow(dead_code, reason = "its main is for people")]
mod orders;

const LIMIT: Duration = Duration::from_secs(10);

fn outgoing(on: &str, text: impl Into<String>) -> Outgoing {
    Outgoing::new(topic(on), Payload::text(text)).retain(KEEP)
}

/// Runs a statement within a short time: a statement that waits for a lock fails.
async fn promptly(schema: &Schema, connection: &mut PgConnection, sql: &str) {
    let ran = query(schema.sql(sql)).execute(connection);
    timeout(Duration::from_secs(2), ran).await.expect("it waits for nobody").unwrap();
}

#[tokio::test]
async fn an_event_exists_if_and_only_if_its_transaction_commits() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a"]).await;
    let mut connection = schema.connection().await;
    for (n, commits) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut transaction = connection.begin().await.unwrap();
        store.publish_in(&mut transaction, &outgoing("a", format!("rust {n}"))).await.unwrap();
        let sql = schema.sql("SELECT {s}.publish_text('a', $1, keep_count => 100, keep_age => '1 hour')");
        query(sql).bind(format!("sql {n}")).execute(&mut *transaction).await.unwrap();
        if commits {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
    }
    let heard = ears.hear(&topic("a"), 4).await;
    assert_eq!(texts(&heard), ["rust 2", "sql 2", "rust 4", "sql 4"]);
    assert!((1..=4).eq(heard.iter().map(|(position, _)| position.offset)));
    assert_eq!(store.history(&topic("a"), 10).await.unwrap(), heard);
    // A later statement that fails takes the event along.
    let mut transaction = connection.begin().await.unwrap();
    store.publish_in(&mut transaction, &outgoing("a", "never")).await.unwrap();
    query("SELECT 1 / 0").execute(&mut *transaction).await.unwrap_err();
    drop(transaction);
    publish(&store, publication("a", "last")).await;
    assert_eq!(texts(&ears.hear(&topic("a"), 5).await)[4..], ["last"]);
}

#[tokio::test]
async fn a_transaction_that_stays_open_for_long_skips_nothing_and_holds_nobody_up() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a"]).await;
    let (mut slow, mut quick) = (schema.connection().await, schema.connection().await);
    let mut open = slow.begin().await.unwrap();
    store.publish_in(&mut open, &outgoing("a", "first begun")).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..50 {
        let mut transaction = quick.begin().await.unwrap();
        store.publish_in(&mut transaction, &outgoing("a", n.to_string())).await.unwrap();
        transaction.commit().await.unwrap();
        expected.push(n.to_string());
        if n % 10 == 9 {
            let direct = format!("direct {n}");
            publish(&store, publication("a", &direct)).await;
            expected.push(direct);
        }
    }
    let heard = ears.hear(&topic("a"), expected.len()).await;
    assert_eq!(texts(&heard), expected);
    open.commit().await.unwrap();
    expected.push("first begun".to_owned());
    let heard = ears.hear(&topic("a"), expected.len()).await;
    assert_eq!(texts(&heard), expected);
    assert!((1..=expected.len() as u64).eq(heard.iter().map(|(position, _)| position.offset)));
    assert!(!ears.has_gap(&topic("a")));
}

#[tokio::test]
async fn interleaved_transactions_are_all_heard_once_in_one_order_on_every_node() {
    const PUBLISHERS: usize = 6;
    const EACH: usize = 20;
    let schema = Schema::new();
    let (one, two) = (schema.store().await, schema.store().await);
    let ((a, _a), (b, _b)) = (hearing(&one, &["a"]).await, hearing(&two, &["a"]).await);
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let (store, schema) = (if publisher % 2 == 0 { one.clone() } else { two.clone() }, &schema);
        async move {
            let mut connection = schema.connection().await;
            for n in 0..EACH {
                let text = format!("{publisher}.{n}");
                if (publisher + n) % 3 == 0 {
                    publish(&store, publication("a", text)).await;
                    continue;
                }
                let mut transaction = connection.begin().await.unwrap();
                store.publish_in(&mut transaction, &outgoing("a", text)).await.unwrap();
                // Others publish and commit meanwhile.
                for _ in 0..(publisher * 7 + n) % 5 {
                    query("SELECT 1").execute(&mut *transaction).await.unwrap();
                }
                transaction.commit().await.unwrap();
            }
        }
    });
    futures_util::future::join_all(publishers).await;
    let heard = a.hear(&topic("a"), PUBLISHERS * EACH).await;
    assert_eq!(b.hear(&topic("a"), PUBLISHERS * EACH).await, heard);
    assert!((1..=(PUBLISHERS * EACH) as u64).eq(heard.iter().map(|(position, _)| position.offset)));
    let texts = texts(&heard);
    for publisher in 0..PUBLISHERS {
        // Each publisher awaited its commit before the next event: so its own order holds.
        let own: Vec<_> = texts.iter().filter(|text| text.starts_with(&format!("{publisher}."))).collect();
        let expected: Vec<_> = (0..EACH).map(|n| format!("{publisher}.{n}")).collect();
        assert!(own.into_iter().eq(&expected), "{texts:?}");
    }
}

#[tokio::test]
async fn what_follows_a_commit_comes_after_it() {
    let schema = Schema::new();
    let store = schema.store().await;
    let mut connection = schema.connection().await;
    // Nothing polls here: the publication itself must see earlier commits.
    for n in 1..=20 {
        let mut transaction = connection.begin().await.unwrap();
        store.publish_in(&mut transaction, &outgoing("a", "cause")).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(publish(&store, publication("a", "effect")).await.offset, 2 * n);
    }
    let kept = texts(&store.history(&topic("a"), 100).await.unwrap());
    assert!(kept.chunks(2).all(|pair| pair == ["cause", "effect"]), "{kept:?}");
}

#[tokio::test]
async fn opposite_orders_never_deadlock() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a", "b"]).await;
    let (mut one, mut two) = (schema.connection().await, schema.connection().await);
    for (connection, first) in [(&mut one, "a"), (&mut two, "b")] {
        promptly(&schema, connection, "BEGIN").await;
        promptly(&schema, connection, &format!("SELECT {{s}}.publish('{first}', '1')")).await;
    }
    for (connection, second) in [(&mut one, "b"), (&mut two, "a")] {
        promptly(&schema, connection, &format!("SELECT {{s}}.publish('{second}', '2')")).await;
    }
    // Neither holds up a publisher outside of a transaction.
    for name in ["a", "b"] {
        timeout(LIMIT, publish(&store, publication(name, "direct"))).await.unwrap();
    }
    promptly(&schema, &mut one, "COMMIT").await;
    promptly(&schema, &mut two, "COMMIT").await;
    for name in ["a", "b"] {
        let heard = ears.hear(&topic(name), 3).await;
        let mut heard = texts(&heard);
        heard.sort();
        assert_eq!(heard, ["1", "2", "direct"]);
    }
}

#[tokio::test]
async fn a_topic_that_is_locked_holds_no_other_one_up() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a", "b"]).await;
    let mut holder = schema.connection().await;
    promptly(&schema, &mut holder, "BEGIN").await;
    promptly(&schema, &mut holder, "SELECT FROM {s}.topic WHERE name = 'a' FOR UPDATE").await;
    let mut connection = schema.connection().await;
    for name in ["a", "b"] {
        promptly(&schema, &mut connection, &format!("SELECT {{s}}.publish('{name}', '1')")).await;
    }
    ears.hear(&topic("b"), 1).await;
    publish(&store, publication("b", "direct")).await;
    ears.hear(&topic("b"), 2).await;
    let refused = store.publish(&[publication("a", "direct")]).await.remove(0).unwrap_err();
    assert_eq!((refused.kind, refused.is_retryable()), (StoreErrorKind::Unavailable, true));
    promptly(&schema, &mut holder, "COMMIT").await;
    assert_eq!(texts(&ears.hear(&topic("a"), 1).await), ["1"]);
    publish(&store, publication("a", "direct")).await;
    ears.hear(&topic("a"), 2).await;
}

/// Counts the reads of the outbox from here on.
async fn count_turns(schema: &Schema, connection: &mut PgConnection) {
    for sql in [
        "ALTER FUNCTION {s}.sequence_outbox RENAME TO sequence_uncounted",
        "CREATE SEQUENCE {s}.turns",
        "CREATE FUNCTION {s}.sequence_outbox( \
         local bigint[], OUT o_wake boolean, OUT o_done boolean, OUT o_more boolean, OUT o_relay text[], \
         OUT o_broken text) \
         LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('{s}.turns'); \
         SELECT * INTO o_wake, o_done, o_more, o_relay, o_broken FROM {s}.sequence_uncounted(local); END $$",
    ] {
        promptly(schema, connection, sql).await;
    }
}

#[tokio::test]
async fn while_a_topic_is_locked_nodes_look_ever_less_often_and_sequence_others_at_once() {
    let schema = Schema::new();
    schema.store().await.close().await;
    let (mut connection, mut holder) = (schema.connection().await, schema.connection().await);
    count_turns(&schema, &mut connection).await;
    let store = PostgresStore::new(schema.config().poll(Duration::from_secs(5)));
    let (ears, _bus) = hearing(&store, &["a", "b"]).await;
    promptly(&schema, &mut holder, "BEGIN").await;
    promptly(&schema, &mut holder, "SELECT FROM {s}.topic WHERE name = 'a' FOR UPDATE").await;
    promptly(&schema, &mut connection, "SELECT {s}.publish('a', '1')").await;
    let began = Instant::now();
    store.wake();
    let nine = async || {
        let turns = schema.sql("SELECT last_value FROM {s}.turns WHERE is_called");
        let turns: Option<i64> = query_scalar(turns).fetch_optional(&mut connection).await.unwrap();
        turns.filter(|turns| *turns >= 9)
    };
    eventually("nine turns", nine).await;
    // Immediate retries would take 50 ms, growing pauses 2.5 s; a wake-up for another reason cuts a pause short.
    assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
    promptly(&schema, &mut connection, "SELECT {s}.publish('b', '1')").await;
    let began = Instant::now();
    store.wake();
    ears.hear(&topic("b"), 1).await;
    assert!(began.elapsed() < Duration::from_secs(2), "it does not wait for the next turn: {:?}", began.elapsed());
    promptly(&schema, &mut holder, "COMMIT").await;
    assert_eq!(texts(&ears.hear(&topic("a"), 1).await), ["1"]);
}

#[tokio::test]
async fn a_topic_that_is_just_being_made_holds_no_other_one_up() {
    let schema = Schema::new();
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["b"]).await;
    let (mut connection, mut maker) = (schema.connection().await, schema.connection().await);
    promptly(&schema, &mut maker, "BEGIN").await;
    promptly(&schema, &mut maker, "INSERT INTO {s}.topic (name, epoch) VALUES ('a', 7)").await;
    for name in ["a", "b"] {
        promptly(&schema, &mut connection, &format!("SELECT {{s}}.publish('{name}', '1')")).await;
    }
    store.wake();
    ears.hear(&topic("b"), 1).await;
    promptly(&schema, &mut maker, "COMMIT").await;
    let kept = async || (store.history(&topic("a"), 1).await.unwrap().len() == 1).then_some(());
    promptly(&schema, &mut connection, "SELECT {s}.publish('a', '2', keep_count => 9, keep_age => '1 hour')").await;
    eventually("the other event", kept).await;
    assert_eq!(store.history(&topic("a"), 1).await.unwrap()[0].0.epoch, 7);
}

#[tokio::test]
async fn a_key_holds_inside_and_outside_of_transactions() {
    let schema = Schema::new();
    let store = schema.store().await;
    let mut connection = schema.connection().await;
    for _ in 0..3 {
        let mut transaction = connection.begin().await.unwrap();
        store.publish_in(&mut transaction, &outgoing("a", "keyed").key("k")).await.unwrap();
        query(schema.sql("SELECT {s}.publish_text('a', 'keyed', key => 'k')"))
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }
    let keyed = Publication { key: Some("k".into()), ..publication("a", "keyed") };
    let answer = store.publish(&[keyed]).await.remove(0).unwrap();
    assert_eq!((answer.duplicate, answer.position.offset), (true, 1));
}

#[tokio::test]
async fn an_event_is_kept_as_it_asks_for_or_as_the_last_one_was() {
    let schema = Schema::new();
    let store = schema.store().await;
    let start = publish(&store, publication("a", "0")).await;
    let mut connection = schema.connection().await;
    promptly(&schema, &mut connection, "SELECT {s}.publish('a', '{\"n\": 1}')").await;
    promptly(&schema, &mut connection, "SELECT {s}.publish_binary('a', '\\x00ff')").await;
    // A node sequences the events.
    let (ears, _bus) = hearing(&store, &["a"]).await;
    let both = async || match store.replay(&topic("a"), &start, 10).await.unwrap() {
        Replay::Events { events, .. } if events.len() == 2 => Some(events),
        _ => None,
    };
    let kept = eventually("both events", both).await;
    let payloads: Vec<&[u8]> = kept.iter().map(|(_, event)| event.payload.bytes().as_ref()).collect();
    assert_eq!(payloads, [&br#"{"n": 1}"#[..], &b"\0\xff"[..]]);
    promptly(&schema, &mut connection, "SELECT {s}.publish('a', '2', keep_count => 0, keep_age => '0')").await;
    let told =
        async || ears.events(&topic("a")).last().filter(|(_, event)| event.payload.bytes()[..] == *b"2").map(drop);
    eventually("the last event", told).await;
    assert!(store.history(&topic("a"), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_publication_fails_in_the_transaction() {
    let schema = Schema::new();
    let _store = schema.store().await;
    let mut connection = schema.connection().await;
    for call in [
        "publish('', '1')",
        "publish(repeat('x', 256), '1')",
        "publish(E'a\\nb', '1')",
        "publish(E'a\\u0085b', '1')",
        "publish(NULL, '1')",
        "publish('a', NULL)",
        "publish('a', '1', keep_count => 3)",
        "publish('a', '1', keep_age => '1 hour')",
        "publish('a', '1', keep_count => -1, keep_age => '1 hour')",
        "publish('a', '1', keep_count => 3, keep_age => '-1 hour')",
    ] {
        let failed = query(schema.sql(&format!("SELECT {{s}}.{call}"))).execute(&mut connection).await.unwrap_err();
        let code = failed.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        assert!(code.starts_with("22"), "{call}: {failed}");
    }
}

#[tokio::test]
async fn what_rust_refuses_leaves_the_transaction_alone() {
    let schema = Schema::new();
    let store = schema.store().await;
    let mut connection = schema.connection().await;
    let mut transaction = connection.begin().await.unwrap();
    for wrong in [
        outgoing("$user:ada", "x"),
        outgoing("a", "x".repeat(MAX_PAYLOAD + 1)),
        outgoing("a", "x").key("k".repeat(MAX_KEY + 1)),
        outgoing("a", "x").key(""),
    ] {
        let refused = store.publish_in(&mut transaction, &wrong).await.unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Conflict);
    }
    store.publish_in(&mut transaction, &outgoing("a", "right").key("k".repeat(MAX_KEY))).await.unwrap();
    transaction.commit().await.unwrap();
    publish(&store, publication("a", "next")).await;
    assert_eq!(texts(&store.history(&topic("a"), 10).await.unwrap()), ["right", "next"]);
}

#[tokio::test]
async fn the_example_runs() {
    let schema = Schema::new();
    let _store = schema.store().await;
    let mut connection = schema.connection().await;
    let table = "CREATE TABLE {s}.orders (id bigserial PRIMARY KEY, what text NOT NULL, quantity integer NOT NULL)";
    query(schema.sql(table)).execute(&mut connection).await.unwrap();
    let url = format!("{}?options=-csearch_path%3D{}", schema.url, schema.name);
    let told = timeout(LIMIT, orders::run(&url, &schema.name)).await.unwrap().unwrap();
    let expected = [r#"{"order":1,"what":"tea"}"#, r#"{"cancelled": 1}"#, r#"{"order":3,"what":"coffee"}"#];
    assert_eq!(told, expected);
}
