//! Admission: clients that are let in, and the answers to the others.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use strait_core::store::StoreErrorKind;
use strait_core::testkit::Fault;
use strait_core::{App, Channel, Endpoint, Error, Headers, Limits, Opening, Origins, Session, State, Transport};
use strait_store_memory::MemoryStore;

use crate::log::{Log, Turnstile, eventually};
use crate::node::{Node, TERM, faulty, headers, serve, serve_faulty};

async fn status(endpoint: Endpoint, path: &str, given: &[(&'static str, &str)]) -> u16 {
    serve(endpoint).await.refused(path, given).await.status.as_u16()
}

#[derive(Deserialize)]
struct Page {
    room: String,
    page: u32,
}

/// Refuses every client, in each way that an endpoint can.
fn strict() -> Endpoint {
    Endpoint::new("room", "/rooms/{room}").opening::<Page>().authenticate(async |Headers(headers): Headers| {
        match headers.get("x-token").map(|token| token.as_bytes()) {
            Some(b"good") => Ok(()),
            Some(_) => Err(Error::forbidden("not you")),
            None => Err(Error::unauthenticated("who is it?")),
        }
    })
}

#[tokio::test]
async fn refusals_come_in_the_documented_order() {
    let evil = ("origin", "http://evil.test");
    let node = serve(strict()).await;
    let status = async |path: &str, given: &[(&'static str, &str)]| node.refused(path, given).await.status.as_u16();
    assert_eq!(status("/elsewhere?page=x", &[evil]).await, 404);
    assert_eq!(status("/rooms/a?page=x", &[evil, ("host", "a.test")]).await, 403);
    assert_eq!(status("/rooms/a?page=x", &[]).await, 401);
    assert_eq!(status("/rooms/a?page=x", &[("x-token", "bad")]).await, 403);
    assert_eq!(status("/rooms/a?page=x", &[("x-token", "good")]).await, 422);
    assert_eq!(status("/rooms/a", &[("x-token", "good")]).await, 422);
    let refusal = node.refused("/rooms/a?page=x", &[("x-token", "good")]).await;
    assert_eq!(refusal.message, "parameter page: invalid digit found in string");
    assert_eq!(node.refused("/rooms/a", &[("x-token", "good")]).await.message, "missing field `page`");
    assert!(node.connect_with("/rooms/a?page=1", &[("x-token", "good")]).await.is_ok());
    node.app.stop().await;
    let refusal = node.refused("/rooms/a?page=x", &[]).await;
    assert_eq!(refusal.status, 503, "before authentication");
    assert!(refusal.retry_after.is_some());
    assert_eq!(status("/elsewhere", &[]).await, 404);
}

#[tokio::test]
async fn errors_of_authenticate_have_a_status_each_and_keep_their_sources() {
    for (code, expected) in [
        ("unauthenticated", 401),
        ("forbidden", 403),
        ("banned", 403),
        ("invalid", 422),
        ("rate_limited", 429),
        ("unavailable", 503),
        ("timeout", 503),
        ("internal", 500),
    ] {
        let endpoint =
            Endpoint::new("a", "/").authenticate(move || async move { Err::<(), _>(Error::new(code, "no")) });
        assert_eq!(status(endpoint, "/", &[]).await, expected, "{code}");
    }
    let endpoint = Endpoint::new("a", "/").authenticate(async || Err::<(), _>(std::io::Error::other("hunter2")));
    let refusal = serve(endpoint).await.refused("/", &[]).await;
    assert_eq!((refusal.status.as_u16(), &*refusal.message), (500, "something went wrong on the server"));
}

#[tokio::test]
async fn a_panic_in_authenticate_is_500_and_the_next_client_is_let_in() {
    let endpoint = Endpoint::new("a", "/").authenticate(async |Headers(headers): Headers| {
        assert!(headers.is_empty(), "as asked");
    });
    let node = serve(endpoint).await;
    assert_eq!(node.refused("/", &[("x-panic", "1")]).await.status, 500);
    assert!(node.connect_with("/", &[]).await.is_ok());
}

#[tokio::test]
async fn authentication_has_a_time_limit() {
    let limits = Limits { handler: Duration::from_millis(20), ..Limits::default() };
    let endpoint = Endpoint::new("a", "/").limits(limits).authenticate(async || std::future::pending::<()>().await);
    assert_eq!(status(endpoint, "/", &[]).await, 503);
}

#[tokio::test]
async fn nothing_is_stored_before_authentication_has_passed() {
    let (node, faults) = serve_faulty(strict()).await;
    node.refused("/rooms/a?page=1", &[]).await;
    node.refused("/rooms/a", &[("x-token", "good")]).await;
    assert_eq!(faults.calls("open"), 0);
    assert!(node.connect_with("/rooms/a?page=1", &[("x-token", "good")]).await.is_ok());
    assert_eq!(faults.calls("open"), 1);
}

#[tokio::test]
async fn without_its_store_a_node_lets_nobody_in() {
    let (node, faults) = serve_faulty(Endpoint::new("a", "/")).await;
    faults.next("open", 1, &Fault::Refuse(StoreErrorKind::Unavailable));
    let refusal = node.refused("/", &[]).await;
    assert_eq!((refusal.status.as_u16(), refusal.retry_after.is_some()), (503, true));
    faults.always("lease", Fault::Refuse(StoreErrorKind::Unavailable));
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    assert_eq!(node.refused("/", &[]).await.status, 503);
    faults.heal("lease");
    eventually("the lease is sure", || node.hub().is_sure()).await;
    assert!(node.connect_with("/", &[]).await.is_ok());
}

#[tokio::test]
async fn opening_data_is_typed_and_decoded_and_kept() {
    let endpoint = Endpoint::new("room", "/rooms/{room}")
        .public()
        .opening::<Page>()
        .authenticate(async |page: Opening<Page>| assert!(page.page > 0))
        .on_message(async |page: Opening<Page>, channel: Channel| {
            format!("{} {} {:?} {:?}", page.room, page.page, channel.param("room"), channel.param("page"))
        });
    let node = serve(endpoint).await;
    let expected = r#"a b/ä 2 Some("a b/ä") None"#;
    let client = node.connect("/rooms/a%20b%2F%C3%A4?page=2").await;
    assert_eq!(client.ask("x").await, expected);
    let client = node.connect("/?path=/rooms/a%20b%252F%C3%A4&page=2").await;
    assert_eq!(client.ask("x").await.split(' ').next(), Some("a"), "as behind a gateway");
    assert_eq!(node.refused("/rooms/%ff?page=2", &[]).await.status, 404);
}

#[tokio::test]
async fn a_query_cannot_pass_for_a_path_parameter() {
    let endpoint = Endpoint::new("room", "/rooms/{room}")
        .public()
        .on_message(async |channel: Channel| channel.param("room").unwrap_or_default());
    let node = serve(endpoint).await;
    let client = node.connect("/rooms/a?room=b").await;
    assert_eq!(client.ask("x").await, "a");
    let map = Endpoint::new("room", "/rooms/{room}")
        .public()
        .on_message(async |all: Opening<HashMap<String, String>>| format!("{} {}", all["room"], all["page"]));
    assert_eq!(serve(map).await.connect("/rooms/a?room=b&page=1").await.ask("x").await, "a 1");
}

#[tokio::test]
async fn origins_are_the_endpoints_policy() {
    let evil = [("origin", "http://evil.test"), ("host", "a.test")];
    assert_eq!(status(Endpoint::new("a", "/"), "/", &evil).await, 403);
    let node = serve(Endpoint::new("a", "/").origins(Origins::Any)).await;
    assert!(node.connect_with("/", &evil).await.is_ok());
    let node = serve(Endpoint::new("a", "/").origins(Origins::Listed(vec!["http://evil.test".to_owned()]))).await;
    assert!(node.connect_with("/", &evil).await.is_ok());
    assert_eq!(node.refused("/", &[("origin", "http://other.test"), ("host", "a.test")]).await.status, 403);
}

#[tokio::test]
async fn what_authenticate_answers_is_the_session() {
    let who =
        |endpoint: Endpoint| endpoint.public().on_message(async |session: Option<Session<u8>>| format!("{session:?}"));
    let some = who(Endpoint::new("a", "/")).authenticate(async || Session::new("ann", 1_u8).ok());
    assert!(serve(some).await.connect("/").await.ask("x").await.starts_with("Some"));
    let none = who(Endpoint::new("a", "/")).authenticate(async || None::<Session<u8>>);
    assert_eq!(serve(none).await.connect("/").await.ask("x").await, "None");
    let check = who(Endpoint::new("a", "/")).authenticate(async || Ok::<(), Error>(()));
    assert_eq!(serve(check).await.connect("/").await.ask("x").await, "None");
}

#[tokio::test]
async fn slow_handshakes_do_not_hold_up_others() {
    let endpoint = Endpoint::new("a", "/").authenticate(
        async |Headers(headers): Headers, State(turnstile): State<Turnstile>, State(log): State<Log>| {
            if !headers.is_empty() {
                log.note("slow");
                turnstile.pass().await;
            }
        },
    );
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let app = App::new().endpoint(endpoint).state(log.clone()).state(turnstile.clone()).store(MemoryStore::new());
    let node = Node::start(app).await;
    let accepted = node.app.accept("/", None, &headers(&[]), Transport::Plain).unwrap();
    let slow = tokio::spawn(async move { accepted.admit(headers(&[("x-slow", "1")]), None).await.is_ok() });
    log.wait_for("slow").await;
    assert!(node.connect_with("/", &[]).await.is_ok());
    turnstile.let_pass(1);
    assert!(slow.await.unwrap());
}

#[tokio::test]
async fn a_start_that_failed_can_be_repeated() {
    let (store, faults) = faulty();
    let app = App::new().endpoint(Endpoint::new("a", "/")).store(store).lease(TERM).build().unwrap();
    for op in ["lease", "start"] {
        faults.next(op, 1, &Fault::Refuse(StoreErrorKind::Unavailable));
        assert!(app.start().await.is_err(), "{op}");
        assert!(
            app.accept("/", None, &headers(&[]), Transport::Plain).unwrap().admit(headers(&[]), None).await.is_err(),
            "{op}"
        );
    }
    assert_eq!(faults.calls("release"), 1, "the lease was given back when the bus could not be reached");
    let node = Node::start_app(app.clone()).await;
    assert!(node.connect_with("/", &[]).await.is_ok());
    assert!(app.start().await.is_err(), "it runs already");
}
