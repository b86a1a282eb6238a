//! A local gateway with instances of a function in this process, and WebSocket clients of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use strait_adapter_lambda::local::{LocalGateway, Options};
use strait_adapter_lambda::{ApiGateway, Function, Settings};
use strait_core::{AppBuilder, ConnectionId, GatewayConnection};
use strait_store_memory::MemoryStore;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// The longest wait of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The client's settings, with durations for tests. The handshake's is long enough for a slow machine.
pub(crate) fn settings() -> Settings {
    Settings {
        request: Duration::from_millis(500),
        patience: Duration::from_secs(2),
        handshake: Duration::from_millis(300),
        lifetime: Duration::from_hours(2),
        quiet: Duration::ZERO,
        ..Settings::default()
    }
}

pub(crate) struct Deployment {
    pub(crate) gateway: LocalGateway,
    pub(crate) store: MemoryStore,
    function: Function,
}

impl Deployment {
    /// A gateway with two instances of the function.
    pub(crate) async fn start(app: impl Fn() -> AppBuilder) -> Self {
        Self::with(app, Options::default(), 2).await
    }

    pub(crate) async fn with(app: impl Fn() -> AppBuilder, options: Options, instances: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = LocalGateway::start(listener, options).await.unwrap();
        let store = MemoryStore::new();
        let function = function(&gateway, &store, app());
        gateway.run_here(&function, 1);
        // Each instance stands for a process: it has an application of its own on the shared store.
        for _ in 1..instances {
            gateway.run_here(&self::function(&gateway, &store, app()), 1);
        }
        Self { gateway, store, function }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    pub(crate) async fn try_connect(&self, path: &str) -> Result<Client, (u16, String)> {
        self.try_connect_with(path, &[]).await
    }

    pub(crate) async fn try_connect_with(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, (u16, String)> {
        let stream = TcpStream::connect(self.address()).await.unwrap();
        let mut request = format!("ws://{}/?path={path}", self.address()).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match timeout(PATIENCE, client_async(request, stream)).await.expect("the handshake is answered") {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|value| value.to_str().unwrap().to_owned());
                Ok(Client { socket, protocol })
            }
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8(body).unwrap()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn connect(&self, path: &str) -> Client {
        self.try_connect(path).await.expect("let in")
    }

    /// Calls the janitor.
    pub(crate) async fn sweep(&self) {
        assert!(timeout(PATIENCE, self.gateway.sweep()).await.expect("it ends"), "the janitor fails");
    }

    /// Publishes from outside of any channel.
    pub(crate) fn hub(&self) -> &strait_core::EventHub {
        self.function.app().hub()
    }

    /// Invokes the function with any event.
    pub(crate) async fn invoke(&self, event: &Value) -> Result<(), strait_adapter_lambda::Failure> {
        let deadline = std::time::SystemTime::now() + PATIENCE;
        self.function.handle(&event.to_string(), deadline).await.map(drop)
    }

    /// A connection as the function knows it.
    pub(crate) fn at(&self, connection: &str) -> GatewayConnection {
        let endpoint = format!("http://{}", self.address()).into();
        GatewayConnection { endpoint, id: ConnectionId::new(connection).unwrap() }
    }

    /// The connection ids of the handshakes so far, in their order.
    pub(crate) fn ids(&self) -> Vec<String> {
        let connects = self.gateway.journal().into_iter().filter(|entry| entry.what == "connect");
        connects.map(|entry| entry.connection).collect()
    }

    /// The number of invocations or requests of a kind.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.gateway.journal().iter().filter(|entry| entry.what == what).count()
    }

    /// Waits until no invocation runs.
    pub(crate) async fn idle(&self) {
        eventually("the gateway is idle", || self.gateway.is_idle()).await;
    }
}

fn function(gateway: &LocalGateway, store: &MemoryStore, app: AppBuilder) -> Function {
    let client: ApiGateway = gateway.client(settings()).unwrap();
    let app = app.lease(Duration::from_millis(100)).store(store.clone()).gateway(client);
    gateway.function(app.continuation(gateway.self_invoke().unwrap()).build().unwrap())
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    pub(crate) protocol: Option<String>,
}

impl Client {
    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).await.expect("it is sent");
    }

    pub(crate) async fn next(&mut self) -> Message {
        loop {
            let next = timeout(PATIENCE, self.socket.next()).await.expect("something comes");
            match next.expect("the connection is there").expect("it can be read") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let got = self.next().await;
            assert_eq!(got.to_text().expect("text"), text, "at {place}");
        }
    }

    pub(crate) async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.next().await.to_text().expect("text").to_owned()
    }

    pub(crate) async fn json(&mut self) -> Value {
        serde_json::from_str(self.next().await.to_text().expect("text")).expect("JSON")
    }

    /// The code with which the server closes.
    pub(crate) async fn closed(&mut self) -> u16 {
        match self.next().await {
            Message::Close(Some(close)) => close.code.into(),
            other => panic!("{other:?} instead of a close"),
        }
    }

    pub(crate) async fn leave(mut self) {
        let _ = self.socket.close(None).await;
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.socket.next()).await {}
    }
}

/// Notes of handlers. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|noted| *noted == what).count()
    }

    pub(crate) async fn wait_for(&self, what: &str) {
        eventually(what, || self.count(what) > 0).await;
    }
}
