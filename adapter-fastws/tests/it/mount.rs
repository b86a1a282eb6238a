//! Channels in a server that the user provides.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use strait_adapter_fastws::Channels;
use strait_core::App;
use strait_core::testkit::{Fault, Faults, Faulty, Gate};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{Client, TcpClient, becomes, echo, handshake, store, text};

async fn mounted(faults: &Faults, mount: impl FnOnce(Router, Channels) -> Router) -> (App, std::net::SocketAddr) {
    let faulty = Faulty::new(Arc::new(store()), faults.clone());
    let app = App::new().endpoint(echo("/echo")).store(faulty).build().expect("it can be built");
    app.start().await.expect("it starts");
    let router = mount(Router::new().route("/", get(|| async { "a page" })), Channels::new(app.clone(), 10));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let address = listener.local_addr().expect("it listens");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (app, address)
}

async fn client(address: std::net::SocketAddr) -> TcpClient {
    Client::new(TcpStream::connect(address).await.expect("axum listens"))
}

#[tokio::test]
async fn axum_serves_them_as_a_route_and_as_the_fallback() {
    type Mount = fn(Router, Channels) -> Router;
    let mounts: [Mount; 2] = [
        |router, channels| router.route_service("/echo", channels),
        |router, channels| router.fallback_service(channels),
    ];
    for mount in mounts {
        let (app, address) = mounted(&Faults::new(), mount).await;
        let mut page = client(address).await;
        page.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(page.answer().await.body, "a page");
        page.send("GET /echo HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(page.answer().await.status, 426);

        let mut early = client(address).await;
        early.send([handshake("/echo", &[]).into_bytes(), text("early")].concat()).await;
        early.is_let_in().await;
        early.expect("early").await;
        let big = "x".repeat(60_000);
        early.text(&big).await;
        early.expect(&big).await;
        assert_eq!(app.hub().channels(), 1);
        early.leave().await;
        becomes(|| app.hub().channels(), 0).await;
        app.stop().await;
    }
}

#[tokio::test]
async fn with_axum_too_a_client_that_goes_before_its_answer_leaves_nothing() {
    let (faults, gate) = (Faults::new(), Gate::new());
    let (app, address) = mounted(&faults, |router, channels| router.route_service("/echo", channels)).await;
    faults.next("open", 1, &Fault::HoldAnswer(gate.clone()));
    for round in 0..2 {
        let mut leaving = client(address).await;
        leaving.send(handshake("/echo", &[])).await;
        if round == 0 {
            becomes(|| gate.waiting(), 1).await;
        }
        leaving.reset();
        gate.open();
        becomes(|| (faults.calls("remove"), app.hub().channels()), (round + 1, 0)).await;
    }
    app.stop().await;
}
