//! Routes requests: handshakes to the channels, health to the server, the rest to the fallback.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use strait_core::{App, Refusal};
use tower_service::Service;

use super::pending::{Answering, Ticket};
use crate::handshake::Asked;
use crate::hosts::check_target;
use crate::opening::Opened;
use crate::service::{Answer, Channels, RemoteAddr, refuse, turn_away};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answered = Response<Either<Full<Bytes>, UnsyncBoxBody<Bytes, BoxError>>>;
type BoxFuture = Pin<Box<dyn Future<Output = Result<Answered, Infallible>> + Send>>;
/// Renders the metrics.
pub(super) type Render = Arc<dyn Fn() -> String + Send + Sync>;
pub(super) type Fallback = Arc<dyn Fn(Request<Incoming>) -> BoxFuture + Send + Sync>;

/// Erases a fallback's type.
pub(super) fn erase<S, B>(service: S) -> Fallback
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    Arc::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            let response = service.call(request).await?;
            Ok(response.map(|body| body.map_err(|error| Box::new(error) as BoxError).boxed_unsync()).map(Either::Right))
        })
    })
}

pub(super) struct Router {
    pub(super) channels: Channels,
    pub(super) app: App,
    pub(super) fallback: Option<Fallback>,
    /// `None` if the metrics have a listener of their own.
    pub(super) metrics: Option<Render>,
}

impl Router {
    /// The service of one socket; it puts the channel of an accepted handshake into `opened`.
    pub(super) fn of(
        self: Arc<Self>,
        remote: SocketAddr,
        ticket: Arc<Ticket>,
        opened: Arc<Mutex<Passed>>,
    ) -> Connected {
        Connected { router: self, remote, ticket, opened }
    }

    fn own(&self, request: &Request<Incoming>) -> Option<Answer> {
        match request.uri().path() {
            "/healthz" => Some(text(StatusCode::OK, "ok\n")),
            "/readyz" => Some(match self.not_ready() {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n"),
                reasons => refuse(&Refusal::unavailable(reasons.join("\n"))),
            }),
            "/metrics" => self.metrics.as_ref().map(|render| metrics(render, request.method())),
            _ => None,
        }
    }

    /// Checks a request's host. Health may be asked for by an address, as orchestrators and load balancers do.
    fn check_host(&self, asked: &Asked<'_>, target: &Uri) -> Result<(), Refusal> {
        match target.path() {
            "/healthz" | "/readyz" => check_target(target, asked.host()),
            _ => self.channels.check_host(asked, target),
        }
    }

    /// The reasons why the node should get no clients, one a line.
    fn not_ready(&self) -> Vec<String> {
        let draining = self.channels.registry().is_draining().then(|| "draining".to_owned());
        draining.into_iter().chain(self.app.hub().not_ready().iter().map(ToString::to_string)).collect()
    }
}

/// The answer to a request for the metrics, which can only be read.
pub(super) fn metrics(render: &Render, method: &Method) -> Answer {
    if matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::OK, render());
    }
    let mut answer = refuse(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this can only be read"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::from(text.into()));
    *response.status_mut() = status;
    let value = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

fn ours(answer: Answer) -> Answered {
    answer.map(Either::Left)
}

/// Answers the requests of one socket.
pub(super) struct Connected {
    router: Arc<Router>,
    remote: SocketAddr,
    ticket: Arc<Ticket>,
    opened: Arc<Mutex<Passed>>,
}

/// The channel of an accepted handshake; the guard keeps the handshake's slot until the answer is out.
pub(super) type Passed = Option<(Opened, Answering)>;

impl hyper::service::Service<Request<Incoming>> for Connected {
    type Response = Answered;
    type Error = Infallible;
    type Future = BoxFuture;

    fn call(&self, mut request: Request<Incoming>) -> BoxFuture {
        let (router, asked) = (&self.router, Asked::of(request.headers()));
        if asked.is_meant() {
            let accept = router.channels.check(&asked, &request);
            return self.handshake(accept, request);
        }
        self.ticket.renew();
        if let Err(refusal) = router.check_host(&asked, request.uri()) {
            return done(ours(refuse(&refusal)));
        }
        request.extensions_mut().insert(RemoteAddr(self.remote));
        if let Some(answer) = router.own(&request) {
            return done(ours(answer));
        }
        let known = router.channels.accept(request.uri(), request.headers()).is_ok();
        let refusal = if known {
            Refusal::new(StatusCode::UPGRADE_REQUIRED, "this takes WebSocket connections only")
        } else {
            Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path")
        };
        let refused = ours(refuse(&refusal));
        match &router.fallback {
            // The fallback may have a page at an endpoint's path. If it has none, the refusal replaces its 404.
            Some(fallback) => {
                let answer = fallback(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    Ok(if known && answer.status() == StatusCode::NOT_FOUND { refused } else { answer })
                })
            }
            None => done(refused),
        }
    }
}

impl Connected {
    fn handshake(&self, accept: Result<HeaderValue, Refusal>, request: Request<Incoming>) -> BoxFuture {
        // A cheap clone, for the log: it shares the head's bytes.
        let target = request.uri().clone();
        let Some(answering) = Arc::clone(&self.ticket).answered_by_us() else {
            let refusal = Refusal::unavailable("the server answers as many handshakes as it may");
            return done(ours(turn_away(target.path(), &refusal)));
        };
        let channels = &self.router.channels;
        let parts = request.into_parts().0;
        match accept.and_then(|accept| channels.open(accept, parts, Some(self.remote))) {
            Ok(opening) => {
                let opened = Arc::clone(&self.opened);
                Box::pin(async move {
                    Ok(ours(match opening.await {
                        Ok((answer, channel)) => {
                            *opened.lock() = Some((channel, answering));
                            answer
                        }
                        Err(refusal) => turn_away(target.path(), &refusal),
                    }))
                })
            }
            Err(refusal) => done(ours(turn_away(target.path(), &refusal))),
        }
    }
}

fn done(answer: Answered) -> BoxFuture {
    Box::pin(ready(Ok(answer)))
}
