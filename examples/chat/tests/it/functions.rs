//! Faults of a function's processes: they are killed, and frozen between invocations.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use strait_store_redis::testkit;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::kit::Server;

fn signal(processes: &[u32], signal: &str) {
    for process in processes {
        let sent = Command::new("kill").args([signal, &process.to_string()]).status().expect("kill runs");
        assert!(sent.success(), "{signal} {process}");
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn processes(chat: &Server) -> Vec<u32> {
    eventually("it runs", || !chat.gateway().processes().is_empty() && chat.gateway().is_idle()).await;
    chat.gateway().processes()
}

/// The fate of connections while a process is frozen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Lives,
    /// The other side closes.
    Closed,
    /// A middlebox forgets the connection, without notice.
    Forgotten,
}

/// Stands between the function and its store.
struct Between {
    address: SocketAddr,
    fate: watch::Sender<Fate>,
}

impl Between {
    async fn start(store: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (address, fate) = (listener.local_addr().expect("an address"), watch::Sender::new(Fate::Lives));
        let fates = fate.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut fate = fates.subscribe();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(store).await.expect("the store is there");
                    let fate = tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => Fate::Closed,
                        changed = fate.changed() => changed.map_or(Fate::Closed, |()| *fate.borrow()),
                    };
                    if fate == Fate::Forgotten {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, fate }
    }
}

/// Lambda freezes a process between invocations, for as long as it likes.
async fn the_first_invocation_after_a_freeze_works(fate: Fate) {
    let redis = testkit::Server::start(&[]).await;
    let between = Between::start(redis.address()).await;
    let chat = Server::lambda(&format!("redis://{}", between.address), 1, 1).await;
    let processes = processes(&chat).await;
    let mut client = chat.client("/rooms/lobby").await;
    client.expect(r#"{"messages":[]}"#).await;
    client.send(r#"{"action":"login","nickname":"ada"}"#).await;
    client.expect(r#"{"action":"login"}"#).await;
    client.expect(r#"{"event":"joined","user":"ada"}"#).await;
    signal(&processes, "-STOP");
    between.fate.send_replace(fate);
    let began = Instant::now();
    client.send(r#"{"action":"post","text":"after"}"#).await;
    signal(&processes, "-CONT");
    let answer = client.json().await;
    assert_eq!(answer["action"], "post", "{answer}");
    assert_eq!(answer.get("error"), None, "{answer}");
    eprintln!("{fate:?}: answered {:?} after a freeze", began.elapsed());
    assert_eq!(client.json().await["event"], "posted");
    let history = client.ask(r#"{"action":"history"}"#).await;
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(1), "{history}");
}

#[tokio::test]
async fn after_a_freeze_connections_that_were_closed_are_made_anew() {
    the_first_invocation_after_a_freeze_works(Fate::Closed).await;
}

#[tokio::test]
async fn after_a_freeze_connections_that_were_forgotten_are_made_anew() {
    the_first_invocation_after_a_freeze_works(Fate::Forgotten).await;
}

#[tokio::test]
async fn a_process_that_is_killed_fails_its_invocation_at_once_and_the_next_one_works() {
    let redis = testkit::Server::start(&[]).await;
    let chat = Server::lambda(&redis.url(), 1, 1).await;
    let mut client = chat.client("/rooms/lobby").await;
    client.expect(r#"{"messages":[]}"#).await;
    let processes = processes(&chat).await;
    eventually("it has nothing to do", || chat.gateway().is_idle()).await;
    // By now it asks for the next event.
    tokio::time::sleep(Duration::from_millis(300)).await;
    signal(&processes, "-STOP");
    client.send(r#"{"action":"who"}"#).await;
    // It was asking for an event, so it has this one.
    eventually("it has the message", || !chat.gateway().is_idle()).await;
    signal(&processes, "-KILL");
    let began = Instant::now();
    assert_eq!(client.json().await["message"], "Internal server error");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(client.ask(r#"{"action":"who"}"#).await["users"], json!([]));
}
