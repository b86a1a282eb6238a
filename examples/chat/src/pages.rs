//! The page and its files, from the binary itself.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tower_service::Service;

const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'; \
                      base-uri 'none'";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($path:literal => $kind:ident $file:literal;)*) => {
        fn file(path: &str) -> Option<(&'static str, &'static str)> {
            match path {
                $($path => Some(($kind, include_str!(concat!("../page/", $file)))),)*
                _ => None,
            }
        }
    };
}

files! {
    "/" => HTML "index.html";
    "/style.css" => CSS "style.css";
    "/app.js" => JS "app.js";
    "/composer.js" => JS "composer.js";
    "/connection.js" => JS "connection.js";
    "/dom.js" => JS "dom.js";
    "/log.js" => JS "log.js";
    "/people.js" => JS "people.js";
}

/// Serves the chat's page.
#[must_use]
pub fn page() -> Page {
    Page
}

/// A browser that asks for a room's channel is shown the room.
fn to_room(room: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(location) = HeaderValue::try_from(format!("/#{room}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// See [`page`].
#[derive(Debug, Clone, Copy)]
pub struct Page;

impl<B> Service<Request<B>> for Page {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let room = request.uri().path().strip_prefix("/rooms/").filter(|room| !room.is_empty() && !room.contains('/'));
        if let Some(room) = room.filter(|_| reads) {
            return ready(Ok(to_room(room)));
        }
        let (status, kind, text) = match (request.method(), file(request.uri().path())) {
            (&Method::GET | &Method::HEAD, Some((kind, text))) => (StatusCode::OK, kind, text),
            (_, Some(_)) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "this can only be read\n"),
            (_, None) => (StatusCode::NOT_FOUND, "text/plain", "there is nothing at this path\n"),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        ready(Ok(response))
    }
}
