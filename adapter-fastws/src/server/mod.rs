//! The batteries-included server: listeners, runtimes, health, drain.

mod accept;
mod descriptors;
mod drain;
mod heads;
mod metrics;
mod pace;
mod pending;
mod rate;
mod route;
mod runtimes;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use strait_core::App;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_service::Service;

pub use drain::ServerHandle;
pub use runtimes::Runtimes;

use crate::hosts::Hosts;
use crate::service::Channels;
use drain::Stage;
use pending::Pending;
use rate::Rate;
use route::{Fallback, Render, Router};

/// Limits of the whole server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections of all endpoints together: 10,000. Further handshakes get 503. The server raises its soft limit of
    /// open files for them; a warning tells if the hard limit is too low.
    pub connections: usize,
    /// Sockets without a connection: 1,024 that wait for a request, and as many in a handshake. One more waiting socket
    /// makes the server close the quietest one; one more handshake gets 503. So plain requests, such as `/healthz`,
    /// never wait behind handshakes.
    pub handshakes: usize,
    /// Sockets that all runtimes together accept in a second: 20,000, and once as many more after a quiet second.
    /// Further sockets wait in the kernel's queue.
    pub accepts_per_second: u32,
    /// The time limit of a TLS handshake, of a request's head, and of the delivery of a handshake's answer: 10 s.
    pub handshake: Duration,
    /// How long an answered socket may pause before its next request: 75 s. Load balancers reuse sockets after up to a
    /// minute of silence, and would meet closed ones.
    pub keep_alive: Duration,
    /// A drain spreads its closes over this time, so that not all clients come back at once. At most 10 s, and no more
    /// than 20 ms a connection.
    pub spread: Duration,
    /// After that a drain waits this long for running handlers and closing handshakes: 35 s.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 1_024,
            accepts_per_second: 20_000,
            handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            spread: Duration::from_secs(10),
            drain: Duration::from_secs(35),
        }
    }
}

impl ServerLimits {
    fn check(&self) -> io::Result<()> {
        let checks = [
            (self.connections > 0, "`connections` must be at least 1"),
            (self.handshakes > 0, "`handshakes` must be at least 1"),
            (self.accepts_per_second > 0, "`accepts_per_second` must be at least 1"),
            (!self.handshake.is_zero(), "`handshake` must be longer than nothing"),
            (!self.keep_alive.is_zero(), "`keep_alive` must be longer than nothing"),
        ];
        match checks.iter().find(|(works, _)| !works) {
            Some((_, must)) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the server's limit {must}"))),
            None => Ok(()),
        }
    }
}

/// Serves an application's channels, and a fallback's pages, over HTTP/1.1.
///
/// `/healthz` answers 200 while the process runs. `/readyz` answers 200 while the node is ready for clients, otherwise
/// 503. `/metrics` (by GET and HEAD) answers with the output of [`metrics`](Self::metrics).
#[must_use]
pub struct Server {
    app: App,
    limits: ServerLimits,
    fallback: Option<Fallback>,
    metrics: Option<Render>,
    metrics_listener: Option<std::net::TcpListener>,
    hosts: Hosts,
    path_in_query: bool,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsAcceptor>,
    behind_tls: bool,
    stage: watch::Sender<Stage>,
    /// The connections of all runtimes together.
    places: Arc<AtomicUsize>,
    /// Logs the beginning of the drain, once for all runtimes.
    draining: Once,
    pending: Arc<Pending>,
    rate: Arc<Rate>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("app", &self.app).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Server {
    /// A server with the default limits.
    pub fn new(app: App) -> Self {
        Self {
            app,
            limits: ServerLimits::default(),
            fallback: None,
            metrics: None,
            metrics_listener: None,
            hosts: Hosts::default(),
            path_in_query: false,
            #[cfg(feature = "tls")]
            tls: None,
            behind_tls: false,
            stage: watch::Sender::new(Stage::Serve),
            places: Arc::default(),
            draining: Once::new(),
            pending: Pending::new(ServerLimits::default().handshakes),
            rate: Arc::new(Rate::new(ServerLimits::default().accepts_per_second)),
        }
    }

    /// Sets the limits of the whole server.
    pub fn limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self.pending = Pending::new(limits.handshakes);
        self.rate = Arc::new(Rate::new(limits.accepts_per_second));
        self
    }

    /// Answers all requests other than WebSocket handshakes, for example an `axum::Router`. Without it they get 404.
    pub fn fallback<S, B>(mut self, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = std::convert::Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        self.fallback = Some(route::erase(service));
        self
    }

    /// Renders the metrics for `/metrics`, usually with the handle of the installed recorder.
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Arc::new(render));
        self
    }

    /// Answers `/metrics` only at this listener, without TLS, until the server has drained. Bind it to an address that
    /// strangers cannot reach. The main listener then leaves the path to the fallback.
    pub fn metrics_listener(mut self, listener: std::net::TcpListener) -> Self {
        self.metrics_listener = Some(listener);
        self
    }

    /// Accepts only requests with one of these values of `Host`; a host without a port matches any port. Others get
    /// 421, which stops a page of another name that resolves to the server's address (DNS rebinding). `/healthz` and
    /// `/readyz` accept any host, as probes use an address.
    pub fn hosts<S: Into<String>>(mut self, hosts: impl IntoIterator<Item = S>) -> Self {
        self.hosts = Hosts::listed(hosts);
        self
    }

    /// Also takes an endpoint's path from the query of `/`, as API Gateway does: `/?path=/rooms/a`. A proxy's path
    /// rules do not see this form: an endpoint that they close to strangers is then open.
    pub fn path_in_query(mut self) -> Self {
        self.path_in_query = true;
        self
    }

    /// Serves TLS. The configuration should offer `http/1.1` by ALPN, or nothing.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
        self.tls = Some(config.into());
        self.behind_tls()
    }

    /// Declares that a proxy in front of the server speaks TLS with all clients. Pages of the server's own host then
    /// pass only if they came by `https` themselves ([`Origins::SameHost`](strait_core::Origins::SameHost)). With TLS
    /// of its own the server needs no such declaration.
    pub fn behind_tls(mut self) -> Self {
        self.behind_tls = true;
        self
    }

    /// A handle that drains or stops the server from elsewhere.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(self.stage.clone())
    }

    /// Serves on the present tokio runtime until the server has drained.
    ///
    /// # Errors
    /// The store does not take the node, the listener cannot be used, or a limit cannot work.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        self.limits.check()?;
        descriptors::reserve(&self.limits, &listener);
        self.app.start().await.map_err(io::Error::other)?;
        self.serve_started(listener).await;
        Ok(())
    }

    /// Serves the one listener of a started application, and stops it.
    async fn serve_started(&self, listener: TcpListener) {
        let metrics = self.serve_metrics();
        self.serve_part(listener).await;
        drop(metrics);
        self.stop().await;
    }

    /// Serves `/metrics` at its own listener, if there is one, until the result is dropped.
    fn serve_metrics(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let (Some(render), Some(listener)) = (&self.metrics, &self.metrics_listener) {
            match listener.try_clone() {
                Ok(listener) => drop(tasks.spawn(metrics::serve(listener, Arc::clone(render), self.limits))),
                Err(error) => tracing::error!(%error, "the listener of the metrics cannot be used"),
            }
        }
        tasks
    }

    /// All runtimes have drained.
    async fn stop(&self) {
        tracing::info!("drained");
        self.app.stop().await;
    }

    /// Serves one listener of a started application.
    async fn serve_part(&self, listener: TcpListener) {
        let places = Arc::clone(&self.places);
        let channels = Channels::with_places(self.app.clone(), self.limits.connections, places);
        let channels = channels.handshake_limit(self.limits.handshake);
        let channels = channels.with_hosts(self.hosts.clone());
        let channels = if self.behind_tls { channels.behind_tls() } else { channels };
        let channels = if self.path_in_query { channels.path_in_query() } else { channels };
        let registry = Arc::clone(channels.registry());
        let metrics = self.metrics.clone().filter(|_| self.metrics_listener.is_none());
        let router = Router { channels, app: self.app.clone(), fallback: self.fallback.clone(), metrics };
        let router = Arc::new(router);
        let accepting = accept::Accept {
            http: accept::http(),
            listener,
            router,
            limits: self.limits,
            pending: Arc::clone(&self.pending),
            pace: Arc::default(),
            rate: Arc::clone(&self.rate),
            stage: self.stage.subscribe(),
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        };
        let accepting = tokio::spawn(accepting.run());
        let begins = || {
            let connections = self.places.load(Ordering::Relaxed);
            self.draining.call_once(|| tracing::info!(connections, "draining"));
        };
        drain::when_told(self.stage.subscribe(), &registry, &self.limits, begins).await;
        accepting.abort();
    }
}
