//! Chats on one Redis, or on one Postgres, are one chat: nodes, functions, and both.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::kit::{Client, Server};
use crate::room::{join, login};

fn url(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: use `cargo xtask test-all`"))
}

/// A name for this test alone.
fn part(test: &str) -> String {
    format!("chat_{test}_{}", std::process::id())
}

/// Runs a chat on a part of the test run's Redis that no other test uses, and empties it.
pub(crate) async fn on_redis<F: Future<Output = ()> + Send + 'static>(test: &str, chat: impl FnOnce(String) -> F) {
    let (url, part) = (url("STRAIT_TEST_REDIS_URL"), part(test));
    let chatted = tokio::spawn(chat(format!("{url}?prefix={part}:"))).await;
    empty_redis(&url, &part);
    chatted.expect("it was one chat");
}

/// As [`on_redis`], in a schema of its own.
pub(crate) async fn on_postgres<F: Future<Output = ()> + Send + 'static>(test: &str, chat: impl FnOnce(String) -> F) {
    let (url, part) = (url("STRAIT_TEST_POSTGRES_URL"), part(test));
    let chatted = tokio::spawn(chat(format!("{url}?schema={part}"))).await;
    drop_schema(&url, &part).await;
    chatted.expect("it was one chat");
}

fn empty_redis(url: &str, part: &str) {
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_connection().expect("Redis answers");
    let mut scan = redis::cmd("SCAN");
    scan.cursor_arg(0).arg("MATCH").arg(format!("{part}*"));
    let keys: Vec<String> = scan.iter(&mut connection).expect("Redis answers").flatten().collect();
    for key in keys {
        redis::cmd("DEL").arg(key).exec(&mut connection).expect("Redis answers");
    }
}

async fn drop_schema(url: &str, part: &str) {
    let mut connection = PgConnection::connect(url).await.expect("Postgres answers");
    let drop = format!("DROP SCHEMA IF EXISTS {part} CASCADE");
    sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await.expect("it is dropped");
}

#[tokio::test]
async fn two_nodes_on_one_redis_are_one_chat() {
    on_redis("nodes", chat_on_two_nodes).await;
}

#[tokio::test]
async fn two_nodes_on_one_postgres_are_one_chat() {
    on_postgres("nodes", chat_on_two_nodes).await;
}

/// Ada on one side and Bob on the other one are in one room.
async fn are_one_chat(one: &Server, two: &Server) -> (Client, Client) {
    let (mut ada, mut bob) = (join(one, "lobby").await, join(two, "lobby").await);
    login(&mut ada, "ada").await;
    bob.expect(r#"{"event":"joined","user":"ada"}"#).await;
    login(&mut bob, "bob").await;
    ada.expect(r#"{"event":"joined","user":"bob"}"#).await;

    let at = ada.ask(r#"{"action":"post","text":"hello"}"#).await["at"].as_u64().expect("milliseconds");
    let event = json!({ "event": "posted", "user": "ada", "text": "hello", "at": at });
    assert_eq!(ada.json().await, event);
    assert_eq!(bob.json().await, event);
    let message = json!({ "user": "ada", "text": "hello", "at": at });
    assert_eq!(bob.ask(r#"{"action":"history"}"#).await, json!({ "action": "history", "messages": [message] }));
    for client in [&mut ada, &mut bob] {
        assert_eq!(client.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["ada", "bob"] }));
    }
    (ada, bob)
}

async fn chat_on_two_nodes(store: String) {
    let (one, two) = (Server::start(&["--store", &store]), Server::start(&["--store", &store]));
    let (mut ada, bob) = are_one_chat(&one, &two).await;
    // A user that leaves one node has left the other one.
    bob.leave().await;
    ada.expect(r#"{"event":"left","user":"bob"}"#).await;
    assert_eq!(ada.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["ada"] }));
    // Users on a node that ends are gone, too.
    let mut carl = join(&two, "lobby").await;
    login(&mut carl, "carl").await;
    ada.expect(r#"{"event":"joined","user":"carl"}"#).await;
    one.signal("-TERM");
    carl.expect(r#"{"event":"left","user":"ada"}"#).await;
    assert_eq!(carl.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["carl"] }));
    drop(ada);
    assert!(one.exit().await.success());
}

/// Its runtimes end one after the other, and each has used the database.
#[tokio::test]
async fn a_node_with_a_runtime_a_core_leaves_nothing_in_postgres() {
    on_postgres("runtimes", async |store: String| {
        let node = Server::start(&["--store", &store]);
        let mut clients = Vec::new();
        for _ in 0..16 {
            clients.push(join(&node, "lobby").await);
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(format!(r#"{{"action":"login","nickname":"guest {n}"}}"#)).await;
            while client.json().await["action"] != "login" {}
        }
        for client in &mut clients {
            client.send(r#"{"action":"post","text":"hello"}"#).await;
        }
        for client in &mut clients {
            while client.json().await["action"] != "post" {}
        }
        node.signal("-TERM");
        drop(clients);
        assert!(node.exit().await.success());
        let (url, schema) = store.split_once("?schema=").expect("a schema");
        let mut connection = PgConnection::connect(url).await.expect("Postgres answers");
        for table in ["hearer", "interest", "mail", "node", "channel", "member"] {
            let count = AssertSqlSafe(format!("SELECT count(*) FROM {schema}.{table}"));
            let left: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.expect("it counts");
            assert_eq!(left, 0, "{table}");
        }
    })
    .await;
}

#[cfg(feature = "lambda")]
mod functions {
    use super::*;

    #[tokio::test]
    async fn functions_on_one_redis_are_one_chat() {
        on_redis("functions", chat_on_functions).await;
    }

    #[tokio::test]
    async fn functions_on_one_postgres_are_one_chat() {
        on_postgres("functions", chat_on_functions).await;
    }

    #[tokio::test]
    async fn nodes_and_functions_on_one_redis_are_one_chat() {
        on_redis("mixed", chat_on_nodes_and_functions).await;
    }

    #[tokio::test]
    async fn nodes_and_functions_on_one_postgres_are_one_chat() {
        on_postgres("mixed", chat_on_nodes_and_functions).await;
    }

    async fn chat_on_functions(store: String) {
        let functions = Server::lambda(&store, 3, 1).await;
        let (mut ada, bob) = are_one_chat(&functions, &functions).await;
        bob.leave().await;
        ada.expect(r#"{"event":"left","user":"bob"}"#).await;
        assert_eq!(ada.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["ada"] }));
    }

    async fn chat_on_nodes_and_functions(store: String) {
        let functions = Server::lambda(&store, 2, 1).await;
        let node = Server::start_with(&["--store", &store, "--gateway"], &functions.variables());
        let (mut ada, bob) = are_one_chat(&node, &functions).await;
        bob.leave().await;
        ada.expect(r#"{"event":"left","user":"bob"}"#).await;
        let mut carl = join(&functions, "lobby").await;
        login(&mut carl, "carl").await;
        ada.expect(r#"{"event":"joined","user":"carl"}"#).await;
        ada.leave().await;
        carl.expect(r#"{"event":"left","user":"ada"}"#).await;
        assert_eq!(carl.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["carl"] }));
    }
}
