//! The APIs for the function: `@connections`, and invocations of itself.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-how-to-call-websocket-api-connections.html>

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::connections::{Order, Taken};
use super::faults::What;
use super::http_server::{Answer, answer as respond, refuse, whole};
use super::invocations::Outcome;
use super::time::iso;
use super::{Shared, signature};

/// The longest payload of an asynchronous invocation, in bytes.
const LONGEST_EVENT: usize = 256 * 1024;
/// How often an asynchronous invocation that failed is tried again.
const RETRIES: usize = 2;

pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    let began = SystemTime::now();
    let request = match whole(shared, request).await {
        Ok(request) => request,
        Err(refused) => return refused,
    };
    tokio::time::sleep(shared.options.latency).await;
    let (_, id) = request.uri().path().rsplit_once("/@connections/").unwrap_or_default();
    let id = percent_decode_str(id).decode_utf8_lossy().into_owned();
    let method = request.method().clone();
    let fault = if method == Method::POST { shared.faults.of_post(&id) } else { None };
    let answer = match fault {
        Some(What::Hang) => std::future::pending().await,
        Some(What::Status(status)) => fault_answer(status),
        _ => match signature::check(&request, "execute-api", &shared.secret) {
            Err(why) => refuse(StatusCode::FORBIDDEN, "ForbiddenException", why),
            Ok(()) => of_connection(shared, &id, &request),
        },
    };
    shared.journal.note(method.as_str(), &id, answer.status().as_u16().to_string(), began);
    answer
}

fn fault_answer(status: u16) -> Answer {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match status {
        403 => refuse(code, "ForbiddenException", "the caller is not authorized"),
        410 => refuse(code, "GoneException", "Gone"),
        413 => refuse(code, "PayloadTooLargeException", "the payload is too large"),
        429 => refuse(code, "LimitExceededException", "Too Many Requests"),
        _ => refuse(code, "InternalServerErrorException", "Internal server error"),
    }
}

/// An id as API Gateway makes them.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+=".contains(&byte))
}

fn of_connection(shared: &Shared, id: &str, request: &Request<Bytes>) -> Answer {
    if !is_id(id) {
        return refuse(StatusCode::BAD_REQUEST, "BadRequestException", "Invalid connectionId");
    }
    let gone = || refuse(StatusCode::GONE, "GoneException", "Gone");
    let Some(connection) = shared.connections.get(id).filter(|connection| connection.is_established()) else {
        return gone();
    };
    let taken = |taken, done| match taken {
        Taken::Yes => respond(done, Bytes::new()),
        Taken::Gone => gone(),
        Taken::Full => refuse(StatusCode::TOO_MANY_REQUESTS, "LimitExceededException", "the client's buffer is full"),
    };
    match *request.method() {
        Method::POST if request.body().len() > shared.options.message => {
            refuse(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException", "the payload is too large")
        }
        Method::POST => match std::str::from_utf8(request.body()) {
            Ok(text) => taken(connection.order(Order::Send(text.to_owned())), StatusCode::OK),
            Err(_) => refuse(StatusCode::BAD_REQUEST, "BadRequestException", "the payload is not UTF-8"),
        },
        Method::DELETE => taken(connection.order(Order::Close), StatusCode::NO_CONTENT),
        Method::GET => {
            let identity = json!({ "sourceIp": connection.source_ip, "userAgent": connection.user_agent });
            let (connected, active) = (iso(connection.connected_at), iso(connection.last_active()));
            let body = json!({ "connectedAt": connected, "identity": identity, "lastActiveAt": active });
            respond(StatusCode::OK, body.to_string())
        }
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "this method is none of @connections"),
    }
}

/// Lambda's `Invoke`, asynchronous.
pub(super) async fn invoke(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    let request = match whole(&shared, request).await {
        Ok(request) => request,
        Err(refused) => return refused,
    };
    if let Err(why) = signature::check(&request, "lambda", &shared.secret) {
        return refuse(StatusCode::FORBIDDEN, "AccessDeniedException", why);
    }
    if request.headers().get("x-amz-invocation-type").is_none_or(|kind| kind != "Event") {
        return refuse(StatusCode::BAD_REQUEST, "InvalidParameterValueException", "only Event invocations are served");
    }
    if request.body().len() > LONGEST_EVENT {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", "the event is too large");
    }
    let Ok(event) = String::from_utf8(request.into_body().to_vec()) else {
        return refuse(StatusCode::BAD_REQUEST, "InvalidRequestContentException", "the event is not JSON");
    };
    tokio::spawn(async move {
        for _ in 0..=RETRIES {
            let began = SystemTime::now();
            let (_, outcome) = shared.invocations.invoke(event.clone()).await;
            shared.journal.note("invoke", "", label(&outcome), began);
            if matches!(outcome, Outcome::Answered(_)) {
                return;
            }
        }
    });
    respond(StatusCode::ACCEPTED, Bytes::new())
}

/// How an invocation has ended, in a word.
pub(super) fn label(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered(body) => {
            let status = serde_json::from_slice::<serde_json::Value>(body).ok();
            status.and_then(|answer| answer["statusCode"].as_u64()).map_or("answered".to_owned(), |s| s.to_string())
        }
        Outcome::Failed(why) => {
            let told = serde_json::from_slice::<serde_json::Value>(why).ok();
            let told = told.and_then(|error| error["errorMessage"].as_str().map(str::to_owned));
            format!("failed: {}", told.unwrap_or_else(|| String::from_utf8_lossy(why).into_owned()))
        }
        Outcome::TimedOut => "timed out".to_owned(),
    }
}
