//! The batteries-included server: listeners, runtimes, health, drain.

mod accept;
mod descriptors;
mod drain;
mod heads;
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
use tower_service::Service;

pub use drain::ServerHandle;
pub use runtimes::Runtimes;

use crate::service::Channels;
use drain::Stage;
use pending::Pending;
use rate::Rate;
use route::{Fallback, Router};

/// What the server as a whole may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections of all endpoints together; more are answered 503: 10,000. The process's limit of open files is raised for
    /// them as far as its hard limit lets it; where that is too low, a warning says so.
    pub connections: usize,
    /// Sockets that have not become connections: 1,024 that wait for a request, and as many whose handshake is being
    /// answered. When one more socket comes, the one that has been quiet for longest is closed; a handshake beyond those
    /// that are being answered is refused with 503. So plain requests, `/healthz` among them, never wait behind handshakes.
    pub handshakes: usize,
    /// Sockets accepted in a second by all runtimes together: 20,000, and once as many more after a quiet second. The others
    /// wait in the kernel's queue.
    pub accepts_per_second: u32,
    /// How long a TLS handshake, a request's head, or taking the answer to a handshake may take: 10 s.
    pub handshake: Duration,
    /// How long a socket that has been answered may pause before its next request: 75 s. Load balancers reuse sockets that
    /// have been quiet for up to a minute, and would meet closed ones.
    pub keep_alive: Duration,
    /// Over how long a drain spreads the closes, so that not all clients come back at once: at most 10 s, and no more
    /// than 20 ms a connection.
    pub spread: Duration,
    /// How long a drain waits for running handlers and closing handshakes after that: 35 s.
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
/// `/healthz` answers 200 while the process runs, `/readyz` 200 while it may be sent clients and 503 otherwise, and
/// `/metrics` what [`metrics`](Self::metrics) renders.
#[must_use]
pub struct Server {
    app: App,
    limits: ServerLimits,
    fallback: Option<Fallback>,
    metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsAcceptor>,
    behind_tls: bool,
    stage: watch::Sender<Stage>,
    /// How many connections its runtimes have together.
    places: Arc<AtomicUsize>,
    /// The first of its runtimes to drain has said so.
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

    /// What the server as a whole may use.
    pub fn limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self.pending = Pending::new(limits.handshakes);
        self.rate = Arc::new(Rate::new(limits.accepts_per_second));
        self
    }

    /// Answers requests that are no WebSocket handshakes: an `axum::Router`, say. Without it they are answered 404.
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

    /// Renders the metrics for `/metrics`, usually what the installed recorder's handle renders.
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics = Some(Arc::new(render));
        self
    }

    /// Serves TLS. The configuration should offer `http/1.1` by ALPN, or nothing.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
        self.tls = Some(config.into());
        self.behind_tls()
    }

    /// Says that a proxy in front of the server speaks TLS with all clients: then pages of the server's own host pass only
    /// if they came by `https` themselves ([`Origins::SameHost`](strait_core::Origins::SameHost)). With TLS of its own
    /// the server knows that.
    pub fn behind_tls(mut self) -> Self {
        self.behind_tls = true;
        self
    }

    /// Drains and ends the server from elsewhere.
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
        self.serve_part(listener).await;
        self.stop().await;
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
        let channels = if self.behind_tls { channels.behind_tls() } else { channels };
        let registry = Arc::clone(channels.registry());
        let router =
            Router { channels, app: self.app.clone(), fallback: self.fallback.clone(), metrics: self.metrics.clone() };
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
