//! Channels as a [`tower_service::Service`]: answers handshakes, and runs the connections that come of them.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{self, Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use strait_core::{Admitted, App, Conversation, Outlet, Refusal, Transport};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tower_service::Service;

use crate::connection::{Connection, Stream};
use crate::handshake;
use crate::peer::Peer;
use crate::registry::{Place, Registered, Registry};

/// The address of the other end of a connection, as a request's extension: for the handlers' `Peer`.
#[derive(Debug, Clone, Copy)]
pub struct RemoteAddr(pub SocketAddr);

/// Answers WebSocket handshakes for the endpoints of an application. Clones are the same service.
///
/// It takes part in any HTTP/1.1 server on hyper: with axum, for example, as a route's or the fallback service. The
/// application must have been started on the runtime ([`App::start`]).
#[derive(Clone)]
pub struct Channels {
    app: App,
    registry: Arc<Registry>,
    connections: usize,
    handshake: Duration,
    transport: Transport,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("app", &self.app).finish_non_exhaustive()
    }
}

/// What a handshake is answered with.
pub type Answer = Response<Full<Bytes>>;

impl Channels {
    /// A service for the connections of the present tokio runtime, with room for `connections` of them.
    #[must_use]
    pub fn new(app: App, connections: usize) -> Self {
        Self::with_places(app, connections, Arc::default())
    }

    /// As [`new`](Self::new), counted together with the other runtimes' connections.
    pub(crate) fn with_places(app: App, connections: usize, places: Arc<AtomicUsize>) -> Self {
        let registry = Registry::new(places);
        tokio::spawn(Registry::sweep(Arc::downgrade(&registry)));
        Self { app, registry, connections, handshake: Duration::from_secs(10), transport: Transport::Plain }
    }

    /// Says that clients speak TLS, with this server or with a proxy in front of it: then pages of this host pass only if
    /// they came by `https` themselves ([`Origins::SameHost`](strait_core::Origins::SameHost)).
    #[must_use]
    pub fn behind_tls(mut self) -> Self {
        self.transport = Transport::Tls;
        self
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    pub(crate) fn handshake_limit(mut self, limit: Duration) -> Self {
        self.handshake = limit;
        self
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Decides on a handshake, and stores the channel of who is let in.
    pub(crate) async fn open<B>(
        &self,
        mut request: Request<B>,
        remote: Option<SocketAddr>,
    ) -> Result<(Answer, Opened), Refusal> {
        let accept = handshake::check(request.method(), request.version(), request.headers())?;
        let uri = request.uri();
        let accepted = self.app.accept(uri.path(), uri.query(), request.headers(), self.transport)?;
        if self.registry.is_draining() {
            return Err(Refusal::unavailable("the server is about to end"));
        }
        // Taken before authentication, so that however many authenticate at once the limit holds.
        let Some(place) = self.registry.take_place(self.connections) else {
            return Err(Refusal::unavailable("the server has as many connections as it may"));
        };
        let headers = std::mem::take(request.headers_mut());
        let subprotocol = accepted.subprotocol().cloned();
        let admitted = accepted.admit(headers, remote).await?;
        let opened = Storing(Some(Box::pin(store(admitted, place)))).await?;
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(subprotocol) = subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        Ok((response, opened))
    }
}

async fn store(admitted: Admitted, place: Place) -> Result<Opened, Refusal> {
    let limits = admitted.limits();
    let max_message = limits.message;
    let peer = Arc::new(Peer::new(limits, admitted.gaps()));
    let conversation = admitted.open(Arc::clone(&peer) as Arc<dyn Outlet>).await?;
    let registered = place.register(&peer);
    Ok(Opened(Some(Waiting { peer, conversation, max_message, registered })))
}

/// The storing of a channel, which is not given up half-way: when the client goes away it comes to its end behind it.
struct Storing(Option<Pin<Box<dyn Future<Output = Result<Opened, Refusal>> + Send>>>);

impl Future for Storing {
    type Output = Result<Opened, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let not_opened = || Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the channel was not opened"));
        let Some(storing) = &mut self.0 else { return Poll::Ready(not_opened()) };
        let result = catch_unwind(AssertUnwindSafe(|| storing.as_mut().poll(cx)));
        let result = task::ready!(result.unwrap_or_else(|_| Poll::Ready(not_opened())));
        self.0 = None;
        Poll::Ready(result)
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        if let Some(storing) = self.0.take() {
            behind(async move { drop(storing.await) });
        }
    }
}

/// Runs what is left to do for a client that has gone. Without a runtime the node ends, and its lease with it.
fn behind(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}

/// A channel that is stored and waits for its socket. A client that goes away before it has its answer leaves nothing behind: when
/// this is dropped, what was stored is removed.
pub(crate) struct Opened(Option<Waiting>);

struct Waiting {
    peer: Arc<Peer>,
    conversation: Conversation,
    max_message: usize,
    registered: Registered,
}

impl Opened {
    /// The client has its answer: from here on it is a connection.
    pub(crate) fn connect(mut self, socket: Result<TcpStream, Box<dyn Stream>>, early: &[u8]) -> Option<Connection> {
        let Waiting { peer, conversation, max_message, registered } = self.0.take()?;
        // A copy: an empty buffer would keep all of hyper's alive.
        let early = Bytes::copy_from_slice(early);
        Some(Connection::new(socket, early, peer, conversation, max_message, registered))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(Waiting { conversation, registered, .. }) = self.0.take() {
            behind(async move {
                conversation.abandon().await;
                drop(registered);
            });
        }
    }
}

/// The task of a connection: it waits for its socket, in memory that it then gives back, and is the connection.
#[expect(clippy::large_enum_variant, reason = "nearly all of a connection's life is the large one")]
pub(crate) enum Task {
    Connected(Connection),
    /// The handshake, or what is left to do after a panic.
    Apart(Pin<Box<dyn Future<Output = Option<Connection>> + Send>>),
}

impl Task {
    fn open(&mut self, mut connection: Connection, cx: &mut Context<'_>) {
        let opened = catch_unwind(AssertUnwindSafe(|| connection.open(cx)));
        *self = Self::Connected(connection);
        if let Err(panic) = opened {
            self.fail(panic);
        }
    }

    /// A panic ends this connection, and nothing else.
    fn fail(&mut self, panic: Box<dyn Any + Send>) {
        if let Self::Connected(connection) = std::mem::replace(self, Self::Apart(Box::pin(ready(None)))) {
            *self = Self::Apart(Box::pin(async move {
                connection.fail(panic).await;
                None
            }));
        }
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut *self {
                Self::Connected(connection) => match catch_unwind(AssertUnwindSafe(|| Pin::new(connection).poll(cx))) {
                    Ok(polled) => return polled,
                    Err(panic) => self.fail(panic),
                },
                Self::Apart(future) => match task::ready!(future.as_mut().poll(cx)) {
                    Some(connection) => self.open(connection, cx),
                    None => return Poll::Ready(()),
                },
            }
        }
    }
}

/// Waits for the socket from a server that keeps it until the answer is out.
async fn upgraded(opened: Opened, upgrade: OnUpgrade, limit: Duration) -> Option<Connection> {
    let upgraded = timeout(limit, upgrade).await.ok()?.ok()?;
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => opened.connect(Ok(parts.io.into_inner()), &parts.read_buf),
        Err(other) => opened.connect(Err(Box::new(TokioIo::new(other))), &[]),
    }
}

/// Answers who is not let in.
pub(crate) fn turn_away(refusal: &Refusal) -> Answer {
    let status = refusal.status.as_u16();
    tracing::debug!(status, "a handshake was refused");
    metrics::counter!("strait_handshakes_refused_total", "status" => status.to_string()).increment(1);
    refuse(refusal)
}

/// A refusal as a response.
pub(crate) fn refuse(refusal: &Refusal) -> Answer {
    let mut response = Response::new(Full::from(format!("{}\n", refusal.message)));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if refusal.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

impl<B: Send + 'static> Service<Request<B>> for Channels {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let remote = request.extensions().get::<RemoteAddr>().map(|remote| remote.0);
            let upgrade = hyper::upgrade::on(&mut request);
            Ok(match this.open(request, remote).await {
                Ok((answer, opened)) => {
                    tokio::spawn(Task::Apart(Box::pin(upgraded(opened, upgrade, this.handshake))));
                    answer
                }
                Err(refusal) => turn_away(&refusal),
            })
        })
    }
}
