use std::sync::Arc;

use serde_json::{Value, json};
use strait_core::store::StoreErrorKind;
use strait_core::testkit::{Fault, Faults, Faulty};
use strait_store_memory::MemoryStore;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::kit::{Client, Server, on_every_deployment};

pub(crate) async fn join(server: &Server, room: &str) -> Client {
    let mut client = server.client(&format!("/rooms/{room}")).await;
    assert!(client.json().await["messages"].is_array(), "who joins is shown the last messages");
    client
}

pub(crate) async fn login(client: &mut Client, nickname: &str) {
    client.send(json!({ "action": "login", "nickname": nickname }).to_string()).await;
    client.expect(r#"{"action":"login"}"#).await;
    client.expect(&format!(r#"{{"event":"joined","user":"{nickname}"}}"#)).await;
}

async fn two_clients_chat(server: Server) {
    let (mut ada, mut bob) = (join(&server, "lobby").await, join(&server, "lobby").await);
    login(&mut ada, "ada").await;
    bob.expect(r#"{"event":"joined","user":"ada"}"#).await;
    login(&mut bob, "bob").await;
    ada.expect(r#"{"event":"joined","user":"bob"}"#).await;

    ada.send(r#"{"action":"typing"}"#).await;
    ada.expect(r#"{"action":"typing"}"#).await;
    ada.expect(r#"{"event":"typing","user":"ada"}"#).await;
    bob.expect(r#"{"event":"typing","user":"ada"}"#).await;

    let posted = ada.ask(r#"{"action":"post","text":"hello, \"bob\""}"#).await;
    let at = posted["at"].as_u64().expect("milliseconds");
    let event = json!({ "event": "posted", "user": "ada", "text": "hello, \"bob\"", "at": at });
    assert_eq!(ada.json().await, event, "to the poster too, after the reply");
    assert_eq!(bob.json().await, event);

    let message = json!({ "user": "ada", "text": "hello, \"bob\"", "at": at });
    assert_eq!(bob.ask(r#"{"action":"history"}"#).await, json!({ "action": "history", "messages": [message] }));
    assert_eq!(bob.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["ada", "bob"] }));
    let mut late = server.client("/rooms/lobby").await;
    assert_eq!(late.json().await, json!({ "messages": [message] }));

    bob.leave().await;
    ada.expect(r#"{"event":"left","user":"bob"}"#).await;
    assert_eq!(ada.ask(r#"{"action":"who"}"#).await, json!({ "action": "who", "users": ["ada"] }));
}

async fn a_long_history_comes_in_pages(server: Server) {
    let mut ada = join(&server, "library").await;
    login(&mut ada, "ada").await;
    // Four bytes a character, so that 20 messages are more than one page.
    for number in 10..30 {
        let text = format!("{number}{}", "\u{1f4da}".repeat(1_998));
        let post = json!({ "action": "post", "text": text });
        assert!(ada.ask(&post.to_string()).await["error"].is_null());
        assert_eq!(ada.json().await["event"], "posted");
    }
    let mut numbers: Vec<String> = Vec::new();
    let (mut ask, mut pages) = (json!({ "action": "history" }), 0);
    loop {
        ada.send(ask.to_string()).await;
        let answer = ada.next().await.into_text().expect("text");
        assert!(answer.len() < 128 * 1024, "{}", answer.len());
        let page: Value = serde_json::from_str(&answer).expect("JSON");
        let messages = page["messages"].as_array().expect("messages").iter();
        let shown = messages.map(|message| message["text"].as_str().expect("text")[..2].to_owned());
        numbers.splice(0..0, shown.collect::<Vec<_>>());
        pages += 1;
        let Some(before) = page["before"].as_u64() else { break };
        ask = json!({ "action": "history", "before": before });
    }
    assert_eq!(numbers, (10..30).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(pages, 2);
    assert_eq!(server.client("/rooms/library").await.json().await["messages"].as_array().map(Vec::len), Some(12));
}

async fn rooms_are_apart(server: Server) {
    let (mut tea, mut coffee) = (join(&server, "tea%20%26%20cake").await, join(&server, "coffee").await);
    login(&mut tea, "ada").await;
    assert_eq!(coffee.ask(r#"{"action":"who"}"#).await["users"], json!([]));
    let mut other = server.client("/rooms/tea%20%26%20%63ake").await;
    other.json().await;
    assert_eq!(other.ask(r#"{"action":"who"}"#).await["users"], json!(["ada"]));
}

async fn what_is_not_allowed_is_answered_and_the_channel_stays_open(server: Server) {
    let mut client = join(&server, "lobby").await;
    let code = |answer: Value| answer["error"]["code"].as_str().unwrap_or_default().to_owned();
    assert_eq!(code(client.ask(r#"{"action":"post","text":"x"}"#).await), "unauthenticated");
    assert_eq!(code(client.ask(r#"{"action":"typing"}"#).await), "unauthenticated");
    assert_eq!(code(client.ask(r#"{"action":"login","nickname":"  "}"#).await), "invalid");
    assert_eq!(code(client.ask(r#"{"action":"login","nickname":7}"#).await), "invalid");
    assert_eq!(code(client.ask(r#"{"action":"toString"}"#).await), "unknown_route");
    login(&mut client, "ada").await;
    assert_eq!(code(client.ask(r#"{"action":"post","text":""}"#).await), "invalid");
}

async fn another_nickname_is_told_as_leaving_and_joining(server: Server) {
    let (mut client, mut other) = (join(&server, "lobby").await, join(&server, "lobby").await);
    login(&mut client, "ada").await;
    other.expect(r#"{"event":"joined","user":"ada"}"#).await;
    client.send(r#"{"action":"login","nickname":"grace"}"#).await;
    other.expect(r#"{"event":"left","user":"ada"}"#).await;
    other.expect(r#"{"event":"joined","user":"grace"}"#).await;
    assert_eq!(other.ask(r#"{"action":"who"}"#).await["users"], json!(["grace"]));
}

/// An operation that the store refuses once, at each step of a login.
#[tokio::test]
async fn a_login_that_failed_half_way_is_told_once_it_is_repeated() {
    let faults = Faults::new();
    let store = Faulty::new(Arc::new(MemoryStore::new()), faults.clone());
    let server = strait_adapter_fastws::Server::new(chat::app().store(store).build().expect("it can be built"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(server.serve(listener));
    let client = async || {
        let stream = TcpStream::connect(address).await.expect("it listens");
        let mut client = Client::open(stream, &format!("ws://{address}/rooms/lobby")).await;
        client.json().await;
        client
    };
    let mut bob = client().await;
    for step in ["write", "subscribe", "publish"] {
        let mut ada = client().await;
        faults.next(step, 1, &Fault::Refuse(StoreErrorKind::Unavailable));
        let answer = ada.ask(r#"{"action":"login","nickname":"ada"}"#).await;
        assert_eq!(answer["error"]["code"], "unavailable", "{step}: {answer}");
        login(&mut ada, "ada").await;
        bob.expect(r#"{"event":"joined","user":"ada"}"#).await;
        // A third login has nothing to announce.
        ada.send(r#"{"action":"login","nickname":"ada"}"#).await;
        ada.expect(r#"{"action":"login"}"#).await;
        ada.leave().await;
        bob.expect(r#"{"event":"left","user":"ada"}"#).await;
    }
}

on_every_deployment! { [], two_clients_chat a_long_history_comes_in_pages rooms_are_apart what_is_not_allowed_is_answered_and_the_channel_stays_open another_nickname_is_told_as_leaving_and_joining }

#[tokio::test]
async fn binary_is_echoed() {
    let server = Server::start(&[]);
    let mut client = join(&server, "lobby").await;
    client.send(Message::binary(vec![0, 159, 255])).await;
    assert_eq!(client.next().await, Message::binary(vec![0, 159, 255]));
}
