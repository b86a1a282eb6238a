//! The socket over TLS: a write goes out only once it is flushed.

use std::sync::Arc;
use std::time::Duration;

use strait_adapter_fastws::ServerLimits;
use strait_core::{App, Limits};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::kit::{Client, Got, Node, close, echo, handshake, limits, serve_with, server_limits, text, within};

/// A server's configuration, and that of clients that trust it.
fn configurations() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let signed = rcgen::generate_simple_self_signed(["strait.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
    let certificate = signed.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server.expect("they fit")), Arc::new(client))
}

async fn serve_tls(limits: ServerLimits) -> (Node, TlsConnector) {
    let (server, client) = configurations();
    let endpoint = echo("/echo").limits(Limits { message: 4 << 20, ..self::limits() });
    let node = serve_with(App::new().endpoint(endpoint), |it| it.limits(limits).tls(server)).await;
    (node, client.into())
}

async fn connect(node: &Node, tls: &TlsConnector) -> Client<TlsStream<TcpStream>> {
    let socket = within(TcpStream::connect(node.address)).await.expect("it listens");
    let name = ServerName::try_from("strait.test").expect("a name");
    Client::new(within(tls.connect(name, socket)).await.expect("TLS is agreed on"))
}

#[tokio::test]
async fn an_echo_over_tls() {
    let (node, tls) = serve_tls(server_limits()).await;
    let mut client = connect(&node, &tls).await;
    client.send([handshake("/echo", &[]).into_bytes(), text("early")].concat()).await;
    client.is_let_in().await;
    client.expect("early").await;
    for size in [0, 1, 16_384, 70_000, 4 << 20] {
        let message = "x".repeat(size);
        // The client waits for each answer before it sends again: so only a flush brings it out.
        client.text(&message).await;
        client.expect(&message).await;
    }
    let many: Vec<u8> = (0..200).flat_map(|n| text(&n.to_string())).collect();
    client.send(many).await;
    for n in 0..200 {
        client.expect(&n.to_string()).await;
    }
    client.send(close(1000, "")).await;
    assert_eq!(client.next().await, Got::Close(1000, String::new()));
    // Without close_notify the client would see an unexpected end.
    assert_eq!(within(client.socket.read_u8()).await.expect_err("the end").kind(), std::io::ErrorKind::UnexpectedEof);
    let mut rest = Vec::new();
    assert_eq!(within(client.socket.read_to_end(&mut rest)).await.expect("an end in good order"), 0);
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn over_tls_a_page_that_came_without_it_is_another_origin() {
    let (node, tls) = serve_tls(server_limits()).await;
    let behind = serve_with(App::new().endpoint(echo("/echo")), |it| it.limits(server_limits()).behind_tls()).await;
    for (origin, expected) in [("https://strait.test", 101), ("http://strait.test", 403)] {
        let mut client = connect(&node, &tls).await;
        client.send(handshake("/echo", &[("origin", origin)])).await;
        assert_eq!(client.answer().await.status, expected, "{origin}");
        let mut client = behind.socket().await;
        client.send(handshake("/echo", &[("origin", origin)])).await;
        assert_eq!(client.answer().await.status, expected, "{origin}, behind a proxy");
    }
    node.end().await;
    behind.end().await;
}

#[tokio::test]
async fn events_and_drains_reach_clients_over_tls() {
    let (node, tls) = serve_tls(server_limits()).await;
    let mut client = connect(&node, &tls).await;
    client.open("/echo").await;
    client.text("hello").await;
    client.expect("hello").await;
    node.handle.drain();
    client.closes(1012).await;
    node.end().await;
}

#[tokio::test]
async fn who_is_refused_over_tls_sees_the_end_in_good_order() {
    let (node, tls) = serve_tls(server_limits()).await;
    let stranger = handshake("/echo", &[("origin", "https://evil.test"), ("connection", "upgrade, close")]);
    for (request, status) in [("no request\r\n\r\n".to_owned(), "400"), (stranger, "403")] {
        let mut client = connect(&node, &tls).await;
        client.send(request).await;
        let mut answer = String::new();
        within(client.socket.read_to_string(&mut answer)).await.expect("an end in good order");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    node.end().await;
}

#[tokio::test]
async fn a_reset_over_tls_leaves_nothing() {
    let (node, tls) = serve_tls(server_limits()).await;
    for _ in 0..5 {
        let mut client = connect(&node, &tls).await;
        client.open("/echo").await;
        client.send(&text("half")[..3]).await;
        let (socket, _) = client.socket.into_inner();
        Client::new(socket).reset();
    }
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_slow_tls_handshake_is_cut_off() {
    let limits = ServerLimits { handshake: Duration::from_millis(100), ..server_limits() };
    let (node, tls) = serve_tls(limits).await;
    // No hello, half a hello, and another protocol.
    for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"] {
        let start = Instant::now();
        let mut client = node.socket().await;
        client.send(sent).await;
        let mut answer = Vec::new();
        let _ = within(client.socket.read_to_end(&mut answer)).await;
        assert!(start.elapsed() < Duration::from_secs(4));
    }
    // A TLS session without a request.
    let mut client = connect(&node, &tls).await;
    assert!(client.try_answer().await.is_none());
    node.end().await;
}
