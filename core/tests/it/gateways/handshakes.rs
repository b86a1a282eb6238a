use std::time::Duration;

use http::StatusCode;
use strait_core::store::{ChannelStore, RecordPhase, StoreErrorKind};
use strait_core::testkit::Fault;
use strait_core::{App, Channel, Endpoint, Error, Json, NodeId, Payload, Session, State};
use strait_store_memory::MemoryStore;

use super::fake::{FakeGateway, Function, at};
use crate::log::{Log, Turnstile};
use crate::node::{faulty, topic};

async fn welcome(channel: Channel, State(log): State<Log>) -> Result<(), Error> {
    log.note("connect");
    channel.send(&Payload::text("one")).await?;
    channel.send(&Payload::text("two")).await
}

async fn echo(text: String) -> String {
    text
}

async fn bye(State(log): State<Log>) {
    log.note("disconnect");
}

fn function(endpoint: Endpoint, store: &MemoryStore, log: &Log) -> Function {
    let app = App::new().endpoint(endpoint).state(log.clone()).store(store.clone());
    Function::new(app, &FakeGateway::new())
}

#[tokio::test]
async fn what_on_connect_sends_arrives_at_a_client_that_never_speaks() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let function = function(Endpoint::new("a", "/a").public().on_connect(welcome), &store, &log);
    let held = function.handshake("c1", "/?path=/a").await.expect("let in").expect("something is held");
    assert_eq!(function.gateway.posts(), 0, "nothing is posted before the handshake is answered");
    function.gateway.establish("c1");
    function.connected(&held).await;
    function.gateway.sees("c1", &["one", "two"]).await;
    function.connected(&held).await;
    assert_eq!(function.gateway.seen("c1"), ["one", "two"], "once");
}

#[tokio::test]
async fn the_connection_may_be_established_late() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let gateway = FakeGateway::new().with(|capabilities| capabilities.handshake = std::time::Duration::from_secs(60));
    let endpoint = Endpoint::new("a", "/a").public().on_connect(welcome);
    let function = Function::new(App::new().endpoint(endpoint).state(log).store(store), &gateway);
    let held = function.handshake("c1", "/?path=/a").await.expect("let in").expect("something is held");
    let posting = tokio::spawn({
        let (function, held) = (function.clone(), held.clone());
        async move { function.connected(&held).await }
    });
    crate::log::eventually("tries", || gateway.posts() >= 2).await;
    gateway.establish("c1");
    posting.await.expect("it does not panic");
    assert_eq!(gateway.seen("c1"), ["one", "two"]);
}

#[tokio::test]
async fn the_first_message_brings_what_was_held_before_its_reply() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let endpoint = Endpoint::new("a", "/a").public().on_connect(welcome).on_message(echo);
    let function = function(endpoint, &store, &log);
    // The process that ran `on_connect` was killed before it posted anything.
    function.handshake("c1", "/?path=/a").await.expect("let in");
    function.gateway.establish("c1");
    function.message("c1", "three").await;
    assert_eq!(function.gateway.seen("c1"), ["one", "two", "three"]);
    function.message("c1", "four").await;
    assert_eq!(function.gateway.seen("c1"), ["one", "two", "three", "four"]);
}

#[tokio::test]
async fn a_retried_handshake_runs_on_connect_once() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let endpoint = Endpoint::new("a", "/a").public().on_connect(welcome);
    let function = function(endpoint, &store, &log);
    let (first, second) = tokio::join!(function.handshake("c1", "/?path=/a"), function.handshake("c1", "/?path=/a"));
    assert_eq!(first.expect("let in"), second.expect("let in"));
    assert_eq!(log.count("connect"), 1);
    function.gateway.establish("c1");
    let held = function.handshake("c1", "/?path=/a").await.expect("let in").expect("held");
    function.connected(&held).await;
    assert_eq!(function.gateway.seen("c1"), ["one", "two"]);
    assert_eq!(function.handshake("c1", "/?path=/a").await.expect("let in"), None, "it is open");
    assert_eq!(log.count("connect"), 1);
}

#[tokio::test]
async fn a_refusal_has_its_http_status_and_leaves_nothing() {
    async fn refuse() -> Result<(), Error> {
        Err(Error::forbidden("the room is full"))
    }
    async fn authenticate() -> Result<(), Error> {
        Err(Error::unauthenticated("who are you?"))
    }
    async fn closes(channel: Channel) {
        channel.close(strait_core::Close::normal("enough"));
    }
    let (store, log) = (MemoryStore::new(), Log::default());
    let app = App::new()
        .endpoint(Endpoint::new("refused", "/refused").on_connect(refuse).on_disconnect(bye))
        .endpoint(Endpoint::new("unknown", "/unknown").authenticate(authenticate).on_connect(welcome))
        .endpoint(Endpoint::new("closed", "/closed").on_connect(closes))
        .state(log.clone())
        .store(store.clone());
    let function = Function::new(app, &FakeGateway::new());
    for (path, status, message) in [
        ("/?path=/refused", StatusCode::FORBIDDEN, "the room is full"),
        ("/?path=/unknown", StatusCode::UNAUTHORIZED, "who are you?"),
        ("/?path=/closed", StatusCode::FORBIDDEN, "enough"),
        ("/?path=/nowhere", StatusCode::NOT_FOUND, "there is no endpoint at this path"),
    ] {
        let refusal = function.handshake("c1", path).await.expect_err("refused");
        assert_eq!((refusal.status, &*refusal.message), (status, message), "{path}");
        assert!(store.find(&at("c1").location()).await.expect("answers").is_none(), "{path} leaves nothing");
    }
    assert_eq!(log.all(), ["disconnect"], "as on a node, whose on_connect had started");
    function.gateway.establish("c1");
    function.message("c1", "hello").await;
    assert!(function.gateway.is_closed("c1"), "a message without a channel is not handled");
}

#[tokio::test]
async fn a_channel_that_cannot_be_listed_leaves_nothing() {
    let ((store, faults), log) = (faulty(), Log::default());
    let endpoint = Endpoint::new("a", "/a").public().on_connect(welcome).on_disconnect(bye);
    let app = App::new().endpoint(endpoint).state(log.clone()).store(store.clone());
    let function = Function::new(app, &FakeGateway::new());
    faults.always("subscribe", Fault::Refuse(StoreErrorKind::Unavailable));
    let refusal = function.handshake("c1", "/?path=/a").await.expect_err("refused");
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(store.find(&at("c1").location()).await.expect("answers").is_none());
    assert!(log.all().is_empty(), "on_connect has not started");
    faults.heal("subscribe");
    function.connect("c1", "/?path=/a").await;
    assert_eq!(function.gateway.seen("c1"), ["one", "two"]);
}

#[tokio::test]
async fn a_client_whose_record_went_during_on_connect_is_told_to_come_back() {
    async fn subscribe(
        channel: Channel,
        State(log): State<Log>,
        State(turnstile): State<Turnstile>,
    ) -> Result<(), Error> {
        log.note("begins");
        turnstile.pass().await;
        channel.subscribe(&topic("room")).await
    }
    let (store, log, turnstile) = (MemoryStore::new(), Log::default(), Turnstile::new());
    let app = App::new().endpoint(Endpoint::new("a", "/a").public().on_connect(subscribe));
    let app = app.state(log.clone()).state(turnstile.clone()).store(store.clone());
    let function = Function::new(app, &FakeGateway::new());
    let handshake = tokio::spawn({
        let function = function.clone();
        async move { function.handshake("c1", "/?path=/a").await }
    });
    log.wait_for("begins").await;
    let record = store.find(&at("c1").location()).await.expect("answers").expect("it is there");
    let claim = store.claim(&record.fence(), &NodeId::unique(), Duration::from_secs(60)).await.expect("answers");
    store.remove(&[claim.expect("it is claimed")]).await.expect("answers");
    turnstile.let_pass(1);
    let refusal = handshake.await.expect("no panic").expect_err("refused");
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_store_that_fails_in_passing_refuses_nobody() {
    let ((store, faults), log) = (faulty(), Log::default());
    let endpoint = Endpoint::new("a", "/a").public().on_connect(welcome);
    let function = Function::new(App::new().endpoint(endpoint).state(log.clone()).store(store), &FakeGateway::new());
    for (n, fault) in [Fault::Refuse, Fault::LoseAnswer].into_iter().enumerate() {
        faults.next("open", 1, &fault(StoreErrorKind::Unavailable));
        function.connect(&format!("c{n}"), "/?path=/a").await;
        assert_eq!(function.gateway.seen(&format!("c{n}")), ["one", "two"]);
        assert_eq!(log.count("connect"), n + 1);
    }
    let before = faults.calls("open");
    faults.always("open", Fault::Refuse(StoreErrorKind::Unavailable));
    let refusal = function.handshake("c2", "/?path=/a").await.expect_err("refused");
    assert_eq!((refusal.status, faults.calls("open") - before), (StatusCode::SERVICE_UNAVAILABLE, 3));
    faults.heal("open");
    faults.always("open", Fault::Refuse(StoreErrorKind::Misconfigured));
    function.handshake("c2", "/?path=/a").await.expect_err("refused");
    assert_eq!(faults.calls("open") - before, 4, "what does not pass is not tried again");
}

#[tokio::test]
async fn a_disconnect_of_nobody_is_nothing_and_a_second_one_too() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let function = function(Endpoint::new("a", "/a").public().on_disconnect(bye), &store, &log);
    function.disconnect("c1").await;
    assert!(log.all().is_empty());
    function.connect("c1", "/?path=/a").await;
    function.disconnect("c1").await;
    function.disconnect("c1").await;
    assert_eq!(log.all(), ["disconnect"]);
    assert!(store.find(&at("c1").location()).await.expect("answers").is_none());
}

#[tokio::test]
async fn a_channel_without_a_welcome_is_open_at_once() {
    let (store, log) = (MemoryStore::new(), Log::default());
    let function = function(Endpoint::new("a", "/a").public(), &store, &log);
    function.connect("c1", "/?path=/a").await;
    let record = store.find(&at("c1").location()).await.expect("answers").expect("it is there");
    assert_eq!(record.phase, RecordPhase::Open);
}

#[tokio::test]
async fn sessions_are_seen_by_the_next_invocation_and_a_logout_too() {
    async fn login(channel: Channel, Json(user): Json<Name>) -> Result<(), Error> {
        channel.login(Session::new(user.name, ())?).await
    }
    async fn logout(channel: Channel) -> Result<(), Error> {
        channel.logout().await
    }
    async fn who(session: Session<()>) -> String {
        session.user().to_string()
    }
    #[derive(serde::Deserialize)]
    struct Name {
        name: String,
    }
    let store = MemoryStore::new();
    let endpoint = Endpoint::new("a", "/a")
        .route("login", strait_core::Route::new(login).public())
        .on("logout", logout)
        .on("who", who);
    let function = function(endpoint, &store, &Log::default());
    let gateway = &function.gateway;
    function.connect("c1", "/?path=/a").await;
    function.message("c1", r#"{"action":"login","name":"ada"}"#).await;
    function.message("c1", r#"{"action":"who"}"#).await;
    let send = |user: &'static str, text: &'static str| {
        let hub = function.app.hub().clone();
        async move {
            let user = strait_core::UserId::new(user).expect("a name");
            hub.send_to_user(&user, Payload::text(text)).await.expect("the store answers")
        }
    };
    assert_eq!(send("ada", "for ada").await, 1);
    function.message("c1", r#"{"action":"login","name":"bob"}"#).await;
    function.message("c1", r#"{"action":"who"}"#).await;
    assert_eq!(send("ada", "for ada").await, 0, "bob does not get what is ada's");
    assert_eq!(send("bob", "for bob").await, 1);
    function.message("c1", r#"{"action":"logout"}"#).await;
    assert_eq!(send("bob", "for bob").await, 0);
    function.message("c1", r#"{"action":"who"}"#).await;
    let unauthenticated = r#"{"action":"who","error":{"code":"unauthenticated","message":"log in first"}}"#;
    let expected = [
        r#"{"action":"login"}"#,
        r#"{"action":"who","result":"ada"}"#,
        "for ada",
        r#"{"action":"login"}"#,
        r#"{"action":"who","result":"bob"}"#,
        "for bob",
        r#"{"action":"logout"}"#,
        unauthenticated,
    ];
    gateway.sees("c1", &expected).await;
}

/// The gateway takes no message for a connection before its handshake is answered, and the answer waits for messages
/// that are being posted.
#[tokio::test]
async fn on_connects_own_events_and_sends_to_its_own_user_are_held_too() {
    async fn join(channel: Channel, hub: strait_core::EventHub) -> Result<(), Error> {
        let topic = strait_core::Topic::new("t")?;
        channel.subscribe(&topic).await?;
        channel.publish(&topic, Payload::text("joined")).await?;
        let sent = hub.send_to_user(&strait_core::UserId::new("ada")?, Payload::text("direct")).await?;
        channel.send(&Payload::text(format!("{sent} sent"))).await
    }
    async fn ada() -> Result<Session<()>, Error> {
        Ok(Session::new("ada", ())?)
    }
    let (store, log) = (MemoryStore::new(), Log::default());
    let gateway = FakeGateway::new().with(|capabilities| capabilities.handshake = std::time::Duration::from_secs(60));
    let endpoint = Endpoint::new("a", "/a").authenticate(ada).on_connect(join);
    let function = Function::new(App::new().endpoint(endpoint).state(log).store(store), &gateway);
    let began = std::time::Instant::now();
    let held = function.handshake("c1", "/?path=/a").await.expect("let in").expect("something is held");
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    gateway.establish("c1");
    function.connected(&held).await;
    gateway.sees("c1", &["direct", "1 sent", "joined"]).await;
    // From here on the connection is like others.
    function.handshake("c2", "/?path=/a").await.expect("let in");
    crate::log::eventually("the second one's", || gateway.seen("c1").len() == 5).await;
}
