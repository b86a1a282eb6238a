//! Nodes and clusters of them, on stores in memory.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use strait_core::testkit::{Faults, Faulty};
use strait_core::{App, AppBuilder, Conversation, Endpoint, EventHub, Outlet, Refusal, Topic, Transport};
use strait_store_memory::MemoryStore;
use tokio::runtime::{Handle, Runtime};

use crate::client::{Client, Recorder};

/// The term of leases where one has to run out.
pub(crate) const TERM: Duration = Duration::from_millis(150);

/// A node; it stands for one process.
pub(crate) struct Node {
    pub(crate) app: App,
    handle: Handle,
    own: Option<Runtime>,
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a name")
}

/// A node on a store of its own.
pub(crate) async fn serve(endpoint: Endpoint) -> Node {
    Node::start(App::new().endpoint(endpoint).store(MemoryStore::new())).await
}

/// A node on a store of its own with injected faults.
pub(crate) async fn serve_faulty(endpoint: Endpoint) -> (Node, Faults) {
    let (store, faults) = faulty();
    (Node::start(App::new().endpoint(endpoint).store(store).lease(TERM)).await, faults)
}

pub(crate) fn faulty() -> (Faulty<MemoryStore>, Faults) {
    let faults = Faults::new();
    (Faulty::new(Arc::new(MemoryStore::new()), faults.clone()), faults)
}

/// Nodes of one application on one store.
pub(crate) async fn cluster<const N: usize>(build: impl Fn() -> AppBuilder) -> [Node; N] {
    let store = MemoryStore::new();
    let mut nodes = Vec::new();
    for _ in 0..N {
        nodes.push(Node::start(build().store(store.clone())).await);
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
}

pub(crate) fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"))
    };
    given.iter().map(header).collect()
}

impl Node {
    pub(crate) async fn start(builder: AppBuilder) -> Self {
        Self::start_app(builder.build().expect("the application is well formed")).await
    }

    pub(crate) async fn start_app(app: App) -> Self {
        app.start().await.expect("the node starts");
        Self { app, handle: Handle::current(), own: None }
    }

    /// A node with a runtime of its own, to be killed.
    pub(crate) async fn start_doomed(builder: AppBuilder) -> Self {
        let own = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let app = builder.build().expect("the application is well formed");
        let starting = app.clone();
        own.spawn(async move { starting.start().await }).await.unwrap().expect("the node starts");
        Self { app, handle: own.handle().clone(), own: Some(own) }
    }

    /// Ends all tasks of the node, at once and without a word.
    pub(crate) fn kill(mut self) {
        self.own.take().expect("only doomed nodes are killed").shutdown_background();
    }

    pub(crate) fn hub(&self) -> &EventHub {
        self.app.hub()
    }

    pub(crate) async fn open(&self, path: &str, headers: HeaderMap) -> Result<(Conversation, Arc<Recorder>), Refusal> {
        let (app, path) = (self.app.clone(), path.to_owned());
        let opening = async move {
            let (path, query) = path.split_once('?').map_or((&*path, None), |(path, query)| (path, Some(query)));
            let (path, query) = strait_core::path_in_query(path, query)?;
            let accepted = app.accept(&path, Some(&query), &headers, Transport::Plain)?;
            let admitted = accepted.admit(headers, None).await?;
            let recorder = Arc::new(Recorder::new(admitted.gaps()));
            let conversation = admitted.open(Arc::clone(&recorder) as Arc<dyn Outlet>).await?;
            Ok((conversation, recorder))
        };
        self.handle.spawn(opening).await.expect("a handshake does not panic")
    }

    pub(crate) async fn connect_with(&self, path: &str, given: &[(&'static str, &str)]) -> Result<Client, Refusal> {
        let (conversation, recorder) = self.open(path, headers(given)).await?;
        Ok(Client::drive(conversation, recorder, &self.handle))
    }

    pub(crate) async fn connect(&self, path: &str) -> Client {
        self.connect_with(path, &[]).await.expect("the client is let in")
    }

    pub(crate) async fn refused(&self, path: &str, given: &[(&'static str, &str)]) -> Refusal {
        match self.connect_with(path, given).await {
            Ok(_) => panic!("the client was let in"),
            Err(refusal) => refusal,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            own.shutdown_background();
        }
    }
}
