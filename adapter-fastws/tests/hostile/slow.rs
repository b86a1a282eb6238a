//! Clients that send a byte now and then, or none, and never read.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::kit::{Got, TcpClient, frame, handshake, header, text};
use crate::siege::{Siege, client, socket};
use crate::victim::Victim;

async fn in_drops(client: Option<TcpClient>, bytes: Vec<u8>) {
    let Some(mut client) = client else { return };
    for byte in bytes {
        if !client.try_send([byte]).await {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn handshakes_in_drops() {
    let request = handshake("/echo", &[("x-long", &"x".repeat(2000))]).into_bytes();
    let attack = move |address, _| {
        let request = request.clone();
        async move { in_drops(socket(address).await, request).await }
    };
    Siege { name: "300 send a request byte by byte", attackers: 300, mib: 16 }.by(attack).await;
}

#[tokio::test]
async fn frames_in_drops() {
    let message = text(&"x".repeat(60_000));
    let attack = move |address, _| {
        let message = message.clone();
        async move { in_drops(client(address, "/echo").await, message).await }
    };
    Siege { name: "300 send a message byte by byte", attackers: 300, mib: 16 }.by(attack).await;
}

#[tokio::test]
async fn sockets_that_say_nothing() {
    let attack = |address, _| async move {
        if let Some(mut client) = socket(address).await {
            client.try_next().await;
        }
    };
    // More than may be in a handshake at once: later clients find the door full.
    Siege { name: "1,500 connect and say nothing", attackers: 1_500, mib: 32 }.by(attack).await;
}

#[tokio::test]
async fn who_never_reads_replies() {
    let question = Bytes::from(text(&"x".repeat(10_000)));
    let attack = move |address, _| {
        let question = question.clone();
        async move {
            if let Some(mut client) = client(address, "/large").await {
                while client.try_send(&question).await {}
            }
        }
    };
    // 256 KiB may wait for each client, and as much again while a buffer grows.
    Siege { name: "20 ask for 20 KB again and again and never read", attackers: 20, mib: 20 }.by(attack).await;
}

#[tokio::test]
async fn who_never_reads_events() {
    let attack = |address, number| async move {
        if number == 0 {
            pour(address).await;
        } else if let Some(member) = client(address, "/listen").await {
            sleep(Duration::from_secs(1)).await;
            drop(member);
        }
    };
    Siege { name: "50 join a busy topic and never read", attackers: 51, mib: 64 }.by(attack).await;
}

/// Has 100 KB published, again and again.
async fn pour(address: SocketAddr) {
    if let Some(mut client) = client(address, "/listen").await {
        while client.try_send(text(r#"{"action":"pour"}"#)).await {
            for _ in 0..11 {
                client.try_next().await;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn who_is_slow_is_told_in_time() {
    let victim = Victim::start().await;
    let whole = text(&"x".repeat(1000));
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("in a header", whole[..3].to_vec(), "a message took too long"),
        ("in a payload", whole[..100].to_vec(), "a message took too long"),
        ("between fragments", frame(0x01, "a"), "a message took too long"),
        ("after an announcement", header(0x82, 60_000), "a message took too long"),
        ("after a message", whole.clone(), "nothing came from you for too long"),
    ];
    for (case, sent, expected) in cases {
        let mut client = victim.client("/echo").await;
        let start = Instant::now();
        client.send(&sent).await;
        let (code, reason) = client.is_closed().await;
        assert_eq!((code, &*reason), (if case == "after a message" { 1001 } else { 1008 }, expected), "{case}");
        assert!(start.elapsed() < Duration::from_secs(3), "{case}: {:?}", start.elapsed());
        assert_eq!(client.next().await, Got::End, "{case}");
    }
    victim.ends_unharmed().await;
}

/// A connection at rest holds no buffer, after any reads and writes.
#[tokio::test]
async fn idle_connections_keep_no_buffer() {
    const MANY: usize = 200;
    let mut victim = Victim::start().await;
    let message = "x".repeat(60_000);
    let (mut before, mut clients) = (0, Vec::new());
    for number in 0..2 * MANY {
        if number == MANY {
            // The first ones made the process grow to the size that it needs at work.
            before = victim.resident();
        }
        let mut client = victim.client("/honest").await;
        client.text(&message).await;
        client.expect(&message).await;
        clients.push(client);
    }
    victim.is_left_by_all_but(2 * MANY).await;
    let each = victim.resident().saturating_sub(before) as f64 / MANY as f64;
    assert!(each < 8.0, "{each} KiB a connection");
    for client in clients {
        client.leave().await;
    }
    victim.is_left_by_all().await;
    victim.ends_unharmed().await;
}
