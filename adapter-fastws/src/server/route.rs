//! Which request goes where: handshakes to the channels, health to the server, the rest to the fallback.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use strait_core::{App, Refusal};
use tower_service::Service;

use super::pending::{Answering, Ticket};
use crate::handshake::Asked;
use crate::opening::Opened;
use crate::service::{Answer, Channels, RemoteAddr, refuse, turn_away};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answered = Response<Either<Full<Bytes>, UnsyncBoxBody<Bytes, BoxError>>>;
type BoxFuture = Pin<Box<dyn Future<Output = Result<Answered, Infallible>> + Send>>;
pub(super) type Fallback = Arc<dyn Fn(Request<Incoming>) -> BoxFuture + Send + Sync>;

/// Takes a fallback's type away.
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
    pub(super) metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
}

impl Router {
    /// The service of one socket; a channel whose handshake has passed is put into `opened`.
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
            "/metrics" => self.metrics.as_ref().map(|render| text(StatusCode::OK, render())),
            _ => None,
        }
    }

    /// Why the node should be sent no clients, a line a reason.
    fn not_ready(&self) -> Vec<String> {
        let draining = self.channels.registry().is_draining().then(|| "draining".to_owned());
        draining.into_iter().chain(self.app.hub().not_ready().iter().map(ToString::to_string)).collect()
    }
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

/// The channel of a handshake that has passed; no other socket takes its room while it is answered.
pub(super) type Passed = Option<(Opened, Answering)>;

impl hyper::service::Service<Request<Incoming>> for Connected {
    type Response = Answered;
    type Error = Infallible;
    type Future = BoxFuture;

    fn call(&self, mut request: Request<Incoming>) -> BoxFuture {
        let asked = Asked::of(request.headers());
        if asked.is_meant() {
            let answering = Arc::clone(&self.ticket).answered_by_us();
            let accept = asked.check(request.method(), request.version());
            let parts = request.into_parts().0;
            let opening = accept.and_then(|accept| self.router.channels.open(accept, parts, Some(self.remote)));
            let opened = Arc::clone(&self.opened);
            return match opening {
                Ok(opening) => Box::pin(async move {
                    Ok(ours(match opening.await {
                        Ok((answer, channel)) => {
                            *opened.lock() = Some((channel, answering));
                            answer
                        }
                        Err(refusal) => turn_away(&refusal),
                    }))
                }),
                Err(refusal) => Box::pin(ready(Ok(ours(turn_away(&refusal))))),
            };
        }
        self.ticket.renew();
        request.extensions_mut().insert(RemoteAddr(self.remote));
        if let Some(answer) = self.router.own(&request) {
            return Box::pin(ready(Ok(ours(answer))));
        }
        let (query, transport) = (request.uri().query(), self.router.channels.transport());
        let known = self.router.app.accept(request.uri().path(), query, request.headers(), transport).is_ok();
        let refusal = if known {
            Refusal::new(StatusCode::UPGRADE_REQUIRED, "this takes WebSocket connections only")
        } else {
            Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path")
        };
        let refused = Ok(ours(refuse(&refusal)));
        match &self.router.fallback {
            // A page may stand where an endpoint is; that there is none is no answer there.
            Some(fallback) => {
                let answer = fallback(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    if known && answer.status() == StatusCode::NOT_FOUND { refused } else { Ok(answer) }
                })
            }
            None => Box::pin(ready(refused)),
        }
    }
}
