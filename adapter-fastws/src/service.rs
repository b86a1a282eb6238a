//! Channels as a [`tower_service::Service`]: answers handshakes, and runs their connections.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use strait_core::{Accepted, App, Refusal, Transport, path_in_query};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::connection::{Connection, Wire};
use crate::handshake::Asked;
use crate::hosts::{Hosts, check_target};
use crate::lines::Lines;
use crate::opening::Opened;
use crate::registry::Registry;
use crate::task::Task;

/// The address of the other end of a connection, as a request's extension: for the handlers' `Peer`.
#[derive(Debug, Clone, Copy)]
pub struct RemoteAddr(pub SocketAddr);

/// Answers WebSocket handshakes for the endpoints of an application. Clones are the same service.
///
/// Works in any HTTP/1.1 server on hyper: with axum, for example, as a route's or the fallback service. Start the
/// application on the runtime first ([`App::start`]).
#[derive(Clone)]
pub struct Channels {
    app: App,
    registry: Arc<Registry>,
    connections: usize,
    handshake: Duration,
    transport: Transport,
    hosts: Hosts,
    path_in_query: bool,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("app", &self.app).finish_non_exhaustive()
    }
}

/// The response to a handshake.
pub type Answer = Response<Full<Bytes>>;

impl Channels {
    /// A service for the connections of the present tokio runtime, with room for `connections` of them.
    #[must_use]
    pub fn new(app: App, connections: usize) -> Self {
        Self::with_places(app, connections, Arc::default())
    }

    /// As [`new`](Self::new), with a limit on the connections of several runtimes together.
    pub(crate) fn with_places(app: App, connections: usize, places: Arc<AtomicUsize>) -> Self {
        let registry = Registry::new(places);
        tokio::spawn(Registry::sweep(Arc::downgrade(&registry)));
        Self {
            app,
            registry,
            connections,
            handshake: Duration::from_secs(10),
            transport: Transport::Plain,
            hosts: Hosts::default(),
            path_in_query: false,
        }
    }

    /// Declares that clients speak TLS, with this server or with a proxy in front of it. Pages of this host then pass
    /// only if they came by `https` themselves ([`Origins::SameHost`](strait_core::Origins::SameHost)).
    #[must_use]
    pub fn behind_tls(mut self) -> Self {
        self.transport = Transport::Tls;
        self
    }

    /// Accepts only requests with one of these values of `Host`; a host without a port matches any port. Others get
    /// 421, which stops a page of another name that resolves to the server's address (DNS rebinding).
    #[must_use]
    pub fn hosts<S: Into<String>>(mut self, hosts: impl IntoIterator<Item = S>) -> Self {
        self.hosts = Hosts::listed(hosts);
        self
    }

    /// Also takes an endpoint's path from the query of `/`, as API Gateway does: `/?path=/rooms/a`. A proxy's path
    /// rules do not see this form: an endpoint that they close to strangers is then open.
    #[must_use]
    pub fn path_in_query(mut self) -> Self {
        self.path_in_query = true;
        self
    }

    pub(crate) fn with_hosts(mut self, hosts: Hosts) -> Self {
        self.hosts = hosts;
        self
    }

    /// Checks the host that a request is meant for.
    pub(crate) fn check_host(&self, asked: &Asked<'_>, target: &Uri) -> Result<(), Refusal> {
        check_target(target, asked.host())?;
        self.hosts.check(asked.host())
    }

    /// Finds a request's endpoint and checks its origin.
    pub(crate) fn accept(&self, target: &Uri, headers: &HeaderMap) -> Result<Accepted, Refusal> {
        let (path, query) = (target.path(), target.query());
        if self.path_in_query {
            let (path, query) = path_in_query(path, query)?;
            return self.app.accept(&path, Some(&query), headers, self.transport);
        }
        self.app.accept(path, query, headers, self.transport)
    }

    /// Checks a handshake request; returns `Sec-WebSocket-Accept`.
    pub(crate) fn check<B>(&self, asked: &Asked<'_>, request: &Request<B>) -> Result<HeaderValue, Refusal> {
        let accept = asked.check(request.method(), request.version())?;
        self.check_host(asked, request.uri())?;
        Ok(accept)
    }

    pub(crate) fn handshake_limit(mut self, limit: Duration) -> Self {
        self.handshake = limit;
        self
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Authenticates a valid handshake and stores an admitted client's channel. Synchronous steps come first, so that
    /// the future holds less while it waits.
    pub(crate) fn open(
        &self,
        accept: HeaderValue,
        request: Parts,
        remote: Option<SocketAddr>,
    ) -> Result<impl Future<Output = Result<(Answer, Opened), Refusal>> + Send + use<>, Refusal> {
        let accepted = self.accept(&request.uri, &request.headers)?;
        if self.registry.is_draining() {
            return Err(Refusal::unavailable("the server is about to end"));
        }
        // Taken before authentication: the limit then holds however many clients authenticate at once.
        let Some(place) = self.registry.take_place(self.connections) else {
            return Err(Refusal::unavailable("the server has as many connections as it may"));
        };
        let subprotocol = accepted.subprotocol().cloned();
        let admission = accepted.admit(request.headers, remote);
        Ok(async move {
            let opened = Opened::store(admission.await?, place).await?;
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
        })
    }
}

/// Waits for the socket; the server hands it over once the answer is out.
async fn upgraded(opened: Opened, upgrade: OnUpgrade, limit: Duration) -> Option<Box<Connection>> {
    let upgraded = timeout(limit, upgrade).await.ok()?.ok()?;
    Some(match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => opened.connect(Wire::Tcp(parts.io.into_inner()), &parts.read_buf),
        Err(other) => opened.connect(Wire::Other(Box::new(TokioIo::new(other))), &[]),
    })
}

/// Limits the log of refused handshakes: strangers can cause any number of them.
static REFUSED: Lines = Lines::new(10);
/// The log holds this many bytes of a path.
const LOGGED: usize = 200;

/// Answers a refused client.
pub(crate) fn turn_away(path: &str, refusal: &Refusal) -> Answer {
    let status = refusal.status.as_u16();
    if let Some(left_out) = REFUSED.next() {
        let path: String = path.chars().take(LOGGED).collect();
        let (reason, hint) = (&*refusal.message, refusal.hint.as_deref());
        tracing::info!(status, path = ?path, reason = ?reason, hint, left_out, "a handshake was refused");
    }
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
        let remote = request.extensions().get::<RemoteAddr>().map(|remote| remote.0);
        let (upgrade, limit) = (hyper::upgrade::on(&mut request), self.handshake);
        let accept = self.check(&Asked::of(request.headers()), &request);
        // A cheap clone, for the log: it shares the head's bytes.
        let (target, parts) = (request.uri().clone(), request.into_parts().0);
        match accept.and_then(|accept| self.open(accept, parts, remote)) {
            Ok(opening) => Box::pin(async move {
                Ok(match opening.await {
                    Ok((answer, opened)) => {
                        tokio::spawn(Task::Apart(Box::pin(upgraded(opened, upgrade, limit))));
                        answer
                    }
                    Err(refusal) => turn_away(target.path(), &refusal),
                })
            }),
            Err(refusal) => Box::pin(ready(Ok(turn_away(target.path(), &refusal)))),
        }
    }
}
