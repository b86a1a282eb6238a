//! A host name with several addresses, of which one takes connections and says nothing.

use std::time::Duration;

use strait_core::NodeId;
use strait_core::store::{EventBus, EventHubStore};
use strait_core::testkit::Ears;
use strait_store_postgres::sqlx::query_scalar;
use strait_store_postgres::{PostgresConfig, PostgresStore};

use crate::kit::proxy::{Proxy, Way, server_of};
use crate::kit::{Schema, eventually, publication, url};

#[tokio::test]
async fn one_that_is_silent_takes_no_other_ones_time() {
    let schema = Schema::new();
    let (first, second) = (Proxy::before(&server_of(&url())).await, Proxy::before(&server_of(&url())).await);
    first.set(Way::Stalled);
    // The name's port is that of the first, which is where it leads without a choice.
    let place = first.address();
    let named = schema.url.replace(&server_of(&schema.url), &format!("localhost:{}", place.port()));
    let config = PostgresConfig::from_url(&named).unwrap().schema(&schema.name).unwrap();
    let config = config.application_name(&schema.name).operation_timeout(Duration::from_secs(30));
    let store = PostgresStore::new(config.found(vec![place, second.address()]));
    store.connect().await.unwrap();
    let _bus = store.start(&NodeId::unique(), Ears::new()).await.unwrap();
    let mut connection = schema.connection().await;
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%'";
    let listening = async || {
        let there = query_scalar::<_, i64>(listens).bind(&schema.name).fetch_one(&mut connection).await.unwrap();
        (there == 1).then_some(())
    };
    eventually("LISTEN", listening).await;
    // They change their parts.
    first.set(Way::Open);
    second.set(Way::Cut);
    let published = async || store.publish(&[publication("a", "1")]).await.remove(0).ok();
    eventually("a publication by the other one", published).await;
}
