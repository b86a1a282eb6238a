//! The HTTP servers, and their routes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Shared, management, socket};
use strait_core::in_full;

/// The longest request: an asynchronous invocation's payload, with some room.
const LONGEST: usize = 1024 * 1024;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

/// An answer as AWS gives it, with the name of the error.
pub(super) fn refuse(status: StatusCode, kind: &'static str, message: &str) -> Answer {
    let mut response = answer(status, serde_json::json!({ "message": message }).to_string());
    let headers = response.headers_mut();
    headers.insert("x-amzn-errortype", http::HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// Reads a request whole, if that does not take longer than an answer.
pub(super) async fn whole(shared: &Shared, request: Request<Incoming>) -> Result<Request<Bytes>, Answer> {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(shared.options.integration, Limited::new(body, LONGEST).collect()).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body.to_bytes())),
        Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", "the request did not come whole")),
        Ok(Err(_)) => Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", "the request is too long")),
    }
}

/// Serves until it is dropped.
pub(super) async fn serve<F>(
    listener: TcpListener,
    shared: Arc<Shared>,
    answer: impl Fn(Arc<Shared>, SocketAddr, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
) where
    F: Future<Output = Answer> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %in_full(&error), "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small messages both ways.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answering = answer(Arc::clone(&shared), peer, request);
                async move { Ok::<_, Infallible>(answering.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(error = %in_full(&error), "an HTTP connection failed");
            }
        });
    }
}

/// Answers requests of clients, and the function's requests to AWS' APIs.
pub(super) async fn front(shared: Arc<Shared>, peer: SocketAddr, request: Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if path.contains("/@connections/") {
        return management::answer(&shared, request).await;
    }
    if path.starts_with("/2015-03-31/functions/") {
        return management::invoke(shared, request).await;
    }
    match (request.method(), path) {
        (&Method::GET, "/_local") => {
            let mut page = answer(StatusCode::OK, shared.journal.page());
            let html = http::HeaderValue::from_static("text/html; charset=utf-8");
            page.headers_mut().insert(header::CONTENT_TYPE, html);
            page
        }
        (&Method::GET, "/_local/journal") => {
            answer(StatusCode::OK, serde_json::to_vec(&shared.journal.entries()).unwrap_or_default())
        }
        (&Method::GET, _) => socket::upgrade(shared, peer, request).await,
        _ => refuse(StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden"),
    }
}
