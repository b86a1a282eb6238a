//! One client's WebSocket, from its handshake to `$disconnect`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::connections::{Connection, Order};
use super::faults::What;
use super::http_server::{Answer, answer, refuse};
use super::invocations::Outcome;
use super::management::label;
use super::{Shared, events};

/// How long the client's answer to a close is awaited.
const CLOSING: Duration = Duration::from_secs(5);

/// The number of a connection's messages handed over at once; further ones wait in the client's kernel.
const UNDER_WAY: usize = 256;

/// As API Gateway's ids look: 11 bytes, encoded with their padding.
pub(super) fn random_id() -> String {
    BASE64_URL_SAFE.encode(fastrand::u128(..).to_le_bytes().split_at(11).0)
}

pub(super) fn random_uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Asks the function whether a client may connect, and answers its handshake.
pub(super) async fn upgrade(shared: Arc<Shared>, peer: SocketAddr, mut request: Request<Incoming>) -> Answer {
    let is = |name, expected: &str| {
        let value = request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        value.is_some_and(|value| value.to_ascii_lowercase().contains(expected))
    };
    let asks = request.version() == Version::HTTP_11
        && is(header::UPGRADE, "websocket")
        && is(header::CONNECTION, "upgrade")
        && request.headers().get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let (true, Some(key)) = (asks, key) else {
        return refuse(StatusCode::FORBIDDEN, "MissingAuthenticationTokenException", "Missing Authentication Token");
    };
    let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let connection = Arc::new(Connection::new(random_id(), peer.ip().to_string(), agent.to_owned()));
    shared.connections.add(&connection);
    let mut pending = Pending { shared: Arc::clone(&shared), connection: Some(Arc::clone(&connection)) };
    let allowed = ask(&shared, &connection, request.headers(), request.uri().query()).await;
    let protocol = match allowed {
        Ok(protocol) => protocol,
        Err(refused) => return refused,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    pending.connection = None;
    tokio::spawn(hold(Arc::clone(&shared), connection, upgrade));
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// Forgets a connection if its handshake fails.
struct Pending {
    shared: Arc<Shared>,
    connection: Option<Arc<Connection>>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.shared.connections.remove(&connection.id);
        }
    }
}

async fn invoke(shared: &Shared, what: &str, connection: &str, event: String) -> (String, Outcome) {
    tokio::time::sleep(shared.options.latency).await;
    let began = SystemTime::now();
    let (id, outcome) = shared.invocations.invoke(event).await;
    shared.journal.note(what, connection, label(&outcome), began);
    (id, outcome)
}

/// Runs `$connect`; the subprotocol that the function agrees to, or the refusal to send to the client.
async fn ask(
    shared: &Shared,
    connection: &Connection,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Option<HeaderValue>, Answer> {
    let event = events::connect(connection, headers, query);
    if shared.faults.of_connect(&connection.id) == Some(What::Twice) {
        // As if the first answer was lost: the event is handed over again.
        invoke(shared, "connect", &connection.id, event.clone()).await;
    }
    let asking = invoke(shared, "connect", &connection.id, event);
    let outcome = tokio::time::timeout(shared.options.integration, asking).await;
    let Ok((_, Outcome::Answered(body))) = outcome else {
        return Err(refuse(StatusCode::BAD_GATEWAY, "InternalServerErrorException", "Internal server error"));
    };
    let answered: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(status) = answered["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok()) else {
        return Err(refuse(StatusCode::BAD_GATEWAY, "InternalServerErrorException", "Internal server error"));
    };
    let given = |name: &str| {
        let headers = answered["headers"].as_object()?;
        let (_, value) = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        value.as_str().and_then(|value| HeaderValue::from_str(value).ok())
    };
    if (200..300).contains(&status) {
        return Ok(given("Sec-WebSocket-Protocol"));
    }
    let body = answered["body"].as_str().unwrap_or_default().to_owned();
    let mut refused = answer(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), body);
    if let Some(after) = given("Retry-After") {
        refused.headers_mut().insert(header::RETRY_AFTER, after);
    }
    Err(refused)
}

/// The end of a connection, as `$disconnect` reports it.
struct End {
    code: u16,
    reason: Cow<'static, str>,
    /// The close for the client, if the gateway closes.
    close: Option<CloseCode>,
}

impl End {
    fn gateway(code: CloseCode, reason: &'static str) -> Self {
        Self { code: code.into(), reason: reason.into(), close: Some(code) }
    }
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

async fn hold(shared: Arc<Shared>, connection: Arc<Connection>, upgrade: OnUpgrade) {
    if let Ok(upgraded) = upgrade.await {
        tokio::time::sleep(shared.options.latency).await;
        let config = WebSocketConfig::default()
            .max_frame_size(Some(shared.options.frame))
            .max_message_size(Some(shared.options.message));
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let mut under_way = JoinSet::new();
        let end = run(&shared, &connection, &mut socket, &mut under_way).await;
        under_way.detach_all();
        shared.connections.remove(&connection.id);
        if let Some(code) = end.close {
            let closing = async {
                let frame = CloseFrame { code, reason: end.reason.to_string().into() };
                socket.close(Some(frame)).await?;
                while socket.next().await.is_some_and(|message| message.is_ok()) {}
                Ok::<_, Error>(())
            };
            let _ = tokio::time::timeout(CLOSING, closing).await;
        }
        tell(&shared, &connection, &end).await;
    } else {
        shared.connections.remove(&connection.id);
    }
}

/// Runs `$disconnect`, which is best effort.
async fn tell(shared: &Shared, connection: &Connection, end: &End) {
    let event = events::disconnect(connection, end.code, &end.reason);
    let times = match shared.faults.of_disconnect(&connection.id) {
        Some(What::Lost) => 0,
        Some(What::Twice) => 2,
        _ => 1,
    };
    for _ in 0..times {
        invoke(shared, "disconnect", &connection.id, event.clone()).await;
    }
}

async fn run(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    socket: &mut Socket,
    under_way: &mut JoinSet<()>,
) -> End {
    let mut orders = connection.establish();
    let oldest = Instant::now() + shared.options.lifetime;
    let mut quiet = Instant::now() + shared.options.idle;
    loop {
        tokio::select! {
            Some(_) = under_way.join_next() => {}
            message = socket.next(), if under_way.len() < UNDER_WAY => {
                connection.is_active();
                quiet = Instant::now() + shared.options.idle;
                match message {
                    Some(Ok(Message::Text(text))) => {
                        // Messages are handed over at once: two of one connection may run at the same time.
                        under_way.spawn(deliver(Arc::clone(shared), Arc::clone(connection), text.to_string()));
                    }
                    Some(Ok(Message::Binary(_))) => {
                        return End::gateway(CloseCode::Unsupported, "binary messages are not supported");
                    }
                    Some(Ok(Message::Close(close))) => {
                        let code = close.as_ref().map_or(1005, |close| close.code.into());
                        let reason = match close {
                            Some(close) if !close.reason.is_empty() => close.reason.to_string().into(),
                            Some(_) => "Connection Closed Normally".into(),
                            None => "Client-side close frame status not set".into(),
                        };
                        // Sends the close that the library has queued; a second close would be an error.
                        let _ = tokio::time::timeout(CLOSING, socket.flush()).await;
                        return End { code, reason, close: None };
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Err(Error::Capacity(_))) => return End::gateway(CloseCode::Size, "Message Too Long"),
                    Some(Err(Error::Utf8(_))) => return End::gateway(CloseCode::Invalid, "Invalid UTF-8"),
                    Some(Err(Error::Protocol(_))) => return End::gateway(CloseCode::Protocol, "Protocol error"),
                    Some(Err(_)) | None => {
                        return End { code: 1006, reason: "Connection Closed Abnormally".into(), close: None };
                    }
                }
            }
            order = orders.recv() => match order {
                Some(Order::Send(text)) => {
                    quiet = Instant::now() + shared.options.idle;
                    tokio::select! {
                        sent = socket.send(Message::text(text)) => if sent.is_err() {
                            return End { code: 1006, reason: "Connection Closed Abnormally".into(), close: None };
                        },
                        // The client does not read.
                        () = connection.deleted() => return End::gateway(CloseCode::Normal, "Connection Closed Normally"),
                        () = tokio::time::sleep_until(quiet.min(oldest).into()) => {
                            return End::gateway(CloseCode::Away, "Going away");
                        }
                    }
                }
                Some(Order::Close) | None => return End::gateway(CloseCode::Normal, "Connection Closed Normally"),
            },
            () = tokio::time::sleep_until(quiet.min(oldest).into()) => {
                return End::gateway(CloseCode::Away, "Going away");
            }
        }
    }
}

/// Hands a message over; the client gets an error only if that fails.
async fn deliver(shared: Arc<Shared>, connection: Arc<Connection>, text: String) {
    let handing = invoke(&shared, "message", &connection.id, events::message(&connection, &text));
    let outcome = tokio::time::timeout(shared.options.integration, handing).await;
    let failed = match &outcome {
        Ok((_, Outcome::Answered(_))) => shared.faults.of_message(&connection.id) == Some(What::Error),
        Ok(_) | Err(_) => true,
    };
    if failed {
        let request = outcome.map_or_else(|_| random_uuid(), |(id, _)| id);
        let error = json!({ "message": "Internal server error", "connectionId": connection.id, "requestId": request });
        connection.order(Order::Send(error.to_string()));
    }
}
