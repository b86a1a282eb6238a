//! An order and its event, both or none: the event is published in the transaction that stores the order.
//!
//! `cargo run -p strait-store-postgres --example orders -- postgres://localhost/app`

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use strait_core::store::EventHubStore;
use strait_core::{App, Endpoint, Payload, Retention, Topic};
use strait_store_postgres::sqlx::{PgPool, query, query_scalar};
use strait_store_postgres::{Outgoing, PostgresConfig, PostgresStore};

const KEPT: Retention = Retention { count: 100, age: Duration::from_secs(3600) };

/// Places an order. Who subscribed to its topic hears of it once the transaction has committed, and not otherwise.
async fn place_order(pool: &PgPool, store: &PostgresStore, what: &str, quantity: i32) -> anyhow::Result<i64> {
    let mut transaction = pool.begin().await?;
    let id: i64 = query_scalar("INSERT INTO orders (what, quantity) VALUES ($1, $2) RETURNING id")
        .bind(what)
        .bind(quantity)
        .fetch_one(&mut *transaction)
        .await?;
    let placed = Payload::json(&json!({ "order": id, "what": what }))?;
    let outgoing = Outgoing::new(Topic::new("orders")?, placed).retain(KEPT).key(format!("order-{id}"));
    store.publish_in(&mut transaction, &outgoing).await?;
    // What fails from here on, the commit too, leaves neither order nor event.
    let stock: i64 = query_scalar("SELECT 10 - sum(quantity) FROM orders").fetch_one(&mut *transaction).await?;
    anyhow::ensure!(stock >= 0, "there is not enough in stock");
    transaction.commit().await?;
    store.wake();
    Ok(id)
}

/// The same in SQL, from whatever speaks to the database.
async fn cancel_order(pool: &PgPool, schema: &str, id: i64) -> anyhow::Result<()> {
    let mut transaction = pool.begin().await?;
    query("DELETE FROM orders WHERE id = $1").bind(id).execute(&mut *transaction).await?;
    let publish = format!("SELECT {schema}.publish('orders', jsonb_build_object('cancelled', $1::bigint))");
    query(strait_store_postgres::sqlx::AssertSqlSafe(publish)).bind(id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// Places orders, and answers what subscribers of the topic were told.
pub(crate) async fn run(url: &str, schema: &str) -> anyhow::Result<Vec<String>> {
    let pool = PgPool::connect(url).await.context("the database cannot be reached")?;
    let store = PostgresStore::new(PostgresConfig::from_url(url)?.schema(schema)?);
    let app = App::new()
        .endpoint(Endpoint::new("orders", "/orders").public())
        .retain("orders", KEPT)
        .shared_store(Arc::new(store.clone()))
        .build()?;
    app.start().await?;
    let first = place_order(&pool, &store, "tea", 8).await?;
    if let Ok(id) = place_order(&pool, &store, "more tea than there is", 8).await {
        anyhow::bail!("order {id} should have failed");
    }
    cancel_order(&pool, schema, first).await?;
    place_order(&pool, &store, "coffee", 8).await?;

    let topic = Topic::new("orders")?;
    let mut told = Vec::new();
    while told.len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let kept = store.history(&topic, 10).await?;
        let text = |payload: &Payload| String::from_utf8_lossy(payload.bytes()).into_owned();
        told = kept.iter().map(|(_, event)| text(&event.payload)).collect();
    }
    app.stop().await;
    store.close().await;
    Ok(told)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).context("give the URL of a database")?;
    let pool = PgPool::connect(&url).await?;
    query(
        "CREATE TABLE IF NOT EXISTS orders (id bigserial PRIMARY KEY, what text NOT NULL, quantity integer NOT NULL)",
    )
    .execute(&pool)
    .await?;
    let mut out = std::io::stdout();
    for event in run(&url, "strait").await? {
        std::io::Write::write_all(&mut out, format!("{event}\n").as_bytes())?;
    }
    Ok(())
}
