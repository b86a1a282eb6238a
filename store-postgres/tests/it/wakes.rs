//! Polls are far apart: an event that comes soon came by a wake-up, and a late one has missed its own.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use strait_core::Payload;
use strait_core::testkit::Ears;
use strait_store_postgres::sqlx::Connection;
use strait_store_postgres::sqlx::postgres::PgListener;
use strait_store_postgres::{Outgoing, PostgresStore};

use crate::kit::{Schema, eventually, hearing, publication, publish, topic};

const POLL: Duration = Duration::from_secs(5);
/// The last poll was when the earlier event was heard.
const LATE: Duration = Duration::from_secs(2);

fn store(schema: &Schema) -> PostgresStore {
    PostgresStore::new(schema.config().poll(POLL))
}

/// Whether so many events of a topic took longer than a wake-up.
async fn is_late(ears: &Ears, name: &str, most: usize) -> bool {
    let began = Instant::now();
    let heard = async || (ears.events(&topic(name)).len() >= most).then_some(());
    eventually("all events", heard).await;
    began.elapsed() > LATE
}

/// Bursts of one to four, with and without time between them, so that wake-ups meet each other, polls and pauses.
async fn count_missed(publisher: &PostgresStore, hearer: &PostgresStore) -> usize {
    let (ears, _bus) = hearing(hearer, &["a"]).await;
    publish(publisher, publication("a", "0")).await;
    // LISTEN takes a while to be there.
    is_late(&ears, "a", 1).await;
    let (mut published, mut missed) = (1, 0);
    for round in 0..200 {
        join_all((0..round % 4 + 1).map(|_| publish(publisher, publication("a", "x")))).await;
        published += round % 4 + 1;
        missed += usize::from(is_late(&ears, "a", published).await);
        tokio::time::sleep(Duration::from_millis(round as u64 % 7)).await;
    }
    missed
}

#[tokio::test]
async fn no_wake_up_of_another_process_is_missed() {
    let schema = Schema::new();
    assert_eq!(count_missed(&store(&schema), &store(&schema)).await, 0);
}

#[tokio::test]
async fn no_wake_up_of_the_own_process_is_missed() {
    let schema = Schema::new();
    let one = store(&schema);
    assert_eq!(count_missed(&one, &one).await, 0);
}

#[tokio::test]
async fn many_publications_are_few_notifications() {
    const DEBOUNCE: Duration = Duration::from_millis(50);
    let schema = Schema::new();
    let (publisher, hearer) = (PostgresStore::new(schema.config().debounce(DEBOUNCE)), store(&schema));
    let (ears, _bus) = hearing(&hearer, &["a"]).await;
    let mut listener = PgListener::connect(&schema.url).await.unwrap();
    listener.listen(&format!("strait_{}", schema.name)).await.unwrap();
    let began = Instant::now();
    join_all((0..500).map(|_| publish(&publisher, publication("a", "x")))).await;
    let mut connection = schema.connection().await;
    for _ in 0..50 {
        let mut transaction = connection.begin().await.unwrap();
        publisher.publish_in(&mut transaction, &Outgoing::new(topic("a"), Payload::text("x"))).await.unwrap();
        transaction.commit().await.unwrap();
        publisher.wake();
    }
    ears.hear(&topic("a"), 550).await;
    let most = began.elapsed().div_duration_f64(DEBOUNCE) + 2.0;
    // By now the wake-ups of the last publications have come.
    tokio::time::sleep(DEBOUNCE * 2).await;
    let mut count = 0;
    while let Ok(notification) = tokio::time::timeout(DEBOUNCE, listener.recv()).await {
        count += usize::from(notification.unwrap().payload().is_empty());
    }
    assert!(count > 0 && (count as f64) <= most, "{count}, and {most} may be");
}
