//! Servers that end and come back: a test starts its own.

use strait_core::store::{EventHubStore, Publication};
use strait_store_postgres::PostgresStore;
use strait_store_postgres::sqlx::{Connection, PgConnection, query, query_scalar};

use crate::kit::server::Server;
use crate::kit::{Schema, eventually, hearing, publication, publish, texts, topic};

async fn publish_when_possible(store: &PostgresStore, publication: Publication) {
    let published = async || store.publish(std::slice::from_ref(&publication)).await.remove(0).ok().map(drop);
    eventually("a publication", published).await;
}

/// Two nodes; the server ends and is there again; whatever is retained is heard, the rest has a gap.
async fn survives(signal: &str) {
    let Some(mut server) = Server::start().await else { return };
    let schema = Schema::at(server.url());
    let (one, two) = (schema.store().await, schema.store().await);
    let (ears, bus) = hearing(&one, &["kept", "passing"]).await;
    publish(&two, publication("kept", "1")).await;
    publish(&two, Publication { retention: None, ..publication("passing", "1") }).await;
    ears.hear(&topic("kept"), 1).await;
    ears.hear(&topic("passing"), 1).await;

    server.stop(signal);
    assert!(two.publish(&[publication("kept", "lost")]).await.remove(0).unwrap_err().is_retryable());
    eventually("the node to say that it is deaf", async || (!bus.health().hears).then_some(())).await;
    server.begin().await;
    publish_when_possible(&two, publication("kept", "2")).await;
    publish_when_possible(&two, Publication { retention: None, ..publication("passing", "2") }).await;
    let kept = async || (texts(&ears.events(&topic("kept"))).last()? == "2").then_some(());
    eventually("what is retained", kept).await;
    let told = async || {
        let heard = texts(&ears.events(&topic("passing"))).last()? == "2";
        (heard || ears.has_gap(&topic("passing"))).then_some(())
    };
    eventually("what is not retained, or a gap", told).await;
    eventually("the node to hear", async || bus.health().hears.then_some(())).await;
    publish_when_possible(&two, publication("kept", "3")).await;
    let kept = async || (texts(&ears.events(&topic("kept"))) == ["1", "2", "3"]).then_some(());
    eventually("all, once", kept).await;
    assert!(!ears.has_gap(&topic("kept")));
    schema.drop().await;
}

#[tokio::test]
async fn a_restart_is_survived() {
    survives("-INT").await;
}

#[tokio::test]
async fn a_crash_of_the_server_is_survived() {
    survives("-QUIT").await;
}

/// A crash of one backend empties what is unlogged, and the server goes on.
#[tokio::test]
async fn a_crash_of_a_backend_is_survived() {
    let Some(server) = Server::start().await else { return };
    let schema = Schema::at(server.url());
    let (one, two) = (schema.store().await, schema.store().await);
    let (ears, _bus) = hearing(&one, &["a"]).await;
    publish(&two, publication("a", "1")).await;
    ears.hear(&topic("a"), 1).await;
    let mut victim = schema.connection().await;
    let pid: i32 = query_scalar("SELECT pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    let back = async || {
        let mut connection = PgConnection::connect(&schema.url).await.ok()?;
        let crashed = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1";
        query_scalar::<_, bool>(crashed).bind(pid).fetch_one(&mut connection).await.ok()?.then_some(())
    };
    eventually("the server to be back", back).await;
    publish_when_possible(&two, publication("a", "2")).await;
    let heard = async || (texts(&ears.events(&topic("a"))) == ["1", "2"]).then_some(());
    eventually("the event, out of the log", heard).await;
    publish_when_possible(&two, publication("a", "3")).await;
    eventually("the next", async || (ears.events(&topic("a")).len() == 3).then_some(())).await;
    schema.drop().await;
}

/// As a primary that others took over from: sessions can only read.
#[tokio::test]
async fn a_server_that_became_read_only_is_waited_for() {
    let Some(server) = Server::start().await else { return };
    let schema = Schema::at(server.url());
    let store = schema.store().await;
    publish(&store, publication("a", "1")).await;
    let mut admin = schema.connection().await;
    for (setting, works) in [("on", false), ("off", true)] {
        let alter = format!("ALTER ROLE postgres SET default_transaction_read_only = {setting}");
        query("SET default_transaction_read_only = off").execute(&mut admin).await.unwrap();
        query(strait_store_postgres::sqlx::AssertSqlSafe(alter)).execute(&mut admin).await.unwrap();
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        query(terminate).execute(&mut admin).await.unwrap();
        if works {
            publish_when_possible(&store, publication("a", "2")).await;
        } else {
            let refused = async || {
                let error = store.publish(&[publication("a", "no")]).await.remove(0).err()?;
                assert!(error.is_retryable(), "{error:?}");
                std::error::Error::source(&error)?.to_string().contains("read-only").then_some(())
            };
            eventually("the refusal", refused).await;
        }
        assert!(!store.history(&topic("a"), 10).await.unwrap().is_empty(), "reading goes on");
    }
    schema.drop().await;
}
