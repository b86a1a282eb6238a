//! `/metrics`: the clients that may read them, and the place.

use strait_core::App;

use crate::kit::{Client, Node, TcpClient, echo, serve_with, server_limits, within};

async fn ask(client: &mut TcpClient, method: &str, path: &str) {
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
}

async fn serve(listener: Option<std::net::TcpListener>) -> Node {
    serve_with(App::new().endpoint(echo("/echo")), |server| {
        let server = server.limits(server_limits()).metrics(|| "the metrics\n".to_owned());
        match listener {
            Some(listener) => server.metrics_listener(listener),
            None => server,
        }
    })
    .await
}

#[tokio::test]
async fn metrics_can_be_read_and_nothing_else() {
    let node = serve(None).await;
    let mut client = node.socket().await;
    ask(&mut client, "GET", "/metrics").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "the metrics\n"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        ask(&mut client, method, "/metrics").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head")), "{method}");
    }
    // It has no body, and the next answer begins right behind it.
    ask(&mut client, "HEAD", "/metrics").await;
    assert!(client.head().await.starts_with("http/1.1 200"));
    ask(&mut client, "GET", "/healthz").await;
    assert_eq!(client.answer().await.body, "ok\n");
    drop(client);
    node.end().await;
}

#[tokio::test]
async fn metrics_can_have_a_listener_of_their_own() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it listens");
    let node = serve(Some(listener)).await;
    let mut public = node.socket().await;
    ask(&mut public, "GET", "/metrics").await;
    assert_eq!(public.answer().await.status, 404);
    let mut own = Client::new(within(tokio::net::TcpStream::connect(address)).await.expect("it listens"));
    for (path, expected) in [("/metrics", 200), ("/healthz", 404), ("/echo", 404), ("/metrics", 200)] {
        ask(&mut own, "GET", path).await;
        assert_eq!(own.answer().await.status, expected, "{path}");
    }
    ask(&mut own, "POST", "/metrics").await;
    assert_eq!(own.answer().await.status, 405);
    node.end().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "it ends with the server");
}
