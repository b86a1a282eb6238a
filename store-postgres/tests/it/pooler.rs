//! Behind a pooler that hands out connections by transaction.

use std::fs;
use std::time::Duration;

use strait_core::store::{EventHubStore, StoreError};
use strait_store_postgres::{PostgresConfig, PostgresStore};

use crate::kit::proxy::server_of;
use crate::kit::server::{Folder, Running, free_port, program};
use crate::kit::skip;
use crate::kit::{Schema, eventually, hearing, publication, publish, topic, url};

/// Works with and without a pooler: no prepared statements, no settings at start-up.
async fn works(schema: &Schema, config: PostgresConfig) {
    let config = config.schema(&schema.name).unwrap().connections(4).transaction_pooler();
    // LISTEN goes past the pooler.
    let config = config.listen(url().parse().unwrap()).poll(Duration::from_secs(5));
    let (one, two) = (PostgresStore::new(config.clone()), PostgresStore::new(config));
    let ready = async || one.connect().await.inspect_err(|error: &StoreError| assert!(error.is_retryable())).ok();
    eventually("the pooler", ready).await;
    let (ears, bus) = hearing(&two, &["a"]).await;
    let publishing = (0..8).map(|publisher| {
        let store = one.clone();
        async move {
            for n in 0..20 {
                publish(&store, publication("a", format!("{publisher}.{n}"))).await;
            }
        }
    });
    futures_util::future::join_all(publishing).await;
    let heard = ears.hear(&topic("a"), 160).await;
    assert!((1..=160).eq(heard.iter().map(|(position, _)| position.offset)));
    assert_eq!(one.history(&topic("a"), 1000).await.unwrap(), heard);
    // Statements are transactions of several exchanges: one under way at the test's end would hold the schema.
    bus.stop().await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn statements_need_no_session() {
    let schema = Schema::new();
    works(&schema, PostgresConfig::from_url(&schema.url).unwrap()).await;
}

#[tokio::test]
async fn pgbouncer_may_stand_before_the_database() {
    let Some(pgbouncer) = program("pgbouncer") else {
        skip("there is no pgbouncer");
        return;
    };
    let schema = Schema::new();
    let (folder, port, server) = (Folder::new(), free_port(), server_of(&schema.url));
    let (host, server_port) = server.split_once(':').unwrap();
    let (user, password) = schema.url.split_once("://").unwrap().1.split_once('@').unwrap().0.split_once(':').unwrap();
    let settings = format!(
        "[databases]\npostgres = host={host} port={server_port} user={user} password={password}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n\
         default_pool_size = 3\nunix_socket_dir =\nlogfile = {}/log\n",
        folder.0.display()
    );
    fs::write(folder.0.join("pgbouncer.ini"), settings).unwrap();
    let _pooler = Running(folder.command(&pgbouncer).args(["-q", "pgbouncer.ini"]).spawn().unwrap());
    works(&schema, PostgresConfig::from_url(&format!("postgres://{user}@127.0.0.1:{port}/postgres")).unwrap()).await;
}
