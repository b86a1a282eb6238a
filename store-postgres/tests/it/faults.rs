//! Failures of the database and of the way to it: calls fail quickly and retryably, and nodes recover by themselves
//! without losing anything unsaid.

use std::time::{Duration, Instant};

use strait_core::NodeId;
use strait_core::store::{ChannelStore, EventHubStore, Lease, LeaseTerm, StoreError, StoreErrorKind};
use strait_store_postgres::sqlx::{Connection, query};
use strait_store_postgres::{PostgresConfig, PostgresStore};

use crate::kit::proxy::{Proxy, Way, server_of};
use crate::kit::{Schema, eventually, hearing, publication, publish, texts, topic, url};

/// The limit for a call in these tests.
const OPERATION: Duration = Duration::from_millis(500);

async fn connected(config: PostgresConfig) -> PostgresStore {
    let store = PostgresStore::new(config);
    store.connect().await.unwrap();
    store
}

/// A store through a proxy, with short limits.
async fn through_proxy() -> (Schema, Proxy, PostgresStore) {
    through_proxy_within(OPERATION).await
}

async fn through_proxy_within(limit: Duration) -> (Schema, Proxy, PostgresStore) {
    // Make the schema before: that takes longer than a call may.
    let schema = Schema::new();
    schema.store().await.close().await;
    let proxy = Proxy::before(&server_of(&url())).await;
    let config = PostgresConfig::from_url(&proxy.url(&schema.url)).unwrap().schema(&schema.name).unwrap();
    let store = connected(config.connections(4).operation_timeout(limit)).await;
    (schema, proxy, store)
}

async fn refused(store: &PostgresStore) -> StoreError {
    let began = Instant::now();
    let refused = store.publish(&[publication("a", "lost")]).await.remove(0).unwrap_err();
    assert!(began.elapsed() < OPERATION * 4, "it fails quickly: {:?}", began.elapsed());
    assert!(refused.is_retryable(), "{refused:?}");
    refused
}

async fn works_again(store: &PostgresStore) {
    let again = async || store.history(&topic("a"), 1).await.ok().map(drop);
    eventually("the store to work again", again).await;
}

#[tokio::test]
async fn why_there_is_no_connection_is_told() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = PostgresConfig::from_url(&format!("postgres://ada:hunter2@{nobody}/strait")).unwrap();
    let store = PostgresStore::new(config.operation_timeout(OPERATION));
    let error = store.connect().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    let source = error.source.as_ref().unwrap().to_string();
    assert!(source.contains("refused") && !source.contains("hunter"), "{source}");
}

#[tokio::test]
async fn connections_that_are_cut_lose_nothing() {
    let (schema, proxy, store) = through_proxy().await;
    let other = schema.store().await;
    let (ears, bus) = hearing(&store, &["a"]).await;
    publish(&other, publication("a", "before")).await;
    ears.hear(&topic("a"), 1).await;
    proxy.set(Way::Cut);
    refused(&store).await;
    for n in 0..20 {
        publish(&other, publication("a", n.to_string())).await;
    }
    let deaf = async || (!bus.health().hears).then_some(());
    eventually("the node to say that it is deaf", deaf).await;
    proxy.set(Way::Open);
    works_again(&store).await;
    let heard = texts(&ears.hear(&topic("a"), 21).await);
    assert!(heard[1..].iter().enumerate().all(|(n, text)| *text == n.to_string()), "{heard:?}");
    assert!(!ears.has_gap(&topic("a")));
    eventually("the node to hear", async || bus.health().hears.then_some(())).await;
}

#[tokio::test]
async fn connections_that_stall_are_given_up_in_time() {
    let (schema, proxy, store) = through_proxy().await;
    let other = schema.store().await;
    let (ears, bus) = hearing(&store, &["a"]).await;
    proxy.set(Way::Stalled);
    refused(&store).await;
    publish(&other, publication("a", "meanwhile")).await;
    eventually("the node to say that it is deaf", async || (!bus.health().hears).then_some(())).await;
    proxy.set(Way::Open);
    works_again(&store).await;
    // A publication under way may have succeeded after all: then it is heard as well.
    let told = async || texts(&ears.events(&topic("a"))).contains(&"meanwhile".to_owned()).then_some(());
    eventually("the event", told).await;
    assert!(!ears.has_gap(&topic("a")));
}

#[tokio::test]
async fn a_slow_way_only_takes_longer() {
    let (_schema, proxy, store) = through_proxy_within(OPERATION * 10).await;
    proxy.set(Way::Slow(Duration::from_millis(20)));
    let (ears, _bus) = hearing(&store, &["a"]).await;
    for n in 0..5 {
        publish(&store, publication("a", n.to_string())).await;
    }
    assert_eq!(texts(&ears.hear(&topic("a"), 5).await), ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn terminated_backends_are_replaced() {
    let schema = Schema::new();
    let store = PostgresStore::new(schema.config().application_name(&schema.name));
    let other = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a"]).await;
    let mut connection = schema.connection().await;
    for round in 0..5 {
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        query(terminate).bind(&schema.name).execute(&mut connection).await.unwrap();
        publish(&other, publication("a", round.to_string())).await;
        works_again(&store).await;
    }
    assert_eq!(texts(&ears.hear(&topic("a"), 5).await), ["0", "1", "2", "3", "4"]);
    assert!(!ears.has_gap(&topic("a")));
}

#[tokio::test]
async fn a_full_or_read_only_database_is_retryable_and_reads_go_on() {
    let schema = Schema::new();
    let store = schema.store().await;
    let before = publish(&store, publication("a", "before")).await;
    let mut connection = schema.connection().await;
    for code in ["53100", "25006"] {
        // The server raises this error where it would raise its own.
        let raise = format!(
            "CREATE FUNCTION {{s}}.fail() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END$$"
        );
        query(schema.sql(&raise)).execute(&mut connection).await.unwrap();
        let trigger = "CREATE TRIGGER fail BEFORE INSERT ON {s}.log EXECUTE FUNCTION {s}.fail()";
        query(schema.sql(trigger)).execute(&mut connection).await.unwrap();
        let refused = refused(&store).await;
        assert_eq!(refused.kind, StoreErrorKind::Unavailable);
        assert!(refused.in_full().to_string().contains(code), "the SQLSTATE is named: {}", refused.in_full());
        assert_eq!(store.history(&topic("a"), 10).await.unwrap().last().unwrap().0, before);
        query(schema.sql("DROP FUNCTION {s}.fail CASCADE")).execute(&mut connection).await.unwrap();
    }
    assert_eq!(publish(&store, publication("a", "after")).await.offset, before.offset + 1);
}

#[tokio::test]
async fn a_lock_that_somebody_holds_keeps_leases_and_other_topics_going() {
    let schema = Schema::new();
    schema.store().await.close().await;
    let config = schema.config().connections(2).lock_timeout(OPERATION / 2).operation_timeout(OPERATION);
    let store = connected(config).await;
    let node = NodeId::unique();
    store.lease(&node, LeaseTerm::Acquire, Duration::from_secs(60)).await.unwrap();
    let (ears, _bus) = hearing(&store, &["a", "b"]).await;
    let mut holder = schema.connection().await;
    let mut held = holder.begin().await.unwrap();
    query(schema.sql("SELECT FROM {s}.topic WHERE name = 'a' FOR UPDATE")).execute(&mut *held).await.unwrap();
    // More calls than the pool has connections: it is exhausted.
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { refused(&store).await.kind })
        })
        .collect();
    while !waiting.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!(store.lease(&node, LeaseTerm::Renew, Duration::from_secs(60)).await.unwrap(), Lease::Held);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A publication without an answer in time may have reached the node.
    let mut unanswered = 0;
    for refused in waiting {
        match refused.await.unwrap() {
            StoreErrorKind::Unavailable => {}
            StoreErrorKind::Timeout => unanswered += 1,
            other => panic!("{other:?}"),
        }
    }
    publish(&store, publication("b", "goes on")).await;
    ears.hear(&topic("b"), 1).await;
    held.rollback().await.unwrap();
    publish(&store, publication("a", "after")).await;
    let mut heard = texts(&ears.hear(&topic("a"), 1).await);
    while heard.last().is_some_and(|last| last != "after") {
        heard = texts(&ears.hear(&topic("a"), heard.len() + 1).await);
    }
    assert!(heard.len() <= unanswered + 1, "{heard:?}");
}

#[tokio::test]
async fn without_notify_only_the_wait_changes() {
    let schema = Schema::new();
    let (one, two) = (
        PostgresStore::new(schema.config().notify(false)),
        PostgresStore::new(schema.config().notify(false).poll(Duration::from_millis(20))),
    );
    let (ears, bus) = hearing(&two, &["a"]).await;
    for n in 0..20 {
        publish(&one, publication("a", n.to_string())).await;
    }
    let heard = ears.hear(&topic("a"), 20).await;
    assert!((1..=20).eq(heard.iter().map(|(position, _)| position.offset)));
    assert!(bus.health().hears);
}

#[tokio::test]
async fn a_listen_that_died_in_silence_is_noticed() {
    let schema = Schema::new();
    let other = schema.store().await;
    let proxy = Proxy::before(&server_of(&url())).await;
    // Polls are far apart: only a wake-up brings several events in time.
    let config = schema.config().listen(proxy.url(&schema.url).parse().unwrap());
    let probe = Duration::from_millis(200);
    let store = PostgresStore::new(config.poll(Duration::from_secs(5)).probe(probe).operation_timeout(OPERATION));
    schema.store().await.close().await;
    let (ears, _bus) = hearing(&store, &["a"]).await;
    eventually("LISTEN", async || (proxy.connections() > 0).then_some(())).await;
    publish(&other, publication("a", "1")).await;
    ears.hear(&topic("a"), 1).await;
    // Half open: neither side gets notice. New connections hang as well, until the way is open again.
    let before = proxy.connections();
    proxy.set(Way::Stalled);
    eventually("another LISTEN", async || (proxy.connections() > before).then_some(())).await;
    proxy.set(Way::Open);
    for n in 2..5 {
        publish(&other, publication("a", n.to_string())).await;
        ears.hear(&topic("a"), n).await;
    }
    let began = Instant::now();
    for n in 5..8 {
        publish(&other, publication("a", n.to_string())).await;
        ears.hear(&topic("a"), n).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
