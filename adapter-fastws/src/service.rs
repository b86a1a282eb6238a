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
use strait_core::{Admitted, App, Outlet, Refusal, Transport};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower_service::Service;

use crate::connection::{Connection, Stream};
use crate::handshake;
use crate::peer::Peer;
use crate::registry::{Place, Registry};

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

    async fn answer<B>(self, mut request: Request<B>) -> Result<Answer, Refusal> {
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
        let upgrade = hyper::upgrade::on(&mut request);
        let remote = request.extensions().get::<RemoteAddr>().map(|remote| remote.0);
        let headers = std::mem::take(request.headers_mut());
        let subprotocol = accepted.subprotocol().cloned();
        let admitted = accepted.admit(headers, remote).await?;
        // From here on in a task of its own: when the client goes away the answer is dropped, but not what is stored.
        let (opened, stored) = oneshot::channel();
        let connecting = connect(admitted, place, opened, upgrade, self.handshake);
        tokio::spawn(Task::Apart(Box::pin(connecting)));
        stored.await.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the channel was not opened"))??;
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(subprotocol) = subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        Ok(response)
    }
}

/// The task of a connection: it waits for its socket, in memory that it then gives back, and is the connection.
#[expect(clippy::large_enum_variant, reason = "nearly all of a connection's life is the large one")]
enum Task {
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

/// Stores the channel and waits for the socket; a client that went away before it had its answer leaves nothing behind.
async fn connect(
    admitted: Admitted,
    place: Place,
    opened: oneshot::Sender<Result<(), Refusal>>,
    upgrade: OnUpgrade,
    limit: Duration,
) -> Option<Connection> {
    let limits = admitted.limits();
    let max_message = limits.message;
    let peer = Arc::new(Peer::new(limits, admitted.gaps()));
    let conversation = match admitted.open(Arc::clone(&peer) as Arc<dyn Outlet>).await {
        Ok(conversation) => conversation,
        Err(refusal) => {
            // Nobody hears it if the client has gone.
            let _ = opened.send(Err(refusal));
            return None;
        }
    };
    let registered = place.register(&peer);
    let _ = opened.send(Ok(()));
    let Ok(Ok(upgraded)) = timeout(limit, upgrade).await else {
        conversation.abandon().await;
        return None;
    };
    let (socket, early) = match upgraded.downcast::<TokioIo<TcpStream>>() {
        // An empty buffer would keep all of hyper's alive.
        Ok(parts) => (Ok(parts.io.into_inner()), Bytes::copy_from_slice(&parts.read_buf)),
        Err(other) => (Err(Box::new(TokioIo::new(other)) as Box<dyn Stream>), Bytes::new()),
    };
    Some(Connection::new(socket, early, peer, conversation, max_message, registered))
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.clone().answer(request);
        Box::pin(async move {
            Ok(answer.await.unwrap_or_else(|refusal| {
                let status = refusal.status.as_u16();
                tracing::debug!(status, "a handshake was refused");
                metrics::counter!("strait_handshakes_refused_total", "status" => status.to_string()).increment(1);
                refuse(&refusal)
            }))
        })
    }
}
