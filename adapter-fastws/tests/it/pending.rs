//! Sockets that have not become connections: they are cut off in time, and take no other client's place meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strait_adapter_fastws::{Runtimes, Server, ServerLimits};
use strait_core::App;
use tokio::time::Instant;

use crate::kit::{Gate, Node, TcpClient, echo, handshake, serve_with, server_limits, store, until};

fn impatient(server: Server) -> Server {
    let limit = Duration::from_millis(100);
    server.limits(ServerLimits { handshake: limit, keep_alive: limit, ..server_limits() })
}

#[tokio::test]
async fn who_does_not_come_to_the_point_is_cut_off() {
    let node = serve_with(App::new().endpoint(echo("/echo")), impatient).await;
    let request = handshake("/echo", &[]);
    let page = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let body = "POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nno more";
    let cases = [
        ("nothing at all", String::new(), 0),
        ("a part of the request line", request[..9].to_owned(), 0),
        ("a part of the headers", request[..60].to_owned(), 0),
        ("all but the last byte", request[..request.len() - 1].to_owned(), 0),
        ("a page, and then nothing", page.to_owned(), 1),
        ("a page, and then a part of the next request", format!("{page}GET"), 1),
        ("a body that does not come", body.to_owned(), 1),
    ];
    for (case, sent, answers) in cases {
        let start = Instant::now();
        let mut client = node.socket().await;
        client.send(sent).await;
        for _ in 0..answers {
            client.answer().await;
        }
        if let Some(answer) = client.try_answer().await {
            assert_eq!(answer.status, 408, "{case}");
            assert!(client.try_answer().await.is_none(), "{case}");
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{case} took {:?}", start.elapsed());
    }
    node.end().await;
}

#[tokio::test]
async fn a_request_that_comes_in_drops_is_cut_off() {
    let node = serve_with(App::new().endpoint(echo("/echo")), impatient).await;
    let mut client = node.socket().await;
    let start = Instant::now();
    for byte in handshake("/echo", &[]).as_bytes() {
        if !client.try_send([*byte]).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(client.try_answer().await.map(|answer| answer.status), Some(101));
    assert!(start.elapsed() < Duration::from_secs(4));
    node.end().await;
}

/// A limit longer than a test: no slow client is cut off.
async fn few(most: usize) -> Node {
    let limits = ServerLimits { handshakes: most, handshake: Duration::from_secs(60), ..server_limits() };
    serve_with(App::new().endpoint(echo("/echo")), |server| server.limits(limits)).await
}

async fn is_cut_off(client: &mut TcpClient) {
    assert!(client.try_answer().await.is_none());
}

#[tokio::test]
async fn sockets_that_say_nothing_keep_nobody_out() {
    let node = few(8).await;
    // Sockets with a channel do not count.
    let open = [node.client("/echo").await, node.client("/echo").await];
    let mut silent = Vec::new();
    for at in 0..100 {
        let mut client = node.socket().await;
        if at % 2 == 0 {
            client.try_send(&handshake("/echo", &[]).as_bytes()[..at]).await;
        }
        silent.push(client);
        if at % 10 == 9 {
            let mut honest = node.client("/echo").await;
            honest.text("let in").await;
            honest.expect("let in").await;
            honest.leave().await;
        }
    }
    for client in &mut silent[..92] {
        is_cut_off(client).await;
    }
    for client in open {
        client.leave().await;
    }
    drop(silent);
    node.end().await;
}

#[tokio::test]
async fn the_one_that_has_been_quiet_for_longest_makes_room() {
    let node = few(2).await;
    let page = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut asks = node.socket().await;
    asks.send(page).await;
    assert_eq!(asks.answer().await.status, 200);
    let mut silent = node.socket().await;
    // It came first, and asked last: the server has taken its answer for given before it knows that.
    asks.send(page).await;
    assert_eq!(asks.answer().await.status, 200);
    let third = node.client("/echo").await;
    is_cut_off(&mut silent).await;
    asks.send(page).await;
    assert_eq!(asks.answer().await.status, 200);
    third.leave().await;
    node.end().await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_keeps_nobody_out() {
    let big = axum::Router::new().route("/big", axum::routing::get(|| async { "x".repeat(32 << 20) }));
    let limits = ServerLimits { handshakes: 2, handshake: Duration::from_secs(60), ..server_limits() };
    let app = App::new().endpoint(echo("/echo"));
    let node = serve_with(app, |server| server.limits(limits).fallback(big)).await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut client = node.narrow_socket().await;
        client.send("GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await;
        stalled.push(client);
    }
    node.client("/echo").await.leave().await;
    drop(stalled);
    node.end().await;
}

/// An orchestrator that asks `/healthz` kills a node that does not answer.
#[tokio::test]
async fn slow_authentication_keeps_no_plain_request_waiting() {
    let gate = Gate::shut();
    let (waiting, asked) = (gate.clone(), Gate::shut());
    let asking = asked.clone();
    let slow = echo("/echo").authenticate(move || {
        let (gate, asking) = (waiting.clone(), asking.clone());
        async move {
            asking.let_in(1);
            gate.pass().await;
        }
    });
    let limits = ServerLimits { handshakes: 2, handshake: Duration::from_secs(60), ..server_limits() };
    let node = serve_with(App::new().endpoint(slow), |server| server.limits(limits)).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = node.socket().await;
        client.send(handshake("/echo", &[])).await;
        asked.pass().await;
        clients.push(client);
    }
    // More sockets than seats: the silent ones are closed, but not those under authentication.
    for _ in 0..5 {
        let mut asks = node.socket().await;
        asks.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(asks.answer().await.status, 200);
    }
    let mut third = node.socket().await;
    for _ in 0..2 {
        third.send(handshake("/echo", &[])).await;
        let answer = third.answer().await;
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some());
    }
    gate.let_in(3);
    for mut client in clients {
        client.is_let_in().await;
        client.leave().await;
    }
    third.send(handshake("/echo", &[])).await;
    third.is_let_in().await;
    third.leave().await;
    node.end().await;
}

#[tokio::test]
async fn more_sockets_than_a_second_brings_wait_and_are_let_in() {
    let start = Instant::now();
    let limits = ServerLimits { accepts_per_second: 20, ..server_limits() };
    let node = serve_with(App::new().endpoint(echo("/echo")), |server| server.limits(limits)).await;
    let mut clients = Vec::new();
    for _ in 0..25 {
        clients.push(node.client("/echo").await);
    }
    // Twenty sockets are cut off at once, and then one each 50 ms.
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    for client in clients {
        client.leave().await;
    }
    node.end().await;
}

#[tokio::test]
async fn runtimes_share_the_room() {
    let app = App::new().endpoint(echo("/echo")).store(store()).build().expect("it is well formed");
    let limits = ServerLimits { handshakes: 4, handshake: Duration::from_secs(60), ..server_limits() };
    let server = Server::new(app.clone()).limits(limits);
    let (handle, (told, address)) = (server.handle(), std::sync::mpsc::channel());
    let threads = Runtimes::Threads(2.try_into().expect("two"));
    let served = std::thread::spawn(move || {
        server.run(([127, 0, 0, 1], 0).into(), threads, move |at| told.send(at).expect("it is awaited"))
    });
    let address = address.recv().expect("it listens");
    let socket = async || TcpClient::new(tokio::net::TcpStream::connect(address).await.expect("it listens"));
    let cut_off = Arc::new(AtomicUsize::new(0));
    let mut silent = Vec::new();
    for _ in 0..40 {
        let (mut client, cut_off) = (socket().await, Arc::clone(&cut_off));
        silent.push(tokio::spawn(async move {
            is_cut_off(&mut client).await;
            cut_off.fetch_add(1, Ordering::Relaxed);
        }));
    }
    let mut honest = socket().await;
    honest.open("/echo").await;
    // The honest client made room, too, when it became a connection.
    until("no more than have room are left", || cut_off.load(Ordering::Relaxed) >= 36).await;
    honest.leave().await;
    until("nobody is left", || app.hub().channels() == 0).await;
    silent.iter().for_each(tokio::task::JoinHandle::abort);
    handle.drain();
    served.join().expect("no panic").expect("it ends well");
}
