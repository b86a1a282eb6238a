//! Endpoints: the kind of channel at a path, and its handlers.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::app::OpeningData;
use crate::error::Error;
use crate::frame::Frame;
use crate::handler::{
    Admit, Call, ConnectContext, Connected, DisconnectContext, Handler, HandlerLayer, MessageContext, MessageService,
    OpenContext, Reply, Requirement, erase,
};
use crate::name::Topic;
use crate::policy::{Limits, Ordering, Origins};
use crate::protocol::plain;
use crate::throttled::Throttled;

type ReadOpening = fn(&OpeningData) -> Result<Arc<dyn Any + Send + Sync>, Error>;
type OnGap = Arc<dyn Fn(Option<&Topic>) -> Frame + Send + Sync>;

/// The definition of a kind of channel: a name, a path pattern, handlers and policies.
///
/// `AppBuilder::build` reports mistakes, such as an unreadable path or two routes of one name.
#[must_use]
pub struct Endpoint {
    pub(crate) inner: EndpointInner,
    requirements: Vec<Requirement>,
    layers: Vec<Arc<dyn HandlerLayer>>,
    routes: Vec<(String, Route)>,
    message: Option<Route>,
    binary: Option<Route>,
    /// The first builder method that was called twice.
    pub(crate) twice: Option<&'static str>,
}

/// The finished definition that serves an endpoint's channels.
pub(crate) struct EndpointInner {
    pub(crate) name: Arc<str>,
    pub(crate) path: String,
    pub(crate) routing_key: String,
    pub(crate) public: bool,
    pub(crate) grace: Option<Duration>,
    pub(crate) limits: Limits,
    pub(crate) ordering: Ordering,
    pub(crate) origins: Origins,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) authenticate: Option<Call<OpenContext, Admit>>,
    pub(crate) read_opening: Option<ReadOpening>,
    pub(crate) connect: Option<Call<ConnectContext, Connected>>,
    pub(crate) disconnect: Option<Call<DisconnectContext, Connected>>,
    pub(crate) routes: Vec<RouteInner>,
    pub(crate) keys: HashMap<Arc<str>, RouteId, foldhash::fast::RandomState>,
    pub(crate) message: Option<RouteId>,
    pub(crate) binary: Option<RouteId>,
    pub(crate) gap: Option<OnGap>,
    pub(crate) counters: Counters,
}

/// The index of one of an endpoint's routes. A message carries it, because an `Arc` would cost as much as routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteId(usize);

pub(crate) struct RouteInner {
    /// The value of the routing key and the prefix of its replies; `None` for a route that takes whole messages.
    pub(crate) key: Option<(Arc<str>, Vec<u8>)>,
    pub(crate) public: bool,
    pub(crate) handler: Call<MessageContext, Reply>,
}

/// The counters of an endpoint. They are registered when the endpoint is made: install the metrics recorder before.
pub(crate) struct Counters {
    pub(crate) opened: metrics::Counter,
    pub(crate) closed: metrics::Counter,
    pub(crate) messages: metrics::Counter,
    pub(crate) limited: metrics::Counter,
    pub(crate) failed: metrics::Counter,
    /// Limits the log lines about failed handlers; `late_lines` limits those about slow ones.
    pub(crate) failure_lines: Throttled,
    pub(crate) late_lines: Throttled,
}

impl Counters {
    pub(crate) fn register(endpoint: &str) -> Self {
        let label = || [metrics::Label::new("endpoint", endpoint.to_owned())];
        Self {
            opened: metrics::counter!("strait_channels_opened_total", label().iter()),
            closed: metrics::counter!("strait_channels_ended_total", label().iter()),
            messages: metrics::counter!("strait_messages_received_total", label().iter()),
            limited: metrics::counter!("strait_messages_rate_limited_total", label().iter()),
            failed: metrics::counter!("strait_handler_errors_total", label().iter()),
            failure_lines: Throttled::default(),
            late_lines: Throttled::default(),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("name", &self.inner.name)
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

/// A handler of messages with its own policies.
#[must_use]
pub struct Route {
    handler: MessageService,
    public: bool,
    requirements: Vec<Requirement>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Route {
    /// A route to a handler.
    pub fn new<H, Args>(handler: H) -> Self
    where
        H: Handler<Args, MessageContext, Reply>,
        Args: 'static,
    {
        Self { handler: MessageService(erase(handler)), public: false, requirements: H::requirements() }
    }

    /// Clients without a session may use it too.
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// Wraps the handler, outside of the layers it already has.
    #[expect(clippy::needless_pass_by_value, reason = "a layer is given away, as in tower")]
    pub fn layer(mut self, layer: impl HandlerLayer) -> Self {
        self.handler = layer.wrap(self.handler);
        self
    }
}

impl Endpoint {
    /// An endpoint at a path such as `/rooms/{room}`.
    pub fn new(name: impl AsRef<str>, path: impl Into<String>) -> Self {
        let name: Arc<str> = Arc::from(name.as_ref());
        Self {
            inner: EndpointInner {
                counters: Counters::register(&name),
                name,
                path: path.into(),
                routing_key: "action".to_owned(),
                public: false,
                grace: None,
                limits: Limits::default(),
                ordering: Ordering::default(),
                origins: Origins::default(),
                subprotocols: Vec::new(),
                authenticate: None,
                read_opening: None,
                connect: None,
                disconnect: None,
                routes: Vec::new(),
                keys: HashMap::default(),
                message: None,
                binary: None,
                gap: None,
            },
            requirements: Vec::new(),
            layers: Vec::new(),
            routes: Vec::new(),
            message: None,
            binary: None,
            twice: None,
        }
    }

    /// Records that a second call of `method` replaced an earlier value.
    fn replaces<T>(&mut self, method: &'static str, before: &Option<T>) {
        if before.is_some() {
            self.twice.get_or_insert(method);
        }
    }

    /// Runs during the handshake. Returns the client's session, or refuses the client with an HTTP status.
    pub fn authenticate<H, Args>(mut self, handler: H) -> Self
    where
        H: Handler<Args, OpenContext, Admit>,
        Args: 'static,
    {
        let before = self.inner.authenticate.replace(erase(handler));
        self.replaces("authenticate", &before);
        self.requirements.extend(H::requirements());
        self
    }

    /// Reads path parameters and query as a `T` during the handshake; mistakes are answered 422.
    pub fn opening<T: DeserializeOwned + Send + Sync + 'static>(mut self) -> Self {
        let read: ReadOpening = |data| Ok(data.decode::<T>()? as Arc<dyn Any + Send + Sync>);
        let before = self.inner.read_opening.replace(read);
        self.replaces("opening", &before);
        self
    }

    /// Runs once the client may connect, before any message is handled. An error refuses the client: on a node with
    /// close code 1008, on Lambda with the handshake's HTTP status.
    pub fn on_connect<H, Args>(mut self, handler: H) -> Self
    where
        H: Handler<Args, ConnectContext, Connected>,
        Args: 'static,
    {
        let before = self.inner.connect.replace(erase(handler));
        self.replaces("on_connect", &before);
        self.requirements.extend(H::requirements());
        self
    }

    /// Runs at least once for every channel that started `on_connect`, after all its other handlers.
    pub fn on_disconnect<H, Args>(mut self, handler: H) -> Self
    where
        H: Handler<Args, DisconnectContext, Connected>,
        Args: 'static,
    {
        let before = self.inner.disconnect.replace(erase(handler));
        self.replaces("on_disconnect", &before);
        self.requirements.extend(H::requirements());
        self
    }

    /// Handles messages with the routing key `key`.
    pub fn on<H, Args>(self, key: impl Into<String>, handler: H) -> Self
    where
        H: Handler<Args, MessageContext, Reply>,
        Args: 'static,
    {
        self.route(key, Route::new(handler))
    }

    /// Handles messages with the routing key `key`, by a route with its own policies.
    pub fn route(mut self, key: impl Into<String>, route: Route) -> Self {
        self.routes.push((key.into(), route));
        self
    }

    /// Handles text messages that match no route.
    pub fn on_message<H, Args>(self, handler: H) -> Self
    where
        H: Handler<Args, MessageContext, Reply>,
        Args: 'static,
    {
        self.message_route(Route::new(handler))
    }

    /// Handles text that no other route takes, by a route with its own policies.
    pub fn message_route(mut self, route: Route) -> Self {
        let before = self.message.replace(route);
        self.replaces("on_message", &before);
        self
    }

    /// Handles binary messages; without it they are answered with `invalid`.
    pub fn on_binary<H, Args>(self, handler: H) -> Self
    where
        H: Handler<Args, MessageContext, Reply>,
        Args: 'static,
    {
        self.binary_route(Route::new(handler))
    }

    /// Handles binary messages, by a route with its own policies.
    pub fn binary_route(mut self, route: Route) -> Self {
        let before = self.binary.replace(route);
        self.replaces("on_binary", &before);
        self
    }

    /// The notice to a client that has missed events of a topic (`None`: direct sends), instead of
    /// `{"gap":{"topic":"…"}}`.
    pub fn on_gap(mut self, gap: impl Fn(Option<&Topic>) -> crate::event::Payload + Send + Sync + 'static) -> Self {
        let gap: OnGap = Arc::new(move |topic| Frame::of(&gap(topic)));
        let before = self.inner.gap.replace(gap);
        self.replaces("on_gap", &before);
        self
    }

    /// Wraps every message handler of the endpoint, outside of the layers of its routes.
    pub fn layer(mut self, layer: impl HandlerLayer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Clients without a session may send messages.
    pub fn public(mut self) -> Self {
        self.inner.public = true;
        self
    }

    /// The member of a message that chooses its route: `action` unless said otherwise.
    pub fn routing_key(mut self, key: impl Into<String>) -> Self {
        self.inner.routing_key = key.into();
        self
    }

    /// Lets a channel outlive its connection by `grace`, for clients with a protocol that can resume.
    pub fn resumable(mut self, grace: Duration) -> Self {
        self.inner.grace = Some(grace);
        self
    }

    /// Subprotocols that clients may ask for (RFC 6455 §1.9). The server agrees to the client's first one that is
    /// listed here; messages stay in the plain format. A client that asks only for others gets none.
    pub fn subprotocols<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.inner.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// The limits of one connection.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.inner.limits = limits;
        self
    }

    /// The order in which serverless deployments handle a channel's messages.
    pub fn ordering(mut self, ordering: Ordering) -> Self {
        self.inner.ordering = ordering;
        self
    }

    /// The web pages that may connect, by their origin.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.inner.origins = origins;
        self
    }

    /// Puts routes, layers and prefixes together.
    pub(crate) fn finish(mut self) -> (EndpointInner, Vec<Requirement>, Vec<String>) {
        let mut twice = Vec::new();
        for (key, route) in std::mem::take(&mut self.routes) {
            let key: Arc<str> = Arc::from(key);
            let prefix = plain::reply_prefix(&self.inner.routing_key, &key);
            let route = self.build(route, Some((Arc::clone(&key), prefix)));
            if self.inner.keys.insert(Arc::clone(&key), route).is_some() {
                twice.push(key.as_ref().to_owned());
            }
        }
        self.inner.message = self.message.take().map(|route| self.build(route, None));
        self.inner.binary = self.binary.take().map(|route| self.build(route, None));
        (self.inner, self.requirements, twice)
    }

    fn build(&mut self, route: Route, key: Option<(Arc<str>, Vec<u8>)>) -> RouteId {
        self.requirements.extend(route.requirements);
        let handler = self.layers.iter().fold(route.handler, |handler, layer| layer.wrap(handler));
        self.inner.routes.push(RouteInner { key, public: route.public, handler: handler.0 });
        RouteId(self.inner.routes.len() - 1)
    }
}

impl EndpointInner {
    /// The route of one of this endpoint's own ids.
    pub(crate) fn route(&self, id: RouteId) -> &RouteInner {
        &self.routes[id.0]
    }

    /// The notice of lost events.
    pub(crate) fn gap_frame(&self, topic: Option<&Topic>) -> Frame {
        // A panic here must not stop the deliveries of other channels on the same lane.
        let own = self.gap.as_ref().and_then(|gap| catch_unwind(AssertUnwindSafe(|| gap(topic))).ok());
        own.unwrap_or_else(|| plain::gap(topic))
    }
}
