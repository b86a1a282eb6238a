//! Two chats on one Redis, or on one Postgres, are one chat.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::kit::Server;
use crate::room::{join, login};

fn url(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: use `cargo xtask test-all`"))
}

/// A name of this process's own.
fn part() -> String {
    format!("chat_{}", std::process::id())
}

async fn empty_redis(url: &str) {
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_connection().expect("Redis answers");
    let mut scan = redis::cmd("SCAN");
    scan.cursor_arg(0).arg("MATCH").arg(format!("{}*", part()));
    let keys: Vec<String> = scan.iter(&mut connection).expect("Redis answers").flatten().collect();
    for key in keys {
        redis::cmd("DEL").arg(key).exec(&mut connection).expect("Redis answers");
    }
}

async fn drop_schema(url: &str) {
    let mut connection = PgConnection::connect(url).await.expect("Postgres answers");
    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", part());
    sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await.expect("it is dropped");
}

#[tokio::test]
async fn two_nodes_on_one_redis_are_one_chat() {
    let url = url("STRAIT_TEST_REDIS_URL");
    let store = format!("{url}?prefix={}:", part());
    let chatted = tokio::spawn(async move { chat_on_two_nodes(&store).await }).await;
    empty_redis(&url).await;
    chatted.expect("it was one chat");
}

#[tokio::test]
async fn two_nodes_on_one_postgres_are_one_chat() {
    let url = url("STRAIT_TEST_POSTGRES_URL");
    let store = format!("{url}?schema={}", part());
    let chatted = tokio::spawn(async move { chat_on_two_nodes(&store).await }).await;
    drop_schema(&url).await;
    chatted.expect("it was one chat");
}

async fn chat_on_two_nodes(store: &str) {
    let (one, two) = (Server::start(&["--store", store]), Server::start(&["--store", store]));
    let (mut ada, mut bob) = (join(&one, "lobby").await, join(&two, "lobby").await);
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

    // Who leaves one node has left the other one.
    bob.leave().await;
    ada.expect(r#"{"event":"left","user":"bob"}"#).await;
    assert_eq!(ada.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["ada"] }));
    // And what a node's end takes with it is gone, too.
    let mut carl = join(&two, "lobby").await;
    login(&mut carl, "carl").await;
    ada.expect(r#"{"event":"joined","user":"carl"}"#).await;
    one.signal("-TERM");
    carl.expect(r#"{"event":"left","user":"ada"}"#).await;
    assert_eq!(carl.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["carl"] }));
    drop(ada);
    assert!(one.exit().await.success());
}
