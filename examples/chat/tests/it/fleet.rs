//! Two chats on one Redis are one chat.

use serde_json::json;

use crate::kit::Server;
use crate::room::{join, login};

/// The URL of a part of the test run's Redis that nobody else uses, emptied when it goes out of scope.
struct Part {
    url: String,
    prefix: String,
}

impl Part {
    fn new() -> Self {
        let url = std::env::var("STRAIT_TEST_REDIS_URL").expect("STRAIT_TEST_REDIS_URL: use `cargo xtask test-all`");
        let prefix = format!("chat-{}:", std::process::id());
        Self { url, prefix }
    }

    fn store(&self) -> String {
        format!("{}?prefix={}", self.url, self.prefix)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Ok(mut connection) = redis::Client::open(self.url.as_str()).and_then(|client| client.get_connection())
        else {
            return;
        };
        let mut scan = redis::cmd("SCAN");
        scan.cursor_arg(0).arg("MATCH").arg(format!("{}*", self.prefix));
        let keys: Vec<String> = scan.iter(&mut connection).map_or_else(|_| Vec::new(), |keys| keys.flatten().collect());
        for key in keys {
            let _ = redis::cmd("DEL").arg(key).exec(&mut connection);
        }
    }
}

#[tokio::test]
async fn two_nodes_are_one_chat() {
    let part = Part::new();
    let (one, two) = (Server::start(&["--store", &part.store()]), Server::start(&["--store", &part.store()]));
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
