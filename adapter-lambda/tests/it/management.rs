//! `@connections`, as the function and other callers see it.

use std::time::{Duration, Instant};

use strait_adapter_lambda::local::{LocalGateway, Options, Program};
use strait_core::{App, AppBuilder, Close, Endpoint, Frame, FrameKind, Gateway, Post, Posted, Probed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Deployment, settings};

fn app() -> AppBuilder {
    App::new().endpoint(Endpoint::new("a", "/a").public().on_message(async |text: String| text))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn connections_are_posted_to_probed_and_deleted() {
    let deployment = Deployment::start(app).await;
    let mut client = deployment.connect("/a").await;
    let at = deployment.at(&deployment.ids()[0]);
    let gateway = deployment.gateway.client(settings()).unwrap();
    let post = Post { to: at.clone(), frame: Frame::new(FrameKind::Text, &[b"hello"]) };
    assert_eq!(gateway.post(std::slice::from_ref(&post), soon()).await, [Posted::Sent]);
    client.expect("hello").await;
    assert_eq!(gateway.probe(&at, soon()).await, Probed::Alive);
    assert_eq!(gateway.close(&at, &Close::normal("bye"), soon()).await, Posted::Sent);
    assert_eq!(client.closed().await, 1000);
    crate::kit::eventually("it has gone", || deployment.gateway.connections() == 0).await;
    assert_eq!(gateway.probe(&at, soon()).await, Probed::Gone);
    assert_eq!(gateway.post(&[post], soon()).await, [Posted::Gone]);
    assert_eq!(gateway.close(&at, &Close::normal("bye"), soon()).await, Posted::Gone);
    let malformed = deployment.at("no/id?");
    assert_eq!(gateway.probe(&malformed, soon()).await, Probed::Unknown);
    let post = Post { to: malformed, frame: Frame::new(FrameKind::Text, &[b"hello"]) };
    assert_eq!(gateway.post(&[post], soon()).await, [Posted::Misconfigured], "400 is not gone");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_throttled_and_can_be_deleted() {
    let deployment = Deployment::start(app).await;
    let _client = deployment.connect("/a").await;
    let at = deployment.at(&deployment.ids()[0]);
    let gateway = deployment.gateway.client(settings()).unwrap();
    let post = Post { to: at.clone(), frame: Frame::new(FrameKind::Text, &[&[b'x'; 128 * 1024]]) };
    let mut posted = Posted::Sent;
    while posted == Posted::Sent {
        let until = Instant::now() + Duration::from_millis(500);
        posted = gateway.post(std::slice::from_ref(&post), until).await[0];
    }
    assert_eq!(posted, Posted::Throttled);
    assert_eq!(gateway.close(&at, &Close::normal("bye"), soon()).await, Posted::Sent);
    crate::kit::eventually("it has gone", || deployment.gateway.connections() == 0).await;
}

#[tokio::test]
async fn requests_that_are_not_signed_are_forbidden() {
    let deployment = Deployment::start(app).await;
    let _client = deployment.connect("/a").await;
    let id = deployment.ids().remove(0);
    for request in [format!("POST /@connections/{id}"), "POST /2015-03-31/functions/local/invocations".to_owned()] {
        let mut socket = TcpStream::connect(deployment.address()).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_come_whole_is_given_up() {
    let options = Options { integration: Duration::from_millis(100), ..Options::default() };
    let deployment = Deployment::with(app, options, 1).await;
    let mut socket = TcpStream::connect(deployment.address()).await.unwrap();
    socket.write_all(b"POST /@connections/a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(crate::kit::PATIENCE, socket.read_to_string(&mut answer)).await.expect("it ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

/// As a node of a mixed fleet, or AWS' command line.
#[tokio::test]
async fn who_was_told_the_secret_can_sign() {
    let options = || Options { secret: Some("told".to_owned()), ..Options::default() };
    let deployment = Deployment::with(app, options(), 1).await;
    let mut client = deployment.connect("/a").await;
    let post = Post { to: deployment.at(&deployment.ids()[0]), frame: Frame::new(FrameKind::Text, &[b"hello"]) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = LocalGateway::start(listener, options()).await.unwrap();
    assert!(other.variables().contains(&("AWS_SECRET_ACCESS_KEY", "told".to_owned())));
    let node = other.client(settings()).unwrap();
    assert_eq!(node.post(std::slice::from_ref(&post), soon()).await, [Posted::Sent]);
    client.expect("hello").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = LocalGateway::start(listener, Options::default()).await.unwrap();
    let stranger = stranger.client(settings()).unwrap();
    assert_eq!(stranger.post(&[post], soon()).await, [Posted::Misconfigured]);
}

#[tokio::test]
async fn the_journal_can_be_looked_at() {
    let deployment = Deployment::start(app).await;
    let mut client = deployment.connect("/a").await;
    client.ask("hello").await;
    deployment.idle().await;
    let mut socket = TcpStream::connect(deployment.address()).await.unwrap();
    socket.write_all(b"GET /_local HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).await.unwrap();
    assert!(page.contains("<td>connect</td>") && page.contains("<td>POST</td>"), "{page}");
}

#[tokio::test]
async fn a_function_that_cannot_begin_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = LocalGateway::start(listener, Options::default()).await.unwrap();
    let program = Program { path: "false".into(), arguments: Vec::new(), variables: Vec::new() };
    gateway.run_processes(&program, 1, 1);
    tokio::time::timeout(crate::kit::PATIENCE, gateway.broken()).await.expect("it is told");
    assert!(gateway.journal().iter().any(|entry| entry.outcome.contains("exit status: 1")), "{:?}", gateway.journal());
}
