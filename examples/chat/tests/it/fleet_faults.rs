//! Faults of a fleet: nodes die and Redis goes away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use strait_store_redis::testkit;
use tokio_tungstenite::tungstenite::Message;

use crate::kit::{Client, Server};

/// The nodes' lease.
const LEASE: Duration = Duration::from_millis(1000);
/// A client's part of a handshake.
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn node(redis: &testkit::Server) -> Server {
    let url = format!("{}/0?command_timeout=300&connect_timeout=300", redis.url());
    Server::start(&["--store", &url, "--lease", &LEASE.as_millis().to_string()])
}

/// Joins, logs in, and drops the events that others get of it.
async fn guest(server: &Server, nickname: &str) -> Client {
    let mut client = server.client("/rooms/lobby").await;
    client.json().await;
    client.send(format!(r#"{{"action":"login","nickname":"{nickname}"}}"#)).await;
    while client.json().await["action"] != "login" {}
    client
}

/// Asks, and reads on to the answer.
async fn ask(client: &mut Client, action: &str, request: &str) -> Value {
    client.send(request).await;
    loop {
        let answer = client.json().await;
        if answer["action"] == action {
            return answer;
        }
    }
}

async fn eventually(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < limit, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn are_sent_away<const N: usize>(clients: [&mut Client; N]) {
    for client in clients {
        loop {
            match client.next().await {
                Message::Close(close) => {
                    assert_eq!(close.map(|close| u16::from(close.code)), Some(1012));
                    break;
                }
                Message::Text(_) => {}
                other => panic!("{other:?} instead of a close"),
            }
        }
    }
}

/// Clients of both nodes see each other, and nothing of earlier clients.
async fn are_one_chat(one: &Server, two: &Server) {
    let (mut carl, mut dora) = (guest(one, "carl").await, guest(two, "dora").await);
    carl.send(r#"{"action":"typing"}"#).await;
    while dora.json().await != serde_json::json!({ "event": "typing", "user": "carl" }) {}
    let who = ask(&mut dora, "who", r#"{"action":"who"}"#).await;
    assert_eq!(who["users"], serde_json::json!(["carl", "dora"]), "nothing is left of who was there before");
}

#[tokio::test]
async fn the_channels_of_a_killed_node_end_once_each_and_soon() {
    let redis = testkit::Server::start(&[]).await;
    let (doomed, left) = (node(&redis), node(&redis));
    let mut watcher = guest(&left, "watcher").await;
    let (mut victims, mut survivors) = (Vec::new(), Vec::new());
    for n in 0..20 {
        victims.push(guest(&doomed, &format!("victim {n}")).await);
        survivors.push(guest(&left, &format!("survivor {n}")).await);
    }
    // Load, on both nodes.
    for client in victims.iter_mut().chain(&mut survivors) {
        for _ in 0..5 {
            client.send(r#"{"action":"typing"}"#).await;
        }
    }
    doomed.signal("-KILL");
    let killed = Instant::now();
    let mut gone = BTreeMap::<String, usize>::new();
    while gone.len() < 20 {
        let event = watcher.json().await;
        if event["event"] == "left" {
            *gone.entry(event["user"].as_str().expect("a name").to_owned()).or_default() += 1;
        }
    }
    eprintln!("kill -9: 20 channels have ended after {:?}", killed.elapsed());
    // A lease, and the time until a janitor looks.
    assert!(killed.elapsed() < LEASE * 3, "{:?}", killed.elapsed());
    // A client that leaves after them is reported after them.
    survivors.pop().expect("the last one").leave().await;
    loop {
        let event = watcher.json().await;
        if event["event"] == "left" {
            let user = event["user"].as_str().expect("a name").to_owned();
            if user == "survivor 19" {
                break;
            }
            *gone.entry(user).or_default() += 1;
        }
    }
    assert!(gone.values().all(|times| *times == 1), "{gone:?}");
    assert!(gone.keys().all(|user| user.starts_with("victim")), "{gone:?}");
    let who = ask(&mut watcher, "who", r#"{"action":"who"}"#).await;
    assert_eq!(who["users"].as_array().expect("a list").len(), 20, "{who}");
}

#[tokio::test]
async fn while_redis_is_away_sockets_stay_and_afterwards_everything_goes_on() {
    let mut redis = testkit::Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let (one, two) = (node(&redis), node(&redis));
    let (mut ada, mut bob) = (guest(&one, "ada").await, guest(&two, "bob").await);
    for outage in [LEASE / 4, LEASE * 2] {
        redis.kill();
        let began = Instant::now();
        // As long as the lease surely holds, calls that need the store are refused soon.
        let answer = ask(&mut ada, "post", r#"{"action":"post","text":"to nobody"}"#).await;
        assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
        assert!(began.elapsed() < LEASE, "{:?}", began.elapsed());
        let head = one.head("/rooms/lobby", UPGRADE).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.to_lowercase().contains("\r\nretry-after: "), "{head}");
        assert!(one.head("/healthz", "").await.starts_with("HTTP/1.1 200"));
        eventually("readiness to be red", LEASE * 2, async || {
            one.head("/readyz", "").await.starts_with("HTTP/1.1 503")
        })
        .await;
        tokio::time::sleep(outage.saturating_sub(began.elapsed())).await;
        // A longer outage than the lease suspends handling: this is answered when it is over.
        if outage > LEASE {
            ada.send(r#"{"action":"history"}"#).await;
            while let Some(message) = ada.within(LEASE / 4).await {
                assert!(!message.to_text().expect("text").contains("history"), "handled without a lease");
            }
        }
        redis.run().await;
        for server in [&one, &two] {
            eventually("readiness to be green", Duration::from_secs(10), async || {
                server.head("/readyz", "").await.starts_with("HTTP/1.1 200")
            })
            .await;
        }
        if outage > LEASE {
            while ada.json().await["action"] != "history" {}
        }
        let text = format!("after {outage:?}");
        let post = serde_json::json!({ "action": "post", "text": text }).to_string();
        let answer = ask(&mut ada, "post", &post).await;
        assert!(answer["at"].is_u64(), "{answer}");
        loop {
            let event = bob.json().await;
            if event["event"] == "posted" {
                assert_eq!(event["text"], text);
                break;
            }
            assert_ne!(event["event"], "left", "nobody has left");
        }
    }
}

#[tokio::test]
async fn after_a_wipe_clients_are_sent_away_and_served_again() {
    let redis = testkit::Server::start(&[]).await;
    let (one, two) = (node(&redis), node(&redis));
    let (mut ada, mut bob) = (guest(&one, "ada").await, guest(&two, "bob").await);
    let _: String = redis.ask(&["FLUSHALL"]).await;
    are_sent_away([&mut ada, &mut bob]).await;
    are_one_chat(&one, &two).await;
}

#[tokio::test]
async fn after_an_outage_longer_than_the_lease_with_all_data_lost_clients_are_served_again() {
    let mut redis = testkit::Server::start(&[]).await;
    let (one, two) = (node(&redis), node(&redis));
    let (mut ada, mut bob) = (guest(&one, "ada").await, guest(&two, "bob").await);
    redis.kill();
    tokio::time::sleep(LEASE * 2).await;
    redis.run().await;
    are_sent_away([&mut ada, &mut bob]).await;
    for server in [&one, &two] {
        eventually("readiness to be green", Duration::from_secs(10), async || {
            server.head("/readyz", "").await.starts_with("HTTP/1.1 200")
        })
        .await;
    }
    are_one_chat(&one, &two).await;
}
