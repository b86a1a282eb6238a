//! The handshake, step by step. The steps have the documented order of refusals: path, its length, origin, capacity,
//! authentication, opening data.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;

use super::origin::{origin_passes, other_origin};
use super::{App, OpeningData};
use crate::channel::{Channel, SessionValue, is_gone};
use crate::conversation::Conversation;
use crate::endpoint::EndpointInner;
use crate::error::Error;
use crate::handler::{BoxFuture, OpenContext, Requirement};
use crate::hub::{EventHub, ending};
use crate::in_full::in_full;
use crate::invocation::tries::retried;
use crate::name::{ChannelId, ConnectionId};
use crate::outlet::Outlet;
use crate::panics;
use crate::policy::{Limits, Transport};
use crate::protocol::plain;
use crate::store::{Location, NewChannel, Opened, Record, StoreError, StoreErrorKind};

/// The refusal of a handshake.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The text for the client.
    pub message: Cow<'static, str>,
    /// The time after which the client may try again.
    pub retry_after: Option<Duration>,
    /// A hint for the operator's log: the values that were compared, and the correction.
    pub hint: Option<Box<str>>,
}

impl Refusal {
    /// A refusal with a status and a text.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry_after: None, hint: None }
    }

    /// 503: the server is at its limits, or its store is away.
    #[must_use]
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = Some(Duration::from_secs(2));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// 500: the code that stores the channel panicked, which is logged and counted.
    #[must_use]
    pub fn after_panic(panic: &(dyn Any + Send)) -> Self {
        panics::tell("handshake", panic);
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the channel was not opened")
    }

    pub(crate) fn of_error(hub: &EventHub, error: &Error) -> Self {
        if let Some(source) = error.source()
            && let Some(count) = hub.lines().handshake_refused.count()
        {
            tracing::warn!(count, code = error.code(), error = %in_full(source), "a handshake was refused");
        }
        if is_gone(error) {
            return Self::unavailable(error.message().to_owned());
        }
        let retry_after = (error.status() == StatusCode::SERVICE_UNAVAILABLE).then(|| Duration::from_secs(2));
        Self { retry_after, ..Self::new(error.status(), error.message().to_owned()) }
    }

    fn of_store(hub: &EventHub, error: &StoreError) -> Self {
        if error.is_retryable() {
            // While the store is away, every handshake fails so. The outage itself is logged elsewhere.
            tracing::debug!(error = %error.in_full(), "a channel could not be opened");
        } else if let Some(count) = hub.lines().channel_not_opened.count() {
            tracing::error!(count, error = %error.in_full(), "a channel could not be opened");
        }
        Self::unavailable("the server cannot take connections at the moment")
    }
}

/// A request with a known endpoint, from an origin that may connect.
#[derive(Debug)]
pub struct Accepted {
    app: App,
    endpoint: Arc<EndpointInner>,
    opening: OpeningData,
    subprotocol: Option<HeaderValue>,
}

/// A client that may connect.
pub struct Admitted {
    app: App,
    endpoint: Arc<EndpointInner>,
    opening: Arc<OpeningData>,
    session: Option<Arc<SessionValue>>,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("endpoint", &self.endpoint.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for EndpointInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl App {
    /// Finds the endpoint of a path and checks the origin.
    ///
    /// # Errors
    /// 404 for a path without an endpoint, 414 if path and query exceed [`Limits::opening`], 403 for an origin that may
    /// not connect.
    /// origin that may not connect.
    pub fn accept(
        &self,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
        transport: Transport,
    ) -> Result<Accepted, Refusal> {
        let query = query.unwrap_or_default();
        let not_found = || Refusal::new(StatusCode::NOT_FOUND, "there is no endpoint at this path");
        let found = self.0.router.at(path).map_err(|_| not_found())?;
        if found.params.iter().any(|(_, value)| percent_decode_str(value).decode_utf8().is_err()) {
            return Err(not_found());
        }
        let endpoint = Arc::clone(&self.0.endpoints[*found.value]);
        // The opening data lives as long as the channel: limit it.
        if path.len() + query.len() > endpoint.limits.opening {
            return Err(Refusal::new(StatusCode::URI_TOO_LONG, "path and query are longer than this endpoint takes"));
        }
        if !origin_passes(&endpoint.origins, headers, transport) {
            return Err(other_origin(&endpoint, headers));
        }
        let subprotocol = choose_subprotocol(&endpoint.subprotocols, headers);
        Ok(Accepted {
            app: self.clone(),
            opening: OpeningData::new(path, found.params.iter(), query),
            endpoint,
            subprotocol,
        })
    }
}

/// The client's first subprotocol that the endpoint knows.
fn choose_subprotocol(known: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    if known.is_empty() {
        return None;
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let chosen = offered.flat_map(|value| value.split(',')).map(str::trim).find(|name| known.iter().any(|k| k == name));
    chosen.and_then(|name| HeaderValue::from_str(name).ok())
}

/// The path and the query that a request means. For the path `/`, the query may name the endpoint's path:
/// `/?path=/rooms/a&page=2` is `/rooms/a?page=2`. API Gateway has no paths, so its clients need this. A node allows it
/// only if it is configured to: proxies' rules for paths do not see the query.
///
/// # Errors
/// 404 for a path that is not UTF-8.
pub fn path_in_query<'a>(path: &'a str, query: Option<&'a str>) -> Result<(Cow<'a, str>, Cow<'a, str>), Refusal> {
    let query = query.unwrap_or_default();
    let given = query.split('&').enumerate().find_map(|(at, field)| Some((at, field.strip_prefix("path=")?)));
    let (Some((at, given)), "/" | "") = (given, path) else { return Ok((path.into(), query.into())) };
    let rest: Vec<&str> = query.split('&').enumerate().filter(|(other, _)| *other != at).map(|(_, f)| f).collect();
    // Undo the query's encoding here, in which a plus is a space; the path's own is undone later, segment by segment.
    let spaced = given.replace('+', " ");
    let path = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| Refusal::new(StatusCode::NOT_FOUND, "the path in the query is not UTF-8"))?;
    Ok((path.into_owned().into(), rest.join("&").into()))
}

impl Accepted {
    /// The agreed subprotocol, for `Sec-WebSocket-Protocol`.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&HeaderValue> {
        self.subprotocol.as_ref()
    }

    /// Authenticates the client and reads its opening data. Without an authentication handler, the answer is ready at
    /// once.
    ///
    /// # Errors
    /// 503 while the node is not sure of its lease, the status of `authenticate`'s error, 422 for opening data that
    /// cannot be read.
    pub fn admit(
        self,
        headers: HeaderMap,
        peer: Option<SocketAddr>,
    ) -> impl Future<Output = Result<Admitted, Refusal>> + Send + 'static {
        if !self.app.hub().is_sure() {
            let refusal = Refusal::unavailable("the server cannot take connections at the moment");
            return Either::Left(ready(Err(refusal)));
        }
        self.authenticate(headers, peer)
    }

    /// Does the same as [`admit`](Self::admit) without a node's lease.
    pub(crate) fn authenticate(self, headers: HeaderMap, peer: Option<SocketAddr>) -> Admission {
        let Self { app, endpoint, mut opening, .. } = self;
        // Read the data first, so that `authenticate` can use it; report its errors only after authentication has
        // passed.
        let typed = endpoint.read_opening.map(|read| read(&opening)).transpose();
        let (typed, unreadable) = match typed {
            Ok(typed) => (typed, None),
            Err(error) => (None, Some(error)),
        };
        opening.typed = typed;
        let opening = Arc::new(opening);
        let hub = app.hub().clone();
        let Some(authenticate) = endpoint.authenticate.clone() else {
            let admitted = Admitted { app, endpoint, opening, session: None };
            return Either::Left(ready(unreadable.map_or(Ok(admitted), |error| Err(Refusal::of_error(&hub, &error)))));
        };
        let context = OpenContext { app: app.clone(), opening: Arc::clone(&opening), headers: Arc::new(headers), peer };
        Either::Right(Box::pin(async move {
            let asking = crate::conversation::guarded(|| authenticate(context));
            let result = tokio::time::timeout(endpoint.limits.handler, asking).await;
            let result = result.unwrap_or_else(|_| Err(Error::timeout("authentication took too long")));
            let session = result.map_err(|error| Refusal::of_error(&hub, &error))?.0;
            match unreadable {
                Some(error) => Err(Refusal::of_error(&hub, &error)),
                None => Ok(Admitted { app, endpoint, opening, session }),
            }
        }))
    }
}

/// The result of authentication, now or later.
type Admission = Either<Ready<Result<Admitted, Refusal>>, BoxFuture<Result<Admitted, Refusal>>>;

impl Admitted {
    /// The limits of the connection.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.endpoint.limits
    }

    /// The gap notices of this endpoint, for the outlet.
    #[must_use]
    pub fn gaps(&self) -> Gaps {
        Gaps(Some(Arc::clone(&self.endpoint)))
    }

    /// Stores the new channel with its connection on this node, and creates its conversation.
    ///
    /// # Errors
    /// 503 if the store refuses or fails.
    pub async fn open(self, outlet: Arc<dyn Outlet>) -> Result<Conversation, Refusal> {
        let id = ChannelId::unique();
        let node = self.app.hub().node().clone();
        let new = self.new_channel(Location::Node { node, connection: ConnectionId::from(id.clone()) }, id);
        let Self { app, endpoint, opening, session } = self;
        let hub = app.hub();
        let mut unanswered = Unanswered { hub: hub.clone(), id: Some(new.id.clone()) };
        hub.begins_to_open(&new.id);
        let lease = hub.lease_number();
        let opened = hub.store().open(new).await.map_err(|error| Refusal::of_store(hub, &error))?;
        let channel = Channel::new(app, endpoint, opened.record, opening, session, outlet);
        if !unanswered.hub.register(&channel, lease) {
            return Err(Refusal::unavailable("the server lost its lease meanwhile"));
        }
        unanswered.id = None;
        unanswered.hub.is_done_with(channel.id());
        Ok(Conversation::new(channel))
    }

    fn new_channel(&self, location: Location, id: ChannelId) -> NewChannel {
        NewChannel {
            id,
            endpoint: Arc::clone(&self.endpoint.name),
            location,
            opening: self.opening.to_stored(),
            session: self.session.as_ref().map(|session| session.to_stored()),
            grace: self.endpoint.grace,
            token: None,
            due: None,
        }
    }

    /// Stores a channel with a connection at a gateway, or finds the one that an earlier try has stored. The flag
    /// says whether the channel is new.
    pub(crate) async fn open_at(
        self,
        location: &Location,
        until: Instant,
        outlet: impl FnOnce(&Record) -> Arc<dyn Outlet>,
    ) -> Result<(Channel, Record, bool), Refusal> {
        let id = ChannelId::unique();
        let longest = self.app.hub().gateways().gateway.as_ref().and_then(|gateway| gateway.capabilities().longest());
        let new = NewChannel { due: longest, ..self.new_channel(location.clone(), id.clone()) };
        let Self { app, endpoint, opening, session } = self;
        let (hub, store) = (app.hub(), app.store());
        let record = match retried(until, || store.open(new.clone())).await {
            Ok(Opened { record, .. }) => record,
            Err(error) if error.kind == StoreErrorKind::Conflict => {
                let found =
                    retried(until, || store.find(location)).await.map_err(|error| Refusal::of_store(hub, &error))?;
                found.ok_or_else(|| Refusal::of_store(hub, &error))?
            }
            Err(error) => return Err(Refusal::of_store(hub, &error)),
        };
        // This also holds if the store's first answer was lost.
        let created = record.id == id;
        let outlet = outlet(&record);
        let channel = Channel::new(app.clone(), endpoint, record.clone(), opening, session.filter(|_| created), outlet);
        Ok((channel, record, created))
    }
}

/// Removes a channel that the store may hold although the handshake failed: the store answered an error, the client
/// left, or the lease was lost.
struct Unanswered {
    hub: EventHub,
    id: Option<ChannelId>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.hub.is_done_with(&id);
            ending::undo(&self.hub, id);
        }
    }
}

/// Encodes the gap notices of one endpoint; by default in the plain format.
#[derive(Clone, Debug, Default)]
pub struct Gaps(Option<Arc<EndpointInner>>);

impl Gaps {
    /// The notice for a topic.
    #[must_use]
    pub fn frame(&self, topic: &crate::name::Topic) -> crate::frame::Frame {
        self.0.as_ref().map_or_else(|| plain::gap(Some(topic)), |endpoint| endpoint.gap_frame(Some(topic)))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_subprotocol_is_chosen() {
        let known = ["chat.v2".to_owned(), "chat.v1".to_owned()];
        let chosen = |offered: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for offered in offered {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
            }
            choose_subprotocol(&known, &headers)
        };
        assert_eq!(chosen(&["other, chat.v1, chat.v2"]).expect("known"), "chat.v1");
        assert_eq!(chosen(&["other", "chat.v2"]).expect("known"), "chat.v2");
        assert_eq!(chosen(&["Chat.V1"]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn the_path_may_travel_in_the_query() {
        let found =
            |query| path_in_query("/", Some(query)).ok().map(|(path, rest)| (path.into_owned(), rest.into_owned()));
        let expected = |path: &str, rest: &str| Some((path.to_owned(), rest.to_owned()));
        assert_eq!(found("path=/rooms/a&x=1"), expected("/rooms/a", "x=1"));
        assert_eq!(found("x=1&path=%2Frooms%2Fa%20b"), expected("/rooms/a b", "x=1"));
        assert_eq!(found("path=%2Frooms%2Fa%252Fb%2520c"), expected("/rooms/a%2Fb%20c", ""));
        assert_eq!(found("path=/rooms/a+b%2Bc"), expected("/rooms/a b+c", ""));
        assert_eq!(found("x=1"), expected("/", "x=1"));
        assert_eq!(found("path=%ff"), None);
        let elsewhere = path_in_query("/rooms/b", Some("path=/rooms/a")).expect("it is as it came");
        assert_eq!(elsewhere, ("/rooms/b".into(), "path=/rooms/a".into()));
    }
}
