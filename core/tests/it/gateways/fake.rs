//! A gateway in memory, and serverless functions behind it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::Mutex;
use strait_core::testkit::async_trait;
use strait_core::{
    App, AppBuilder, Binary, Capabilities, ChannelId, Close, ConnectionId, Continuation, DisconnectReason, Error,
    Frame, Gateway, GatewayConnection, Handshake, Post, Posted, Probed, Refusal, Work,
};

use crate::log::PATIENCE;

const ENDPOINT: &str = "https://gateway.example/prod";

/// The messages that a connection has seen, and whether it is there.
#[derive(Debug, Default, Clone)]
struct Connection {
    seen: Vec<String>,
    established: bool,
    closed: bool,
}

/// The answer to a post instead of success.
type Fault = Box<dyn FnMut(&str, &str) -> Option<Posted> + Send>;

/// Clones are the same gateway.
#[derive(Clone)]
pub(crate) struct FakeGateway {
    inner: Arc<Mutex<Inner>>,
    capabilities: Capabilities,
}

struct Inner {
    connections: HashMap<String, Connection>,
    fault: Option<Fault>,
    /// The time that a post takes.
    latency: Duration,
    /// The connections at which posts last until their limit, and fail.
    stuck: HashSet<String>,
    posts: usize,
    probes: usize,
    /// The deadline of each post.
    deadlines: Vec<Instant>,
    /// Posted frames, kept so that no other one gets the same address.
    frames: Vec<Frame>,
}

impl std::fmt::Debug for FakeGateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeGateway")
    }
}

impl FakeGateway {
    pub(crate) fn new() -> Self {
        let capabilities = Capabilities {
            max_message: 128 * 1024,
            binary: Binary::Refused,
            close_codes: false,
            lifetime: Some(Duration::from_secs(600)),
            handshake: Duration::ZERO,
            patience: Duration::from_secs(5),
            quiet: Duration::ZERO,
        };
        let inner = Inner {
            connections: HashMap::new(),
            fault: None,
            latency: Duration::ZERO,
            stuck: HashSet::new(),
            posts: 0,
            probes: 0,
            deadlines: Vec::new(),
            frames: Vec::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), capabilities }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.capabilities);
        self
    }

    /// Gives posts another answer, by connection and text.
    pub(crate) fn fault(&self, fault: impl FnMut(&str, &str) -> Option<Posted> + Send + 'static) {
        self.inner.lock().fault = Some(Box::new(fault));
    }

    pub(crate) fn mend(&self) {
        self.inner.lock().fault = None;
    }

    pub(crate) fn latency(&self, latency: Duration) {
        self.inner.lock().latency = latency;
    }

    pub(crate) fn stick(&self, connection: &str) {
        self.inner.lock().stuck.insert(connection.to_owned());
    }

    pub(crate) fn unstick(&self, connection: &str) {
        self.inner.lock().stuck.remove(connection);
    }

    pub(crate) fn posts(&self) -> usize {
        self.inner.lock().posts
    }

    /// Posts and probes.
    pub(crate) fn requests(&self) -> usize {
        let inner = self.inner.lock();
        inner.posts + inner.probes
    }

    pub(crate) fn deadlines(&self) -> Vec<Instant> {
        self.inner.lock().deadlines.clone()
    }

    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.inner.lock().frames.clone()
    }

    pub(crate) fn establish(&self, connection: &str) {
        self.inner.lock().connections.entry(connection.to_owned()).or_default().established = true;
    }

    /// The connection breaks without notice.
    pub(crate) fn lose(&self, connection: &str) {
        self.inner.lock().connections.remove(connection);
    }

    pub(crate) fn seen(&self, connection: &str) -> Vec<String> {
        self.inner.lock().connections.get(connection).map(|found| found.seen.clone()).unwrap_or_default()
    }

    pub(crate) fn is_closed(&self, connection: &str) -> bool {
        self.inner.lock().connections.get(connection).is_some_and(|found| found.closed)
    }

    /// Waits until a connection has seen exactly this.
    #[track_caller]
    pub(crate) fn sees(&self, connection: &str, expected: &[&str]) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            while self.seen(connection) != expected {
                let seen = self.seen(connection);
                assert!(started.elapsed() < PATIENCE, "{connection} saw {seen:?}, not {expected:?}, at {place}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

pub(crate) fn at(connection: &str) -> GatewayConnection {
    GatewayConnection { endpoint: Arc::from(ENDPOINT), id: ConnectionId::new(connection).expect("a name") }
}

#[async_trait]
impl Gateway for FakeGateway {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn post(&self, posts: &[Post], deadline: Instant) -> Vec<Posted> {
        let (latency, is_stuck) = {
            let mut inner = self.inner.lock();
            inner.deadlines.extend(posts.iter().map(|_| deadline));
            inner.frames.extend(posts.iter().map(|post| post.frame.clone()));
            (inner.latency, posts.iter().any(|post| inner.stuck.contains(post.to.id.as_str())))
        };
        if is_stuck {
            tokio::time::sleep_until(deadline.into()).await;
            return vec![Posted::Throttled; posts.len()];
        }
        if !latency.is_zero() && tokio::time::timeout_at(deadline.into(), tokio::time::sleep(latency)).await.is_err() {
            return vec![Posted::Unsent; posts.len()];
        }
        let mut failed: HashMap<String, Posted> = HashMap::new();
        let mut inner = self.inner.lock();
        let Inner { connections, fault, posts: count, .. } = &mut *inner;
        let mut post = |post: &Post| {
            let text = String::from_utf8(post.frame.payload().to_vec()).expect("text");
            let id = post.to.id.as_str();
            if let Some(failed) = failed.get(id) {
                return *failed;
            }
            *count += 1;
            let outcome = match (fault.as_mut().and_then(|fault| fault(id, &text)), connections.get_mut(id)) {
                (Some(outcome), _) => outcome,
                (None, Some(connection)) if connection.established => {
                    connection.seen.push(text);
                    Posted::Sent
                }
                (None, _) => Posted::Gone,
            };
            if outcome != Posted::Sent {
                failed.insert(id.to_owned(), outcome);
            }
            outcome
        };
        posts.iter().map(&mut post).collect()
    }

    async fn close(&self, to: &GatewayConnection, _: &Close, _: Instant) -> Posted {
        match self.inner.lock().connections.get_mut(to.id.as_str()) {
            Some(connection) => {
                connection.established = false;
                connection.closed = true;
                Posted::Sent
            }
            None => Posted::Gone,
        }
    }

    async fn probe(&self, to: &GatewayConnection, _: Instant) -> Probed {
        let mut inner = self.inner.lock();
        inner.probes += 1;
        match inner.connections.get(to.id.as_str()) {
            Some(connection) if connection.established => Probed::Alive,
            _ => Probed::Gone,
        }
    }
}

/// Keeps the work handed over until the test continues it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Later(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Continuation for Later {
    async fn hand_over(&self, work: Work) -> Result<(), Error> {
        self.0.lock().push(serde_json::to_string(&work)?);
        Ok(())
    }
}

impl Later {
    /// The size of each, in bytes.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.0.lock().iter().map(String::len).collect()
    }

    pub(crate) fn take(&self) -> Vec<Work> {
        let work = std::mem::take(&mut *self.0.lock());
        work.iter().map(|work| serde_json::from_str(work).expect("it was serialised")).collect()
    }
}

/// One process of a function; processes are interchangeable.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) app: App,
    pub(crate) gateway: FakeGateway,
}

/// How long an invocation may take.
const TIME: Duration = Duration::from_secs(10);

impl Function {
    pub(crate) fn new(builder: AppBuilder, gateway: &FakeGateway) -> Self {
        let app = builder.gateway(gateway.clone()).build().expect("the application is well formed");
        Self { app, gateway: gateway.clone() }
    }

    pub(crate) async fn handshake(&self, connection: &str, path: &str) -> Result<Option<ChannelId>, Refusal> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let handshake = Handshake {
            connection: at(connection),
            path,
            query,
            headers: HeaderMap::new(),
            peer: None,
            transport: strait_core::Transport::Tls,
        };
        Ok(self.app.invocation(Instant::now() + TIME).connect(handshake).await?.held)
    }

    /// A whole handshake, as the gateway goes through it.
    pub(crate) async fn connect(&self, connection: &str, path: &str) {
        let held = self.handshake(connection, path).await.expect("the client is let in");
        self.gateway.establish(connection);
        if let Some(channel) = held {
            self.connected(&channel).await;
        }
    }

    pub(crate) async fn connected(&self, channel: &ChannelId) {
        self.app.invocation(Instant::now() + TIME).connected(channel).await.expect("the store answers");
    }

    pub(crate) async fn message(&self, connection: &str, text: &str) {
        self.message_within(connection, text, TIME).await;
    }

    pub(crate) async fn message_within(&self, connection: &str, text: &str, time: Duration) {
        let handled = self.app.invocation(Instant::now() + time).message(&at(connection), text).await;
        handled.expect("the message is handled");
    }

    pub(crate) async fn bytes(&self, connection: &str, bytes: &[u8]) {
        let handled = self.app.invocation(Instant::now() + TIME).bytes(&at(connection), bytes).await;
        handled.expect("the message is handled");
    }

    pub(crate) async fn disconnect(&self, connection: &str) {
        self.gateway.lose(connection);
        let invocation = self.app.invocation(Instant::now() + TIME);
        invocation.disconnect(&at(connection), DisconnectReason::Client).await.expect("the channel ends");
    }

    pub(crate) async fn go_on(&self, work: Work) {
        self.app.invocation(Instant::now() + TIME).go_on(work).await.expect("the work goes on");
    }

    pub(crate) async fn sweep(&self) {
        self.app.invocation(Instant::now() + TIME).sweep().await.expect("the janitor runs");
    }
}
