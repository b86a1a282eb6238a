//! The Lambda runtime API, through which instances get events and answer them.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;

use super::Shared;
use super::http_server::{Answer, answer as respond, whole};
use super::invocations::{Outcome, Taker};
use super::time::millis;

const PREFIX: &str = "/2018-06-01/runtime/";

pub(super) async fn answer(shared: Arc<Shared>, by: Taker, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    match (request.method(), &parts[..]) {
        (&Method::GET, ["invocation", "next"]) => next(&shared, by).await,
        (&Method::POST, ["invocation", id, how @ ("response" | "error")]) => {
            let body = match whole(&shared, request).await {
                Ok(request) => request.into_body(),
                Err(refused) => return refused,
            };
            let outcome = if *how == "response" { Outcome::Answered(body) } else { Outcome::Failed(body) };
            if shared.invocations.answer(id, outcome) {
                respond(StatusCode::ACCEPTED, r#"{"status":"OK"}"#)
            } else {
                let error = r#"{"errorMessage":"the invocation is not running","errorType":"InvalidRequestID"}"#;
                respond(StatusCode::BAD_REQUEST, error)
            }
        }
        (&Method::POST, ["init", "error"]) => {
            tracing::error!("an instance could not begin");
            respond(StatusCode::ACCEPTED, r#"{"status":"OK"}"#)
        }
        _ => respond(StatusCode::NOT_FOUND, r#"{"errorMessage":"no such path","errorType":"NotFound"}"#),
    }
}

async fn next(shared: &Shared, by: Taker) -> Answer {
    shared.has_begun.store(true, Ordering::Relaxed);
    let invocation = shared.invocations.next(by).await;
    let deadline = millis(invocation.deadline).to_string();
    let mut response = respond(StatusCode::OK, invocation.event);
    let headers = response.headers_mut();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", invocation.id.as_str()),
        ("lambda-runtime-deadline-ms", &deadline),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:123456789012:function:local"),
        ("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}
