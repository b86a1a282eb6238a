use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use strait_core::store::StoreErrorKind;
use strait_core::testkit::Fault;
use strait_core::{App, Channel, ChannelState, Close, Endpoint, Error, Json, Payload, Posted, State, Topic};
use strait_store_memory::MemoryStore;

use super::fake::{FakeGateway, Function, at};
use crate::log::{Log, Turnstile, eventually};
use crate::node::faulty;

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Seen {
    texts: Vec<String>,
}

async fn note(
    text: String,
    state: ChannelState<Seen>,
    State(turnstile): State<Turnstile>,
) -> Result<Json<usize>, Error> {
    // Both invocations have read the state before either writes.
    state.get()?;
    turnstile.pass().await;
    let count = state.update(|seen| {
        seen.texts.push(text.clone());
        seen.texts.len()
    });
    Ok(Json(count.await?))
}

fn function(endpoint: Endpoint) -> Function {
    Function::new(App::new().endpoint(endpoint).store(MemoryStore::new()), &FakeGateway::new())
}

#[tokio::test]
async fn of_two_parallel_invocations_both_updates_hold() {
    let turnstile = Turnstile::new();
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .on_message(note)
        .on("all", async |state: ChannelState<Seen>| Ok::<_, Error>(Json(state.get()?.texts.len())));
    let app = App::new().endpoint(endpoint).state(turnstile.clone()).store(MemoryStore::new());
    let function = Function::new(app, &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let both = async { tokio::join!(function.message("c1", "one"), function.message("c1", "two")) };
    let let_pass = async {
        tokio::task::yield_now().await;
        turnstile.let_pass(2);
    };
    tokio::join!(both, let_pass);
    let mut counts = function.gateway.seen("c1");
    counts.sort();
    assert_eq!(counts, ["1", "2"]);
    function.message("c1", r#"{"action":"all"}"#).await;
    assert_eq!(function.gateway.seen("c1")[2], r#"{"action":"all","result":2}"#);
}

#[tokio::test]
async fn who_sends_and_leaves_keeps_no_invocation_waiting() {
    let gateway = FakeGateway::new().with(|caps| caps.handshake = Duration::from_secs(60));
    let endpoint = Endpoint::new("a", "/a").public().on_message(async |text: String| text);
    let function = Function::new(App::new().endpoint(endpoint).store(MemoryStore::new()), &gateway);
    function.connect("c1", "/?path=/a").await;
    gateway.lose("c1");
    let began = Instant::now();
    function.message("c1", "hello").await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// As after a freeze, when the store's connections have died without notice.
#[tokio::test]
async fn a_store_that_does_not_answer_at_first_loses_no_message_and_no_end() {
    let ((store, faults), log) = (faulty(), Log::default());
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .on_message(async |text: String| text)
        .on_disconnect(async |State(log): State<Log>| log.note("gone"));
    let function = Function::new(App::new().endpoint(endpoint).state(log.clone()).store(store), &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let late = Fault::Refuse(StoreErrorKind::Timeout);
    faults.next("find", 2, &late);
    function.message("c1", "hello").await;
    function.gateway.sees("c1", &["hello"]).await;
    faults.next("find", 1, &late);
    function.disconnect("c1").await;
    assert_eq!(log.all(), ["gone"]);
    // A store that stays away is given up soon, and an error that is no outage at once.
    for (kind, tries) in [(StoreErrorKind::Unavailable, 3), (StoreErrorKind::Corrupt, 1)] {
        faults.always("find", Fault::Refuse(kind));
        let before = faults.calls("find");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let handled = function.app.invocation(deadline).message(&super::fake::at("c1"), "hello").await;
        assert!(handled.is_err());
        assert_eq!(faults.calls("find") - before, tries, "{kind:?}");
    }
}

#[tokio::test]
async fn what_a_long_handler_sends_goes_out_while_it_runs() {
    async fn slow(channel: Channel, State(turnstile): State<Turnstile>) -> Result<&'static str, Error> {
        channel.send(&Payload::text("first")).await?;
        turnstile.pass().await;
        Ok("last")
    }
    let turnstile = Turnstile::new();
    let endpoint = Endpoint::new("a", "/a").public().on_message(slow);
    let app = App::new().endpoint(endpoint).state(turnstile.clone()).store(MemoryStore::new());
    let function = Function::new(app, &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let check = async {
        function.gateway.sees("c1", &["first"]).await;
        turnstile.let_pass(1);
    };
    tokio::join!(function.message("c1", "go"), check);
    assert_eq!(function.gateway.seen("c1"), ["first", "last"]);
}

#[tokio::test]
async fn own_events_follow_the_reply() {
    async fn post(channel: Channel, text: String) -> Result<&'static str, Error> {
        let topic = Topic::new("t")?;
        channel.subscribe(&topic).await?;
        channel.publish(&topic, Payload::text(text)).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok("reply")
    }
    let function = function(Endpoint::new("a", "/a").public().on_message(post));
    for connection in ["c1", "c2"] {
        function.connect(connection, "/?path=/a").await;
        function.message(connection, "event").await;
    }
    assert_eq!(function.gateway.seen("c2"), ["reply", "event"]);
    assert_eq!(function.gateway.seen("c1"), ["reply", "event", "event"]);
}

#[tokio::test]
async fn close_closes_and_nothing_is_handled_after_it() {
    async fn leave(channel: Channel, State(log): State<Log>) -> &'static str {
        log.note("message");
        channel.close(Close::normal("bye"));
        "reply"
    }
    let log = Log::default();
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .on_message(leave)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let app = App::new().endpoint(endpoint).state(log.clone()).store(MemoryStore::new());
    let function = Function::new(app, &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    function.message("c1", "one").await;
    assert!(function.gateway.is_closed("c1"));
    assert_eq!(function.gateway.seen("c1"), ["reply"], "the reply goes out first");
    function.message("c1", "two").await;
    function.disconnect("c1").await;
    assert_eq!(log.all(), ["message", "disconnect"]);
}

#[tokio::test]
async fn subscribing_after_the_end_leaves_nothing() {
    async fn late(channel: Channel, State(turnstile): State<Turnstile>, State(log): State<Log>) -> Result<(), Error> {
        log.note("begins");
        turnstile.pass().await;
        match channel.subscribe(&Topic::new("t")?).await {
            Err(error) => log.note(error.code()),
            Ok(()) => log.note("subscribed"),
        }
        Ok(())
    }
    let (turnstile, log) = (Turnstile::new(), Log::default());
    let endpoint = Endpoint::new("a", "/a").public().on_message(late);
    let store = MemoryStore::new();
    let app = App::new().endpoint(endpoint).state(turnstile.clone()).state(log.clone()).store(store.clone());
    let function = Function::new(app, &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let end = async {
        log.wait_for("begins").await;
        function.disconnect("c1").await;
        turnstile.let_pass(1);
    };
    tokio::join!(function.message("c1", "go"), end);
    assert_eq!(log.all(), ["begins", "conflict"]);
}

#[tokio::test]
async fn only_gone_ends_a_channel() {
    let log = Log::default();
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .on_message(async |text: String| text)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let app = App::new().endpoint(endpoint).state(log.clone()).store(MemoryStore::new());
    let function = Function::new(app, &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    for fault in [Posted::Throttled, Posted::Misconfigured, Posted::Unsent, Posted::TooLarge] {
        function.gateway.fault(move |_, _| Some(fault));
        function.message("c1", "lost").await;
        assert!(log.all().is_empty(), "{fault:?}");
    }
    function.gateway.mend();
    function.message("c1", "still here").await;
    assert_eq!(function.gateway.seen("c1"), ["still here"]);
    function.gateway.fault(|_, _| Some(Posted::Gone));
    function.message("c1", "lost").await;
    eventually("the end", || log.all() == ["disconnect"]).await;
}

#[tokio::test]
async fn a_reply_that_the_gateway_cannot_carry_is_an_error() {
    async fn large() -> String {
        "x".repeat(400)
    }
    let gateway = FakeGateway::new().with(|capabilities| capabilities.max_message = 300);
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .on("large", large)
        .on_message(async |_: String| bytes::Bytes::from_static(b"\x00"));
    let function = Function::new(App::new().endpoint(endpoint).store(MemoryStore::new()), &gateway);
    function.connect("c1", "/?path=/a").await;
    function.message("c1", r#"{"action":"large"}"#).await;
    function.message("c1", "bytes").await;
    let error = |bytes, kind| {
        let message = format!("the reply, {bytes} bytes as {kind}, is more than this endpoint or its gateway carries");
        format!(r#""error":{{"code":"too_large","message":"{message}"}}}}"#)
    };
    let (large, bytes) = (error(430, "text"), error(1, "bytes"));
    assert_eq!(gateway.seen("c1"), [format!(r#"{{"action":"large",{large}"#), format!("{{{bytes}")]);
}

#[tokio::test]
async fn bytes_go_to_who_takes_bytes_and_are_text_elsewhere_if_they_can_be() {
    let takes = Endpoint::new("takes", "/takes")
        .public()
        .on_message(async || "text")
        .on_binary(async |bytes: bytes::Bytes| format!("{} bytes", bytes.len()));
    let texts = Endpoint::new("texts", "/texts").public().on_message(async |text: String| text);
    let counted = Endpoint::new("counted", "/counted")
        .public()
        .ordering(strait_core::Ordering::Sequenced("seq".to_owned()))
        .on_message(async |text: String| text)
        .on_binary(async || "bytes");
    let app = App::new().endpoint(takes).endpoint(texts).endpoint(counted).store(MemoryStore::new());
    let function = Function::new(app, &FakeGateway::new());
    for path in ["takes", "texts", "counted"] {
        function.connect(path, &format!("/?path=/{path}")).await;
        function.bytes(path, b"\x00\xff").await;
        function.bytes(path, b"{}").await;
    }
    assert_eq!(function.gateway.seen("takes"), ["2 bytes", "2 bytes"]);
    let invalid = r#"{"error":{"code":"invalid","message":"this endpoint takes no binary messages"}}"#;
    assert_eq!(function.gateway.seen("texts"), [invalid, "{}"]);
    let uncounted = r#"{"error":{"code":"invalid","message":"the member \"seq\" must count the messages, from 1"}}"#;
    assert_eq!(function.gateway.seen("counted"), [uncounted, uncounted]);
}

/// As where one instance takes several invocations at once.
#[tokio::test]
async fn a_reply_is_tried_no_longer_than_its_own_invocation_lasts() {
    let function = function(Endpoint::new("a", "/a").public().on_message(async |text: String| text));
    function.connect("c1", "/?path=/a").await;
    let longer = function.app.invocation(Instant::now() + Duration::from_secs(600));
    let end = Instant::now() + Duration::from_secs(2);
    function.app.invocation(end).message(&at("c1"), "hello").await.expect("it is handled");
    drop(longer);
    let deadlines = function.gateway.deadlines();
    assert!(deadlines.len() == 1 && deadlines[0] <= end, "{deadlines:?}, not by {end:?}");
}

#[tokio::test]
async fn bytes_travel_in_envelopes_where_that_was_chosen() {
    let gateway = FakeGateway::new().with(|capabilities| capabilities.binary = strait_core::Binary::Envelope);
    let endpoint = Endpoint::new("a", "/a").public().on_binary(async |bytes: bytes::Bytes| bytes);
    let function = Function::new(App::new().endpoint(endpoint).store(MemoryStore::new()), &gateway);
    function.connect("c1", "/?path=/a").await;
    function.message("c1", r#"{"$binary":"AP8="}"#).await;
    assert_eq!(gateway.seen("c1"), [r#"{"$binary":"AP8="}"#]);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_answered_before_the_process_is_frozen() {
    let endpoint = Endpoint::new("a", "/a").public().on_message(async |_: String| {
        std::future::pending::<()>().await;
    });
    let function = function(endpoint);
    function.connect("c1", "/?path=/a").await;
    function.message_within("c1", "hang", Duration::from_millis(200)).await;
    assert_eq!(function.gateway.seen("c1"), [r#"{"error":{"code":"timeout","message":"the server took too long"}}"#]);
}
