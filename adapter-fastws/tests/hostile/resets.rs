//! Clients that go at any step of a connection, with and without a word.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::kit::{Got, TcpClient, close, frame, handshake, ping, text};
use crate::victim::{PAUSE, Victim};

/// The way in which a client goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Its kernel sends a reset.
    Reset,
    /// Its kernel sends a FIN, and a reset when more bytes come from the server.
    Drop,
    /// The client sends no more, but goes on reading.
    Shut,
}

const WAYS: [Way; 3] = [Way::Reset, Way::Drop, Way::Shut];

/// Sockets that were shut down must be read to their end.
async fn go(mut client: TcpClient, way: Way, waiting: &mut Vec<TcpClient>) {
    match way {
        Way::Reset => client.reset(),
        Way::Drop => drop(client),
        Way::Shut => {
            // The server may have closed the socket already.
            let _ = client.socket.shutdown().await;
            waiting.push(client);
        }
    }
}

async fn see_their_end(waiting: Vec<TcpClient>) {
    for mut client in waiting {
        while !matches!(client.try_next().await, None | Some(Got::End)) {}
    }
}

/// Times at which a client may go: at once, a little later, in the middle, or at the end of a handler's [`PAUSE`].
async fn moment(at: u32) {
    match at % 4 {
        0 => {}
        1 => tokio::task::yield_now().await,
        2 => sleep(PAUSE / 2).await,
        _ => sleep(PAUSE).await,
    }
}

#[tokio::test]
async fn within_a_request() {
    let mut victim = Victim::start().await;
    let request = handshake("/echo", &[]).into_bytes();
    for way in WAYS {
        let mut waiting = Vec::new();
        for end in (0..=request.len()).step_by(3).chain([request.len() - 1, request.len()]) {
            let mut client = victim.socket().await;
            client.try_send(&request[..end]).await;
            match way {
                // The server answers in HTTP, not in frames.
                Way::Shut => drop(client.socket.shutdown().await),
                Way::Reset | Way::Drop => go(client, way, &mut waiting).await,
            }
        }
        victim.is_left_by_all().await;
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn while_it_is_authenticated_or_let_in() {
    let mut victim = Victim::start().await;
    for path in ["/authenticating", "/connecting"] {
        for way in WAYS {
            let mut waiting = Vec::new();
            for round in 0..12 {
                let mut client = victim.socket().await;
                client.send(handshake(path, &[])).await;
                moment(round).await;
                if round % 3 == 2 {
                    client.try_answer().await;
                }
                match way {
                    Way::Shut => drop(client.socket.shutdown().await),
                    Way::Reset | Way::Drop => go(client, way, &mut waiting).await,
                }
            }
            victim.is_left_by_all().await;
        }
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn while_a_handler_runs() {
    let mut victim = Victim::start().await;
    for path in ["/handling", "/stuck"] {
        for way in WAYS {
            let mut waiting = Vec::new();
            for round in 0..12 {
                let mut client = victim.client(path).await;
                // More than one message, so that some wait.
                client.send(text("a message").repeat(1 + round as usize % 3)).await;
                moment(round).await;
                go(client, way, &mut waiting).await;
            }
            see_their_end(waiting).await;
            victim.is_left_by_all().await;
        }
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn within_messages_and_closes_at_every_byte() {
    let mut victim = Victim::start().await;
    let sent = [text("a message"), frame(1, "a part"), ping(b"a ping"), frame(0x80, "the rest"), close(1000, "bye")];
    let sent = sent.concat();
    for way in WAYS {
        let mut waiting = Vec::new();
        for end in 0..=sent.len() {
            let mut client = victim.client("/echo").await;
            client.send(&sent[..end]).await;
            moment(end as u32 % 2).await;
            go(client, way, &mut waiting).await;
        }
        see_their_end(waiting).await;
        victim.is_left_by_all().await;
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn while_the_server_closes() {
    let mut victim = Victim::start().await;
    for way in WAYS {
        let mut waiting = Vec::new();
        for round in 0..12 {
            let mut client = victim.client("/echo").await;
            client.send(frame(0xff, "wrong")).await;
            match round % 3 {
                0 => {}
                1 => assert_eq!(client.is_closed().await.0, 1002),
                _ => {
                    assert_eq!(client.is_closed().await.0, 1002);
                    client.try_send(&close(1002, "")[..3]).await;
                }
            }
            go(client, way, &mut waiting).await;
        }
        see_their_end(waiting).await;
        victim.is_left_by_all().await;
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn with_replies_unread() {
    let mut victim = Victim::start().await;
    let question = text(&"x".repeat(20_000)).repeat(60);
    for way in [Way::Reset, Way::Drop] {
        for _ in 0..10 {
            let mut client = victim.narrow_client("/large").await;
            let filled = async { while client.try_send(&question).await {} };
            let _ = tokio::time::timeout(Duration::from_millis(20), filled).await;
            go(client, way, &mut Vec::new()).await;
        }
        victim.is_left_by_all().await;
    }
    victim.ends_unharmed().await;
}
