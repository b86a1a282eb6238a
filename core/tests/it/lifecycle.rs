//! From `on_connect` through the messages: order, limits, closes.

use std::time::Duration;

use strait_core::machine::Backlog;
use strait_core::store::{ChannelStore, Fence};
use strait_core::{
    App, Channel, ChannelState, Close, Endpoint, Error, Json, Limits, NodeId, RateLimit, Session, State,
};
use strait_store_memory::MemoryStore;

use crate::client::Seen;
use crate::log::{Log, Turnstile};
use crate::node::{Node, serve, topic};

fn logging(endpoint: Endpoint, log: &Log, turnstile: &Turnstile) -> strait_core::AppBuilder {
    App::new().endpoint(endpoint).state(log.clone()).state(turnstile.clone()).store(MemoryStore::new())
}

async fn slow_connect(State(log): State<Log>, State(turnstile): State<Turnstile>) {
    log.note("connect begins");
    turnstile.pass().await;
    log.note("connect ends");
}

async fn message(State(log): State<Log>, text: String) -> String {
    log.note(format!("message {text}"));
    text
}

#[tokio::test]
async fn messages_wait_until_on_connect_has_ended() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/").public().on_connect(slow_connect).on_message(message);
    let node = Node::start(logging(endpoint, &log, &turnstile)).await;
    let client = node.connect("/").await;
    client.send("1");
    client.send("2");
    log.wait_for("connect begins").await;
    tokio::task::yield_now().await;
    assert_eq!(log.all(), ["connect begins"]);
    turnstile.let_pass(1);
    client.expect("1").await;
    client.expect("2").await;
    assert_eq!(log.all(), ["connect begins", "connect ends", "message 1", "message 2"]);
}

#[tokio::test]
async fn what_on_connect_sends_comes_first() {
    async fn connect(channel: Channel) -> Result<(), Error> {
        tokio::task::yield_now().await;
        channel.send(&strait_core::Payload::text("welcome")).await
    }
    let node = serve(Endpoint::new("a", "/").public().on_connect(connect).on_message(async |text: String| text)).await;
    let client = node.connect("/").await;
    client.send("hello");
    client.expect("welcome").await;
    client.expect("hello").await;
}

#[tokio::test]
async fn slow_and_fast_messages_are_handled_and_answered_in_order() {
    async fn wait(text: String, State(turnstile): State<Turnstile>, State(log): State<Log>) -> String {
        log.note(format!("begins {text}"));
        if text == "slow" {
            turnstile.pass().await;
        }
        log.note(format!("ends {text}"));
        text
    }
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let node = Node::start(logging(Endpoint::new("a", "/").public().on_message(wait), &log, &turnstile)).await;
    let client = node.connect("/").await;
    for text in ["slow", "fast", "slow", "last"] {
        client.send(text);
    }
    log.wait_for("begins slow").await;
    turnstile.let_pass(2);
    for text in ["slow", "fast", "slow", "last"] {
        client.expect(text).await;
    }
    let expected =
        ["slow", "fast", "slow", "last"].iter().flat_map(|text| [format!("begins {text}"), format!("ends {text}")]);
    assert_eq!(log.all(), expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn no_more_is_read_than_may_wait_and_nothing_is_lost() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/")
        .public()
        .limits(Limits { backlog: Backlog { messages: 4, bytes: 1024 }, rate: None, ..Limits::default() })
        .on_message(async |text: String, State(turnstile): State<Turnstile>| {
            turnstile.pass().await;
            text
        });
    let node = Node::start(logging(endpoint, &log, &turnstile)).await;
    let client = node.connect("/").await;
    (0..100).for_each(|n| client.send(&n.to_string()));
    for n in 0..100 {
        turnstile.let_pass(1);
        client.expect(&n.to_string()).await;
    }
}

#[tokio::test]
async fn a_close_by_a_handler_ends_everything_behind_its_reply() {
    async fn quit(text: String, channel: Channel, State(log): State<Log>) -> Result<String, Error> {
        log.note(format!("handled {text}"));
        channel.send(&strait_core::Payload::text("sent before")).await?;
        channel.close(Close::new(4000, "enough").expect("a code"));
        channel.close(Close::normal("a second close changes nothing"));
        Ok("reply".to_owned())
    }
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_message(quit)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let node = Node::start(logging(endpoint, &log, &turnstile)).await;
    let client = node.connect("/").await;
    client.send("1");
    client.send("2");
    client.expect("sent before").await;
    client.expect("reply").await;
    assert_eq!(client.closed().await, (4000, "enough".to_owned()));
    client.ended().await;
    assert_eq!(log.all(), ["handled 1", "disconnect"]);
    assert_eq!(node.hub().channels(), 0);
}

#[tokio::test]
async fn a_close_from_elsewhere_reaches_a_channel_in_the_middle_of_a_handler() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_message(async |State(log): State<Log>, State(turnstile): State<Turnstile>| {
            log.note("begins");
            turnstile.pass().await;
            log.note("ends");
        })
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let node = Node::start(logging(endpoint, &log, &turnstile)).await;
    let client = node.connect("/").await;
    client.send("1");
    client.send("2");
    log.wait_for("begins").await;
    assert!(node.hub().close_channel(&client.id, Close::policy("out")).await.unwrap());
    assert_eq!(client.closed().await, (1008, "out".to_owned()));
    assert!(!client.has_ended(), "the handler still runs");
    turnstile.let_pass(2);
    client.ended().await;
    assert_eq!(log.all(), ["begins", "ends", "disconnect"]);
}

#[tokio::test]
async fn a_refusal_by_on_connect_closes_and_handles_nothing() {
    async fn refuse(State(turnstile): State<Turnstile>) -> Result<(), Error> {
        turnstile.pass().await;
        Err(Error::forbidden("the room is full"))
    }
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_connect(refuse)
        .on_message(message)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let node = Node::start(logging(endpoint, &log, &turnstile)).await;
    let client = node.connect("/").await;
    client.send("1");
    turnstile.let_pass(1);
    assert_eq!(client.closed().await, (1008, "the room is full".to_owned()));
    client.ended().await;
    assert_eq!(log.all(), ["disconnect"]);
}

#[tokio::test]
async fn a_client_whose_record_went_during_on_connect_is_told_to_come_back() {
    async fn connect(
        channel: Channel,
        state: ChannelState<u32>,
        State(step): State<&'static str>,
        State(log): State<Log>,
        State(turnstile): State<Turnstile>,
    ) -> Result<(), Error> {
        log.note("begins");
        turnstile.pass().await;
        match step {
            "subscribe" => channel.subscribe(&topic("room")).await,
            "login" => channel.login(Session::new("ann", ())?).await,
            "state" => state.update(|count| *count += 1).await,
            _ => Err(Error::conflict("this name is taken")),
        }
    }
    for (step, code) in [("subscribe", 1012), ("login", 1012), ("state", 1012), ("own", 1008)] {
        let (log, turnstile, store) = (Log::default(), Turnstile::new(), MemoryStore::new());
        let app = App::new().endpoint(Endpoint::new("a", "/").public().on_connect(connect)).store(store.clone());
        let node = Node::start(app.state(step).state(log.clone()).state(turnstile.clone())).await;
        let client = node.connect("/").await;
        log.wait_for("begins").await;
        let fence = Fence { id: client.id.clone(), generation: 1 };
        let claim = store.claim(&fence, &NodeId::unique(), Duration::from_secs(60)).await.expect("answers");
        store.remove(&[claim.expect("it is claimed")]).await.expect("answers");
        turnstile.let_pass(1);
        assert_eq!(client.closed().await.0, code, "{step}");
        client.ended().await;
    }
}

#[tokio::test]
async fn a_failure_of_on_connect_is_no_refusal_and_keeps_its_text() {
    async fn fail() -> Result<(), std::io::Error> {
        Err(std::io::Error::other("the password is hunter2"))
    }
    let node = serve(Endpoint::new("a", "/").on_connect(fail)).await;
    assert_eq!(node.connect("/").await.closed().await, (1011, "something went wrong on the server".to_owned()));
    async fn panics() {
        panic!("the password is hunter2");
    }
    let node = serve(Endpoint::new("a", "/").on_connect(panics)).await;
    assert_eq!(node.connect("/").await.closed().await, (1011, "something went wrong on the server".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_is_dropped_and_the_channel_goes_on() {
    let endpoint = Endpoint::new("a", "/").public().on_message(async |text: String| {
        if text == "hang" {
            std::future::pending::<()>().await;
        }
        text
    });
    let node = serve(endpoint).await;
    let client = node.connect("/").await;
    client.send("hang");
    client.send("next");
    let started = tokio::time::Instant::now();
    // Longer than `next` waits on the paused clock.
    tokio::time::sleep(Duration::from_secs(31)).await;
    client.expect(r#"{"error":{"code":"timeout","message":"the server took too long"}}"#).await;
    client.expect("next").await;
    assert!(started.elapsed() >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn an_on_connect_that_takes_too_long_closes_the_channel() {
    let endpoint = Endpoint::new("a", "/").on_connect(async || std::future::pending::<()>().await);
    let node = serve(endpoint).await;
    let client = node.connect("/").await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(matches!(client.next().await, Seen::Close(_, reason) if reason == "the server took too long"));
    client.ended().await;
}

#[tokio::test]
async fn a_panic_is_internal_and_the_channel_goes_on() {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on("panic", async || -> () { panic!("the password is hunter2") })
        .on("extract", async |_: Explosive| {})
        .on_message(async |text: String| text);
    let node = serve(endpoint).await;
    let client = node.connect("/").await;
    let internal = r#""error":{"code":"internal","message":"something went wrong on the server"}}"#;
    assert_eq!(client.ask(r#"{"action":"panic"}"#).await, format!(r#"{{"action":"panic",{internal}"#));
    assert_eq!(client.ask(r#"{"action":"extract"}"#).await, format!(r#"{{"action":"extract",{internal}"#));
    assert_eq!(client.ask("still here").await, "still here");
}

struct Explosive;

impl<C> strait_core::Extract<C> for Explosive {
    fn extract(_: &mut C) -> Result<Self, Error> {
        panic!("an extractor panics too")
    }
}

#[tokio::test]
async fn who_sends_too_much_is_told_and_then_closed() {
    let rate = RateLimit { per_second: 1, burst: 2, patience: Duration::from_millis(20) };
    let endpoint = Endpoint::new("a", "/")
        .public()
        .limits(Limits { rate: Some(rate), ..Limits::default() })
        .on("add", async |Json(n): Json<serde_json::Value>| Json(n))
        .on_message(async |text: String| text);
    let node = serve(endpoint).await;
    let client = node.connect("/").await;
    assert_eq!(client.ask(r#"{"action":"add"}"#).await, r#"{"action":"add"}"#);
    assert_eq!(client.ask("two").await, "two");
    let limited = r#"{"action":"add","error":{"code":"rate_limited","message":"too many messages, slow down"}}"#;
    assert_eq!(client.ask(r#"{"action":"add"}"#).await, limited, "the key is echoed");
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.send("flooding");
    assert_eq!(client.closed().await, (1008, "flooding".to_owned()));
    client.ended().await;
}
