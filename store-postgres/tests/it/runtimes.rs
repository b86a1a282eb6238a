//! A store in use on several runtimes, when one of them ends.

use std::time::Duration;

use futures_util::future::join_all;
use strait_core::NodeId;
use strait_core::store::EventBus;
use strait_core::testkit::Ears;
use strait_store_postgres::PostgresStore;
use strait_store_postgres::sqlx::query_scalar;
use tokio::runtime::{Builder, Runtime};

use crate::kit::{Schema, eventually, hearing, publication, publish};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Counts the sessions with a last statement like this one.
async fn sessions(schema: &Schema, like: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE $2";
    query_scalar(sql).bind(&schema.name).bind(like).fetch_one(&mut schema.connection().await).await.unwrap()
}

fn named(schema: &Schema) -> PostgresStore {
    PostgresStore::new(schema.config().application_name(&schema.name))
}

async fn publish_at_once(store: &PostgresStore) {
    join_all((0..4).map(|n| publish(store, publication(&format!("t{n}"), "x")))).await;
}

#[test]
fn connections_do_not_end_with_a_runtime_that_used_the_store_later() {
    let (first, second) = (runtime(), runtime());
    let schema = Schema::new();
    let store = named(&schema);
    first.block_on(store.connect()).unwrap();
    // The sessions are opened here.
    second.block_on(publish_at_once(&store));
    drop(second);
    first.block_on(publish_at_once(&store));
    first.block_on(store.close());
}

#[test]
fn a_store_goes_on_when_the_runtime_ends_that_used_it_first() {
    let (first, second) = (runtime(), runtime());
    let schema = Schema::new();
    let store = named(&schema);
    let left = first.block_on(async {
        publish_at_once(&store).await;
        store.start(&NodeId::unique(), Ears::new()).await.unwrap()
    });
    let (_ears, bus) = second.block_on(hearing(&store, &["a"]));
    second.block_on(eventually("LISTEN", async || (sessions(&schema, "LISTEN%").await == 1).then_some(())));
    drop(first);
    second.block_on(async {
        publish_at_once(&store).await;
        eventually("LISTEN again", async || (sessions(&schema, "LISTEN%").await == 1).then_some(())).await;
        // Others are woken as before: this one has nobody else to hear.
        let other = PostgresStore::new(schema.config().poll(Duration::from_secs(5)));
        let (ears, _hears) = hearing(&other, &["b"]).await;
        let mut published = 0;
        let notified = async || {
            published += 1;
            publish(&store, publication("b", published.to_string())).await;
            (sessions(&schema, "%pg_notify%").await > 0).then_some(())
        };
        eventually("NOTIFY", notified).await;
        ears.hear(&crate::kit::topic("b"), published).await;
        bus.stop().await;
        // Its runtime has ended, and the node leaves nevertheless.
        drop(left);
        let left = async || (crate::kit::count_rows(&schema, "hearer").await == 1).then_some(());
        eventually("the other node to leave", left).await;
        store.close().await;
    });
}
