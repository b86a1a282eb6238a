use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use strait_adapter_fastws::{Server, ServerHandle, ServerLimits};
use strait_core::testkit::{Faults, Faulty};
use strait_core::{App, AppBuilder, Endpoint, Json};
use strait_store_memory::{MemoryStore, Stats};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Client, TcpClient, within};

/// The drain's limit: a drain with nothing to wait for ends long before.
const DRAIN: Duration = Duration::from_secs(5);

/// A server on a port of its own.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) app: App,
    pub(crate) store: MemoryStore,
    pub(crate) handle: ServerHandle,
    pub(crate) served: JoinHandle<io::Result<()>>,
}

/// Serves one endpoint.
pub(crate) async fn serve(endpoint: Endpoint) -> Node {
    serve_app(App::new().endpoint(endpoint)).await
}

/// Serves an application.
pub(crate) async fn serve_app(app: AppBuilder) -> Node {
    serve_with(app, |server| server.limits(server_limits())).await
}

/// Serves an application on a server with other settings.
pub(crate) async fn serve_with(app: AppBuilder, set: impl FnOnce(Server) -> Server) -> Node {
    serve_on(app, &Faults::new(), set).await
}

/// Serves an application on a store with faults.
pub(crate) async fn serve_on(app: AppBuilder, faults: &Faults, set: impl FnOnce(Server) -> Server) -> Node {
    let store = store();
    let faulty = Faulty::new(Arc::new(store.clone()), faults.clone());
    let app = app.store(faulty).build().expect("the application of a test can be built");
    let server = set(Server::new(app.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let address = listener.local_addr().expect("it listens");
    let handle = server.handle();
    Node { address, app, store, handle, served: tokio::spawn(server.serve(listener)) }
}

/// A store that a test may look into.
pub(crate) fn store() -> MemoryStore {
    MemoryStore::new()
}

/// Limits under which a drain waits only for the subject of a test.
pub(crate) fn server_limits() -> ServerLimits {
    ServerLimits { spread: Duration::from_millis(20), drain: DRAIN, ..ServerLimits::default() }
}

impl Node {
    /// A socket without a request so far.
    pub(crate) async fn socket(&self) -> TcpClient {
        Client::new(within(tokio::net::TcpStream::connect(self.address)).await.expect("the server listens"))
    }

    /// A socket with a small kernel buffer: the kernel takes little before the client reads.
    pub(crate) async fn narrow_socket(&self) -> TcpClient {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.set_recv_buffer_size(4 * 1024).expect("the buffer can be set");
        Client::new(within(socket.connect(self.address)).await.expect("the server listens"))
    }

    /// A client that was let in.
    pub(crate) async fn client(&self, path: &str) -> TcpClient {
        let mut client = self.socket().await;
        client.open(path).await;
        client
    }

    /// A client that was let in, with a small kernel buffer: the kernel takes little before the client reads.
    pub(crate) async fn narrow_client(&self, path: &str) -> TcpClient {
        let mut client = self.narrow_socket().await;
        client.open(path).await;
        client
    }

    /// How many channels are stored.
    pub(crate) fn stored(&self) -> usize {
        self.store.stats().records
    }

    /// Waits until no channel is left, in memory and in the store.
    pub(crate) async fn is_left_by_all(&self) {
        super::becomes(|| (self.app.hub().channels(), self.app.hub().topics(), self.stored()), (0, 0, 0)).await;
    }

    /// Drains the server, and checks that no client left anything behind.
    pub(crate) async fn end(self) {
        let start = Instant::now();
        self.handle.drain();
        within(self.served).await.expect("the server does not panic").expect("the server ends well");
        // The drain would have waited for a connection that is still registered.
        assert!(start.elapsed() < DRAIN, "a connection has not ended");
        assert_eq!((self.app.hub().channels(), self.app.hub().topics()), (0, 0));
        assert_eq!(self.store.stats(), Stats::default());
    }
}

/// An endpoint: `echo` answers with its body, other text and bytes come back whole.
pub(crate) fn echo(path: &str) -> Endpoint {
    Endpoint::new("echo", path)
        .public()
        .limits(super::limits())
        .on("echo", |Json(value): Json<Box<serde_json::value::RawValue>>| async move { Json(value) })
        .on_message(|text: String| async move { text })
        .on_binary(|bytes: bytes::Bytes| async move { bytes })
}
