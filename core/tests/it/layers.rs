//! Tower layers around handlers.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::task::{Context, Poll};
use std::time::Duration;

use strait_core::{BoxFuture, Endpoint, Error, Json, MessageContext, MessageService, Reply, Route};
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder};

use crate::log::Log;
use crate::node::serve;

/// Notes when a message goes in and comes out.
#[derive(Clone)]
struct Trace(&'static str, Log);

#[derive(Clone)]
struct Traced<S>(S, Trace);

impl<S> Layer<S> for Trace {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced(inner, self.clone())
    }
}

impl<S> Service<MessageContext> for Traced<S>
where
    S: Service<MessageContext, Response = Reply, Error = Error>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<Result<Reply, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, context: MessageContext) -> Self::Future {
        let Trace(name, log) = self.1.clone();
        log.note(format!("{name} in {:?}", context.route()));
        let inner = self.0.call(context);
        Box::pin(async move {
            let result = inner.await;
            log.note(format!("{name} out"));
            result
        })
    }
}

#[tokio::test]
async fn the_endpoints_layers_are_around_those_of_its_routes_and_the_last_one_is_outermost() {
    let log = Log::default();
    let trace = |name| Trace(name, log.clone());
    let endpoint = Endpoint::new("a", "/")
        .public()
        .layer(trace("endpoint"))
        .route("x", Route::new(async || ()).layer(trace("inner")).layer(trace("outer")))
        .on_message(async || ())
        .layer(trace("last"));
    let client = serve(endpoint).await.connect("/").await;
    client.ask(r#"{"action":"x"}"#).await;
    let x = ["last", "endpoint", "outer", "inner"].map(|name| format!("{name} in Some(\"x\")"));
    let out = ["inner", "outer", "endpoint", "last"].map(|name| format!("{name} out"));
    assert_eq!(log.all(), [x, out].concat());
    client.send("whole");
    log.wait_for("last in None").await;
}

#[tokio::test]
async fn layers_do_not_run_for_who_may_not_use_the_route() {
    let log = Log::default();
    let endpoint = Endpoint::new("a", "/").route("x", Route::new(async || ()).layer(Trace("layer", log.clone())));
    let client = serve(endpoint).await.connect("/").await;
    assert!(client.ask(r#"{"action":"x"}"#).await.contains("unauthenticated"));
    assert_eq!(log.all(), [""; 0]);
}

#[tokio::test]
async fn towers_timeout_works_and_lets_errors_through() {
    let hang =
        Route::new(async || std::future::pending::<()>().await).layer(TimeoutLayer::new(Duration::from_millis(10)));
    let refuse = Route::new(async || Err::<(), _>(Error::new("full", "the room is full").with_details(&3)))
        .layer(TimeoutLayer::new(Duration::from_secs(5)));
    let client =
        serve(Endpoint::new("a", "/").public().route("hang", hang).route("refuse", refuse)).await.connect("/").await;
    let late = r#"{"action":"hang","error":{"code":"timeout","message":"this took too long"}}"#;
    assert_eq!(client.ask(r#"{"action":"hang"}"#).await, late);
    let full = r#"{"action":"refuse","error":{"code":"full","message":"the room is full","details":3}}"#;
    assert_eq!(client.ask(r#"{"action":"refuse"}"#).await, full);
}

#[tokio::test]
async fn a_service_builders_stack_maps_errors_and_replies() {
    let late = |error: Box<dyn StdError + Send + Sync>| {
        if error.is::<tower::timeout::error::Elapsed>() { Error::timeout("too slow") } else { Error::internal(error) }
    };
    let stack = ServiceBuilder::new().map_err(late).timeout(Duration::from_millis(10));
    let json = ServiceBuilder::new().map_response(|_: Reply| Json("mapped"));
    let infallible = tower::layer::layer_fn(|inner: MessageService| {
        tower::util::MapErr::new(inner, |_: Error| -> Infallible { unreachable!("this one does not fail") })
    });
    let endpoint = Endpoint::new("a", "/")
        .public()
        .route("hang", Route::new(async || std::future::pending::<()>().await).layer(stack))
        .route("map", Route::new(async || ()).layer(json))
        .route("sure", Route::new(async || Json(1)).layer(infallible));
    let client = serve(endpoint).await.connect("/").await;
    let late = r#"{"action":"hang","error":{"code":"timeout","message":"too slow"}}"#;
    assert_eq!(client.ask(r#"{"action":"hang"}"#).await, late);
    assert_eq!(client.ask(r#"{"action":"map"}"#).await, r#"{"action":"map","result":"mapped"}"#);
    assert_eq!(client.ask(r#"{"action":"sure"}"#).await, r#"{"action":"sure","result":1}"#);
}

#[tokio::test]
async fn a_layers_panic_is_internal() {
    let explosive = ServiceBuilder::new().map_request(|context: MessageContext| -> MessageContext {
        assert!(context.route().is_none(), "as asked");
        context
    });
    let endpoint =
        Endpoint::new("a", "/").public().on("x", async || ()).on_message(async |text: String| text).layer(explosive);
    let client = serve(endpoint).await.connect("/").await;
    assert!(client.ask(r#"{"action":"x"}"#).await.contains("internal"));
    assert_eq!(client.ask("still here").await, "still here");
}
