//! The application: endpoints, state and a store, ready to be served.

mod handshake;
mod opening;
mod origin;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use matchit::{InsertError, Router};
use tokio::runtime::Handle;

pub use handshake::{Accepted, Admitted, Gaps, Refusal, path_in_query};
pub use opening::OpeningData;

use crate::channel::Channel;
use crate::endpoint::{Endpoint, EndpointInner};
use crate::event::Retention;
use crate::frame::Frame;
use crate::gateway::Gateway;
use crate::handler::Requirement;
use crate::hub::{Continuation, EventHub, Gateways, HubSettings};
use crate::name::{NodeId, Topic};
use crate::outlet::{Nowhere, Outlet};
use crate::store::{Record, Store, StoreError};

/// An application. Clones are the same one.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// A weak reference to an application, for its hub.
pub(crate) struct WeakApp(Weak<Inner>);

impl WeakApp {
    pub(crate) fn upgrade(&self) -> Option<App> {
        self.0.upgrade().map(App)
    }
}

struct Inner {
    endpoints: Vec<Arc<EndpointInner>>,
    router: Router<usize>,
    states: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    hub: EventHub,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.endpoints.iter().map(|endpoint| &*endpoint.name);
        f.debug_set().entries(names).finish()
    }
}

/// The reason why an application cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no store.
    #[error("the application has no store, give one with `store`")]
    NoStore,
    /// There is no endpoint.
    #[error("the application has no endpoint, give one with `endpoint`")]
    NoEndpoint,
    /// Two endpoints have one name.
    #[error("two endpoints are named {0:?}, give each a name of its own")]
    EndpointTwice(String),
    /// A setting was given twice that can be given once.
    #[error("{0} was given twice, the second would take the place of the first")]
    Twice(String),
    /// No request has such a path.
    #[error("no request has the path {path:?} of endpoint {endpoint:?}: {why}")]
    NeverMatches {
        /// The endpoint.
        endpoint: String,
        /// Its path.
        path: String,
        /// The mistake, and its correction.
        why: &'static str,
    },
    /// The paths of two endpoints match the same requests.
    #[error("endpoints {first:?} at {first_path:?} and {second:?} at {second_path:?} match the same paths, change one")]
    PathTaken {
        /// The endpoint that was given first.
        first: String,
        /// Its path.
        first_path: String,
        /// The other one.
        second: String,
        /// Its path.
        second_path: String,
    },
    /// A path pattern cannot be read.
    #[error("the path {path:?} of endpoint {endpoint:?} cannot be served")]
    Path {
        /// The endpoint.
        endpoint: String,
        /// Its path.
        path: String,
        /// The router's error.
        source: matchit::InsertError,
    },
    /// An endpoint has two routes for one key.
    #[error("endpoint {endpoint:?} has two routes for {key:?}")]
    RouteTwice {
        /// The endpoint.
        endpoint: String,
        /// The key.
        key: String,
    },
    /// A routing key that the replies use themselves.
    #[error("endpoint {0:?} cannot route by that key: it must not be empty, `error`, `gap` or `result`")]
    RoutingKey(String),
    /// No channel of the endpoint could work with this limit.
    #[error("the limit `{limit}` of endpoint {endpoint:?} must be {must}")]
    Limit {
        /// The endpoint.
        endpoint: String,
        /// The limit: a field of [`Limits`](crate::Limits), or `resumable`.
        limit: &'static str,
        /// The allowed values.
        must: &'static str,
    },
    /// The lease has no length.
    #[error("the lease must last for some time, 15 s say")]
    Lease,
    /// No bytes of events may wait for their delivery.
    #[error("a delivery lane must hold some bytes, 32 MiB say")]
    DeliveryBytes,
    /// A handler needs a state that was not given.
    #[error("a handler of endpoint {endpoint:?} needs a state of type {state}, give one with `state`")]
    NoState {
        /// The endpoint.
        endpoint: String,
        /// The type.
        state: &'static str,
    },
}

/// A hundred years. Longer times, such as [`Duration::MAX`], count as this one: clocks and stores can still add it to
/// now.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// Builds an [`App`].
#[derive(Default)]
#[must_use]
pub struct AppBuilder {
    endpoints: Vec<Endpoint>,
    states: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    store: Option<Arc<dyn Store>>,
    gateways: Gateways,
    settings: HubSettings,
    /// The first setting that was given twice.
    twice: Option<String>,
}

impl fmt::Debug for AppBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppBuilder").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl AppBuilder {
    /// Adds an endpoint.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Gives handlers a value by its type: [`State<T>`](crate::State).
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        if self.states.insert(TypeId::of::<T>(), Arc::new(state)).is_some() {
            self.twice.get_or_insert_with(|| format!("a state of type {}", std::any::type_name::<T>()));
        }
        self
    }

    /// Chooses the store.
    pub fn store(self, store: impl Store) -> Self {
        self.shared_store(Arc::new(store))
    }

    /// Chooses the store at run time.
    pub fn shared_store(mut self, store: Arc<dyn Store>) -> Self {
        if self.store.replace(store).is_some() {
            self.twice.get_or_insert_with(|| "the store".to_owned());
        }
        self
    }

    /// Sets the gateway, which posts to the connections that it holds. Invocations need it, and so do nodes of a
    /// fleet with such channels.
    pub fn gateway(mut self, gateway: impl Gateway) -> Self {
        self.gateways.gateway = Some(Arc::new(gateway));
        self
    }

    /// Whether [`gateway`](Self::gateway) was called.
    #[must_use]
    pub fn has_gateway(&self) -> bool {
        self.gateways.gateway.is_some()
    }

    /// Sets the continuation, which takes over work that an invocation has no time for.
    pub fn continuation(mut self, continuation: impl Continuation) -> Self {
        self.gateways.continuation = Some(Arc::new(continuation));
        self
    }

    /// Whether [`continuation`](Self::continuation) was called.
    #[must_use]
    pub fn has_continuation(&self) -> bool {
        self.gateways.continuation.is_some()
    }

    /// Sets the retention of topics with a name that begins with `prefix`. The longest matching prefix decides. Without
    /// a match, nothing is kept.
    pub fn retain(mut self, prefix: impl Into<String>, retention: Retention) -> Self {
        self.settings.retentions.push((prefix.into(), retention));
        self
    }

    /// Sets the term of the node's lease in the store: 15 s. Other nodes take over a dead node's channels after about
    /// this time.
    pub fn lease(mut self, term: Duration) -> Self {
        self.settings.lease = term;
        self
    }

    /// Sets the bytes of events that may wait in each of the node's 16 delivery lanes, events under delivery included:
    /// 32 MiB. Further events are dropped, and members get a gap notice. An event that is larger waits alone.
    pub fn delivery_bytes(mut self, bytes: usize) -> Self {
        self.settings.delivery_bytes = bytes;
        self
    }

    /// Checks all settings and builds the application.
    ///
    /// # Errors
    /// [`BuildError`] names the mistake and its correction.
    pub fn build(mut self) -> Result<App, BuildError> {
        if let Some(twice) = self.twice {
            return Err(BuildError::Twice(twice));
        }
        let store = self.store.ok_or(BuildError::NoStore)?;
        if self.settings.lease.is_zero() {
            return Err(BuildError::Lease);
        }
        if self.settings.delivery_bytes == 0 {
            return Err(BuildError::DeliveryBytes);
        }
        if self.endpoints.is_empty() {
            return Err(BuildError::NoEndpoint);
        }
        self.settings.lease = self.settings.lease.min(LONGEST);
        let mut router = Router::new();
        let mut endpoints: Vec<Arc<EndpointInner>> = Vec::new();
        for endpoint in self.endpoints {
            if let Some(what) = endpoint.twice {
                return Err(BuildError::Twice(format!("`{what}` of endpoint {:?}", endpoint.inner.name)));
            }
            let (mut inner, requirements, twice) = endpoint.finish();
            inner.limits.handler = inner.limits.handler.min(LONGEST);
            inner.grace = inner.grace.map(|grace| grace.min(LONGEST));
            check(&inner, &requirements, twice, &self.states)?;
            if endpoints.iter().any(|other| other.name == inner.name) {
                return Err(BuildError::EndpointTwice(inner.name.as_ref().to_owned()));
            }
            if let Err(error) = router.insert(inner.path.clone(), endpoints.len()) {
                return Err(path_error(&inner, error, &endpoints));
            }
            endpoints.push(Arc::new(inner));
        }
        self.settings.retentions.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let hub = EventHub::new(NodeId::unique(), store, self.settings, self.gateways);
        let app = App(Arc::new(Inner { endpoints, router, states: self.states, hub }));
        app.hub().gateways().set_app(WeakApp(Arc::downgrade(&app.0)));
        Ok(app)
    }
}

/// The error of a path that cannot be served beside those of the other endpoints.
fn path_error(endpoint: &EndpointInner, source: InsertError, others: &[Arc<EndpointInner>]) -> BuildError {
    let (name, path) = (endpoint.name.as_ref().to_owned(), endpoint.path.clone());
    match &source {
        InsertError::Conflict { with } => {
            let first = others.iter().find(|other| other.path == *with);
            let first = first.map(|first| first.name.as_ref().to_owned()).unwrap_or_default();
            BuildError::PathTaken { first, first_path: with.clone(), second: name, second_path: path }
        }
        _ => BuildError::Path { endpoint: name, path, source },
    }
}

/// The reason why no request can have this path.
fn never_matches(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        Some("a path begins with `/`")
    } else if path.contains(['?', '#']) {
        Some("a path ends before `?` and `#`, what comes after is read by `Endpoint::opening`")
    } else if path.split('/').any(|segment| segment.starts_with([':', '*'])) {
        Some("a parameter is written `{id}`, and the rest of a path `{*rest}`")
    } else {
        None
    }
}

fn check(
    endpoint: &EndpointInner,
    requirements: &[Requirement],
    twice: Vec<String>,
    states: &HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
) -> Result<(), BuildError> {
    let name = || endpoint.name.as_ref().to_owned();
    if let Some(why) = never_matches(&endpoint.path) {
        return Err(BuildError::NeverMatches { endpoint: name(), path: endpoint.path.clone(), why });
    }
    if let Some(key) = twice.into_iter().next() {
        return Err(BuildError::RouteTwice { endpoint: name(), key });
    }
    if matches!(endpoint.routing_key.as_str(), "" | "error" | "gap" | "result") {
        return Err(BuildError::RoutingKey(name()));
    }
    let resumable = (endpoint.grace == Some(Duration::ZERO)).then_some(("resumable", "longer than nothing"));
    if let Some((limit, must)) = endpoint.limits.mistake().or(resumable) {
        return Err(BuildError::Limit { endpoint: name(), limit, must });
    }
    match requirements.iter().find(|requirement| !states.contains_key(&requirement.state)) {
        Some(missing) => Err(BuildError::NoState { endpoint: name(), state: missing.name }),
        None => Ok(()),
    }
}

impl App {
    /// Starts an empty application.
    #[expect(clippy::new_ret_no_self, reason = "an application is made by its builder")]
    pub fn new() -> AppBuilder {
        AppBuilder::default()
    }

    /// The hub, to publish, send and query outside of handlers.
    #[must_use]
    pub fn hub(&self) -> &EventHub {
        &self.0.hub
    }

    /// Puts the node on the bus and begins its lease, on the present tokio runtime. Adapters for long-lived nodes call
    /// it before they accept connections.
    ///
    /// # Errors
    /// The store's error.
    pub async fn start(&self) -> Result<(), StoreError> {
        self.start_on(&[Handle::current()]).await
    }

    /// Does the same as [`start`](Self::start), and spreads deliveries to topics' members over several runtimes, by
    /// topic. All must run until [`stop`](Self::stop) was called. An empty list means the present runtime.
    ///
    /// # Errors
    /// The store's error.
    pub async fn start_on(&self, deliveries: &[Handle]) -> Result<(), StoreError> {
        self.0.hub.start(self, deliveries).await
    }

    /// Gives the lease back and leaves the bus. Other nodes end the channels that are still here.
    pub async fn stop(&self) {
        self.0.hub.stop().await;
    }

    pub(crate) fn state<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.states.get(&TypeId::of::<T>()).and_then(|state| state.downcast_ref())
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.0.hub.store()
    }

    pub(crate) fn endpoint(&self, name: &str) -> Option<&Arc<EndpointInner>> {
        self.0.endpoints.iter().find(|endpoint| &*endpoint.name == name)
    }

    pub(crate) fn endpoint_names(&self) -> Vec<Arc<str>> {
        self.0.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.name)).collect()
    }

    /// The gap notice of an endpoint.
    pub(crate) fn gap_frame(&self, endpoint: &str, topic: &Topic) -> Option<Frame> {
        self.endpoint(endpoint).map(|endpoint| endpoint.gap_frame(Some(topic)))
    }

    /// Rebuilds a channel from its record, without a connection; `None` if this application has no such endpoint.
    pub(crate) fn rehydrate(&self, record: Record) -> Option<Channel> {
        self.rehydrate_with(record, Arc::new(Nowhere))
    }

    pub(crate) fn rehydrate_with(&self, record: Record, outlet: Arc<dyn Outlet>) -> Option<Channel> {
        let endpoint = self.endpoint(&record.endpoint)?;
        let opening = OpeningData::from_stored(record.opening.clone()).unwrap_or_else(|| {
            tracing::error!(channel = %record.id, "the record's opening data cannot be read");
            OpeningData::new("", [], "")
        });
        let endpoint = Arc::clone(endpoint);
        Some(Channel::new(self.clone(), endpoint, record, Arc::new(opening), None, outlet))
    }
}
