//! From an event to an invocation, and back to an answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header;
use strait_core::{
    App, ChannelId, ConnectionId, DisconnectReason, Error, GatewayConnection, Handshake, Refusal, Transport, in_full,
};

use crate::event::{Answer, Event, EventType, GatewayEvent, NoEndpoint, Own, Unreadable};

/// API Gateway waits for 29 s for an answer to `$connect`.
const INTEGRATION: Duration = Duration::from_secs(28);
/// The longest time-out that Lambda knows, in place of a deadline in the past.
const LONGEST: Duration = Duration::from_mins(15);
/// The time reserved for the answer before the deadline: a twentieth of the time left, at most this.
const ANSWERING: Duration = Duration::from_millis(200);

/// Handles a function's events, in any process. Clones are the same function.
#[derive(Debug, Clone)]
pub struct Function {
    app: App,
    endpoint: Option<Arc<str>>,
    region: String,
    /// Whether a deadline in the past was logged.
    past_told: Arc<AtomicBool>,
}

/// The answer to an event, and the work left for after the answer was handed over.
#[derive(Debug)]
pub struct Handled {
    /// The answer, JSON.
    pub answer: Box<serde_json::value::RawValue>,
    /// The argument for [`Function::after`].
    pub after: Option<After>,
}

/// The work left once an answer was handed over.
#[derive(Debug)]
pub struct After {
    held: ChannelId,
    deadline: Instant,
}

/// Why an invocation fails: API Gateway reports the failure to the client, and Lambda repeats asynchronous invocations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The event is of no known kind.
    #[error("the event cannot be read as one of a WebSocket API, of a schedule or of this function: {0}")]
    Unknown(serde_json::Error),
    /// The event asks an authorizer.
    #[error("the event is an authorizer's: attach the function to routes only, `authenticate` decides over handshakes")]
    Authorizer,
    /// The event gives no address to post to its connection.
    #[error("the event names no API and stage: set AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI")]
    NoEndpoint,
    /// The event names a host of its own choice for posts to its connection.
    #[error(
        "the event's apiId or stage has characters that no API's has: set AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI"
    )]
    ForgedEndpoint,
    /// The connection's id is not valid.
    #[error("the event's connection id is no name")]
    Connection(#[from] strait_core::InvalidName),
    /// The store's error, or another failure.
    #[error("{0}")]
    Failed(Error),
}

impl Function {
    /// A function of an application that has a gateway. Posts to connections go to `endpoint`, else to the address of
    /// their event: `https://{api}.execute-api.{region}.amazonaws.com/{stage}`.
    #[must_use]
    pub fn new(app: App, region: &str, endpoint: Option<&str>) -> Self {
        let past_told = Arc::new(AtomicBool::new(false));
        Self { app, endpoint: endpoint.map(Arc::from), region: region.to_owned(), past_told }
    }

    /// The application.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Handles one event, and answers before `deadline` even if the store hangs. A deadline in the past counts as none:
    /// emulators send such deadlines.
    ///
    /// # Errors
    /// [`Failure`]; the message, or the end, was not handled.
    pub async fn handle(&self, event: &str, deadline: SystemTime) -> Result<Handled, Failure> {
        let left = self.left(deadline);
        let answering = (left / 20).min(ANSWERING);
        // At this deadline core hands the remaining work over; half of the answer's time later the call is given up.
        let deadline = Instant::now() + (left - answering);
        let handled = match Event::read(event) {
            Ok(Event::Gateway(event)) => self.of_gateway(*event, deadline, answering / 2).await,
            Ok(Event::Own(own)) => in_time(deadline + answering / 2, self.own(own, deadline)).await,
            Err(Unreadable::Authorizer) => Err(Failure::Authorizer),
            Err(Unreadable::Malformed(error)) => Err(Failure::Unknown(error)),
        };
        if let Err(failure) = &handled
            && !matches!(failure, Failure::Failed(_))
        {
            tracing::error!(error = %failure, "an event is refused");
        }
        handled
    }

    /// The time left.
    fn left(&self, deadline: SystemTime) -> Duration {
        if let Ok(left) = deadline.duration_since(SystemTime::now())
            && !left.is_zero()
        {
            // An instant beyond all of Lambda's time-outs may overflow.
            return left.min(LONGEST);
        }
        if !self.past_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the invocation's deadline is in the past, it counts as none; set this machine's clock, if it is wrong"
            );
        }
        LONGEST
    }

    async fn own(&self, own: Own, deadline: Instant) -> Result<Handled, Failure> {
        let invocation = self.app.invocation(deadline);
        match own {
            Own::GoOn(work) => invocation.go_on(work).await,
            Own::Sweep {} => invocation.sweep().await,
        }
        .map_err(failed)?;
        Ok(answered(&Answer::status(200), None))
    }

    /// Does the work that is left once the answer was handed over.
    pub async fn after(&self, after: After) {
        let invocation = self.app.invocation(after.deadline);
        let connected = in_time(after.deadline, async { invocation.connected(&after.held).await.map_err(failed) });
        if let Err(error) = connected.await {
            tracing::warn!(channel = %after.held, error = %in_full(&error), "what on_connect has sent waits for the first message");
        }
    }

    async fn of_gateway(&self, event: GatewayEvent, deadline: Instant, grace: Duration) -> Result<Handled, Failure> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => Arc::clone(endpoint),
            None => match event.endpoint(&self.region) {
                Ok(endpoint) => endpoint.into(),
                Err(NoEndpoint::Missing) => return Err(Failure::NoEndpoint),
                Err(NoEndpoint::Forged) => return Err(Failure::ForgedEndpoint),
            },
        };
        let connection = GatewayConnection { endpoint, id: ConnectionId::new(&event.request_context.connection_id)? };
        if event.request_context.event_type == EventType::Connect {
            return Ok(self.connect(&event, connection, deadline, grace).await);
        }
        in_time(deadline + grace, self.of_connection(event, &connection, deadline)).await
    }

    /// A message of a connection, or its end.
    async fn of_connection(
        &self,
        event: GatewayEvent,
        connection: &GatewayConnection,
        deadline: Instant,
    ) -> Result<Handled, Failure> {
        let invocation = self.app.invocation(deadline);
        match event.request_context.event_type {
            EventType::Message | EventType::Connect => {
                let body = event.body.as_deref().unwrap_or_default();
                let handled = if event.is_base64_encoded == Some(true) {
                    let bytes = BASE64_STANDARD.decode(body).map_err(|error| failed(error.into()))?;
                    invocation.bytes(connection, &bytes).await
                } else {
                    invocation.message(connection, body).await
                };
                handled.map_err(failed)?;
                Ok(answered(&Answer::status(200), None))
            }
            EventType::Disconnect => {
                let reason = reason(&event);
                invocation.disconnect(connection, reason).await.map_err(failed)?;
                Ok(answered(&Answer::status(200), None))
            }
        }
    }

    async fn connect(
        &self,
        event: &GatewayEvent,
        connection: GatewayConnection,
        deadline: Instant,
        grace: Duration,
    ) -> Handled {
        let address = event.request_context.identity.as_ref().and_then(|identity| identity.source_ip.as_deref());
        let peer =
            address.and_then(|address| address.parse::<IpAddr>().ok()).map(|address| SocketAddr::new(address, 0));
        let query = event.query();
        // API Gateway speaks TLS with its clients, the local one does not.
        let transport = if connection.endpoint.starts_with("https") { Transport::Tls } else { Transport::Plain };
        let headers = event.headers();
        let handshake = Handshake { connection, path: "/", query: query.as_deref(), headers, peer, transport };
        let until = deadline.min(Instant::now() + INTEGRATION);
        let invocation = self.app.invocation(until);
        let connected = tokio::time::timeout_at((until + grace).into(), invocation.connect(handshake)).await;
        let late = |_| {
            tracing::error!("a handshake did not end in its time");
            Err(Refusal::unavailable("the handshake took too long"))
        };
        match connected.unwrap_or_else(late) {
            Ok(handshaken) => {
                let mut answer = Answer::status(200);
                if let Some(chosen) = handshaken.subprotocol.as_ref().and_then(|name| name.to_str().ok()) {
                    answer.headers.insert("Sec-WebSocket-Protocol", chosen.to_owned());
                }
                answered(&answer, handshaken.held.map(|held| After { held, deadline }))
            }
            Err(refusal) => answered(&refused(&refusal), None),
        }
    }
}

/// Gives up work that does not end by `deadline`, so that the invocation is answered before Lambda kills the process.
async fn in_time<T>(deadline: Instant, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late =
        |_| Err(failed(Error::unavailable("the invocation's time is over").because("a call did not end in time")));
    tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(late)
}

fn failed(error: Error) -> Failure {
    if let Some(source) = error.source() {
        tracing::error!(code = error.code(), error = %in_full(source), "an invocation failed");
    }
    Failure::Failed(error)
}

fn answered(answer: &Answer, after: Option<After>) -> Handled {
    let answer = serde_json::value::to_raw_value(answer).expect("an answer is a number and strings");
    Handled { answer, after }
}

fn refused(refusal: &Refusal) -> Answer {
    metrics::counter!("strait_handshakes_refused_total", "status" => refusal.status.as_str().to_owned()).increment(1);
    tracing::debug!(status = refusal.status.as_u16(), "a handshake was refused");
    let mut answer =
        Answer { body: Some(refusal.message.clone().into_owned()), ..Answer::status(refusal.status.as_u16()) };
    if let Some(after) = refusal.retry_after {
        answer.headers.insert(header::RETRY_AFTER.as_str(), after.as_secs().max(1).to_string());
    }
    answer
}

/// Finds the side that ended a connection. API Gateway gives the close code (RFC 6455 §7.4), but names the sender in
/// words only.
fn reason(event: &GatewayEvent) -> DisconnectReason {
    let words = event.request_context.disconnect_reason.as_deref().unwrap_or_default();
    match event.request_context.disconnect_status_code {
        // The connection was idle, or reached the longest lifetime.
        Some(1001) if words.to_ascii_lowercase().contains("going away") => DisconnectReason::Lost,
        // The client closed, with or without a code.
        Some(1000 | 1001 | 1005 | 3000..=4999) => DisconnectReason::Client,
        _ => DisconnectReason::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> GatewayEvent {
        match Event::read(json) {
            Ok(Event::Gateway(event)) => *event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_idle_connections_end_is_lost_and_one_without_a_code_too() {
        for sample in [
            include_str!("../tests/samples/disconnect-idle.json"),
            include_str!("../tests/samples/disconnect-nulls.json"),
        ] {
            assert_eq!(reason(&read(sample)), DisconnectReason::Lost);
        }
        assert_eq!(reason(&read(include_str!("../tests/samples/disconnect.json"))), DisconnectReason::Client);
    }

    #[test]
    fn reasons_are_told_by_the_close_code() {
        let event = |code: i64, words: &str| {
            let json = format!(
                r#"{{"requestContext":{{"eventType":"DISCONNECT","connectionId":"a","disconnectStatusCode":{code},
                "disconnectReason":{words:?}}}}}"#
            );
            reason(&read(&json))
        };
        assert_eq!(event(1005, "Client-side close frame status not set"), DisconnectReason::Client);
        assert_eq!(event(1000, "Connection Closed Normally"), DisconnectReason::Client);
        assert_eq!(event(4001, ""), DisconnectReason::Client);
        assert_eq!(event(1001, "Going away"), DisconnectReason::Lost);
        assert_eq!(event(1006, "Connection Closed Abnormally"), DisconnectReason::Lost);
    }
}
