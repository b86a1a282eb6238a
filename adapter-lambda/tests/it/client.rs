//! The gateway client, against servers that give prepared answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use strait_adapter_lambda::Settings;
use strait_adapter_lambda::local::{LocalGateway, Options};
use strait_core::{ConnectionId, Frame, FrameKind, Gateway, GatewayConnection, Post, Posted};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::kit::settings;

/// A server that answers POSTs with these statuses in turn, and then 200. `0` hangs.
struct Server {
    endpoint: Arc<str>,
    bodies: Arc<Mutex<Vec<String>>>,
    most_at_once: Arc<AtomicUsize>,
}

impl Server {
    async fn start(statuses: &[u16], pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/stage", listener.local_addr().unwrap()).into();
        let statuses = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
        let (bodies, most) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let server = Self { endpoint, bodies: Arc::clone(&bodies), most_at_once: Arc::clone(&most) };
        let now = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (statuses, bodies) = (Arc::clone(&statuses), Arc::clone(&bodies));
                let (most, now) = (Arc::clone(&most), Arc::clone(&now));
                tokio::spawn(async move {
                    let mut socket = BufReader::new(socket);
                    loop {
                        let (mut length, mut line) = (0, String::new());
                        loop {
                            line.clear();
                            if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
                                return;
                            }
                            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                                length = value.trim().parse().unwrap();
                            }
                            if line == "\r\n" {
                                break;
                            }
                        }
                        let mut body = vec![0; length];
                        socket.read_exact(&mut body).await.unwrap();
                        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                        tokio::time::sleep(pause).await;
                        now.fetch_sub(1, SeqCst);
                        let status = statuses.lock().await.pop_front().unwrap_or(200);
                        if status == 0 {
                            std::future::pending::<()>().await;
                        }
                        bodies.lock().await.push(String::from_utf8(body).unwrap());
                        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                        socket.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        server
    }

    fn post(&self, connection: &str, text: &str) -> Post {
        let to = GatewayConnection { endpoint: Arc::clone(&self.endpoint), id: ConnectionId::new(connection).unwrap() };
        Post { to, frame: Frame::new(FrameKind::Text, &[text.as_bytes()]) }
    }
}

async fn client(settings: Settings) -> strait_adapter_lambda::ApiGateway {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    LocalGateway::start(listener, Options::default()).await.unwrap().client(settings).unwrap()
}

#[tokio::test]
async fn each_answer_means_what_the_documentation_says() {
    let client = client(settings()).await;
    for (statuses, outcome, requests) in [
        (&[200][..], Posted::Sent, 1),
        (&[410], Posted::Gone, 1),
        (&[413], Posted::TooLarge, 1),
        (&[403], Posted::Misconfigured, 1),
        (&[400], Posted::Misconfigured, 1),
        (&[404], Posted::Misconfigured, 1),
        (&[429, 429, 200], Posted::Sent, 3),
        (&[500, 503, 504, 200], Posted::Sent, 4),
        (&[500, 410], Posted::Gone, 2),
    ] {
        let server = Server::start(statuses, Duration::ZERO).await;
        let posted = client.post(&[server.post("c=", "hello")], Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(posted, [outcome], "{statuses:?}");
        assert_eq!(server.bodies.lock().await.len(), requests, "{statuses:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_hangs_is_tried_again_and_given_up_at_the_deadline() {
    let client = client(Settings { request: Duration::from_millis(50), ..settings() }).await;
    let server = Server::start(&[0, 200], Duration::ZERO).await;
    let posted = client.post(&[server.post("c", "hello")], Instant::now() + Duration::from_secs(5)).await;
    assert_eq!(posted, [Posted::Sent]);
    let server = Server::start(&[0; 100], Duration::ZERO).await;
    let began = Instant::now();
    let posted = client.post(&[server.post("c", "hello")], began + Duration::from_secs(1)).await;
    assert_eq!(posted, [Posted::Unsent]);
    // The longest pause before the client gives up is 400 ms.
    let tried = Duration::from_millis(400)..Duration::from_secs(3);
    assert!(tried.contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_gateway_that_throttles_until_the_deadline_is_told_apart() {
    let client = client(settings()).await;
    // The server answers slowly: a last try just before the deadline would be cut off, and might have sent the message.
    let server = Server::start(&[429; 10_000], Duration::from_millis(40)).await;
    let posts: Vec<Post> = (0..40).map(|n| server.post(&n.to_string(), "hello")).collect();
    let posted = client.post(&posts, Instant::now() + Duration::from_secs(1)).await;
    assert_eq!(posted, [Posted::Throttled; 40]);
}

#[tokio::test]
async fn nobody_there_is_not_gone() {
    let client = client(settings()).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap()).into();
    drop(closed);
    let to = GatewayConnection { endpoint, id: ConnectionId::new("c").unwrap() };
    let post = Post { to, frame: Frame::new(FrameKind::Text, &[b"hello"]) };
    assert_eq!(client.post(&[post], Instant::now() + Duration::from_millis(150)).await, [Posted::Unsent]);
}

#[tokio::test]
async fn what_is_too_large_is_not_even_posted() {
    let client = client(settings()).await;
    let server = Server::start(&[], Duration::ZERO).await;
    let (most, more) = ("x".repeat(128 * 1024), "x".repeat(128 * 1024 + 1));
    let posts = [server.post("a", &most), server.post("b", &more)];
    let posted = client.post(&posts, Instant::now() + Duration::from_secs(5)).await;
    assert_eq!(posted, [Posted::Sent, Posted::TooLarge]);
    assert_eq!(server.bodies.lock().await.len(), 1);
}

#[tokio::test]
async fn one_connections_messages_go_in_order_and_stop_at_a_failure() {
    let client = client(settings()).await;
    let server = Server::start(&[200, 200, 410, 200], Duration::from_millis(5)).await;
    let posts: Vec<Post> = (0..5).map(|n| server.post("c", &n.to_string())).collect();
    let (first, second) = posts.split_at(2);
    let until = Instant::now() + Duration::from_secs(5);
    let (one, two) = tokio::join!(client.post(first, until), client.post(second, until));
    assert_eq!(one, [Posted::Sent; 2]);
    assert_eq!(two, [Posted::Gone; 3]);
    assert_eq!(*server.bodies.lock().await, ["0", "1", "2"]);
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_may() {
    let client = client(Settings { at_once: 8, ..settings() }).await;
    let server = Server::start(&[], Duration::from_millis(5)).await;
    let posts: Vec<Post> = (0..100).map(|n| server.post(&format!("c{n}"), "hello")).collect();
    let until = Instant::now() + Duration::from_secs(10);
    let (one, two) = tokio::join!(client.post(&posts[..50], until), client.post(&posts[50..], until));
    assert!(one.iter().chain(&two).all(|posted| *posted == Posted::Sent));
    let most = server.most_at_once.load(SeqCst);
    assert!((2..=8).contains(&most), "{most} at once");
}
