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

/// Two nodes; the server ends and is there again; events on retained topics are heard, the others have a gap.
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

/// A crash of one backend empties unlogged tables, and the server goes on.
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

/// As a primary after a failover: sessions can only read.
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
                error.in_full().to_string().contains("read-only").then_some(())
            };
            eventually("the refusal", refused).await;
        }
        // The pool may still hold connections that were terminated.
        let read = async || store.history(&topic("a"), 10).await.ok().filter(|events| !events.is_empty()).map(drop);
        eventually("reading to go on", read).await;
    }
    schema.drop().await;
}

/// The old primary keeps its sessions and refuses writes; new connections lead to a server that takes writes.
#[tokio::test]
async fn connections_to_a_server_that_takes_no_writes_are_made_anew() {
    let Some(server) = Server::start().await else { return };
    let schema = Schema::at(server.url());
    let store = schema.store().await;
    let (ears, _bus) = hearing(&store, &["a"]).await;
    publish(&store, publication("a", "1")).await;
    ears.hear(&topic("a"), 1).await;
    let mut admin = schema.connection().await;
    let listens = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    let listener = async |admin: &mut PgConnection| query_scalar(listens).fetch_optional(admin).await.unwrap();
    let before: i32 = eventually("LISTEN", async || listener(&mut admin).await).await;
    for sql in [
        // For later sessions, before the setting changes for all present ones.
        "ALTER ROLE postgres SET default_transaction_read_only = off",
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        query(sql).execute(&mut admin).await.unwrap();
    }
    let refuses = async || {
        let setting: String = query_scalar("SHOW default_transaction_read_only").fetch_one(&mut admin).await.unwrap();
        (setting == "on").then_some(())
    };
    eventually("sessions to be read-only", refuses).await;
    publish_when_possible(&store, publication("a", "2")).await;
    let heard = async || (texts(&ears.events(&topic("a"))) == ["1", "2"]).then_some(());
    eventually("the event", heard).await;
    let another = async || listener(&mut admin).await.filter(|pid: &i32| *pid != before);
    eventually("another LISTEN", another).await;
    schema.drop().await;
}

/// After a crash has rolled a head back to the node's last position, nothing seems to be missing.
#[tokio::test]
async fn after_a_crash_topics_without_a_log_have_a_gap_whatever_their_heads_say() {
    let Some(server) = Server::start().await else { return };
    let schema = Schema::at(server.url());
    let (one, two) = (schema.store().await, schema.store().await);
    let (ears, _bus) = hearing(&one, &["kept", "passing"]).await;
    publish(&two, publication("kept", "1")).await;
    publish(&two, Publication { retention: None, ..publication("passing", "1") }).await;
    ears.hear(&topic("kept"), 1).await;
    ears.hear(&topic("passing"), 1).await;
    // The head is on the disk, as the node knows it: a commit that waits for the disk takes all earlier ones with it.
    let mut victim = schema.connection().await;
    query("CREATE TABLE public.on_disk ()").execute(&mut victim).await.unwrap();
    let pid: i32 = query_scalar("SELECT pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    eventually("the gap", async || ears.has_gap(&topic("passing")).then_some(())).await;
    assert!(!ears.has_gap(&topic("kept")));
    schema.drop().await;
}
