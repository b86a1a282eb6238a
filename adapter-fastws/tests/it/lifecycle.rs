//! `on_connect` before everything, `on_disconnect` after everything, each once.

use std::time::Duration;

use strait_core::{App, Channel, Close, DisconnectReason, Endpoint, Error, Limits, Session, Topic};

use crate::kit::{CLOSING, Gate, Got, Node, Notes, TcpClient, close, limits, serve, serve_app, text};

/// An endpoint with handlers that note each event.
fn noted(notes: &Notes) -> Endpoint {
    let connected = notes.clone();
    without_connect(notes).on_connect(move |channel: Channel| {
        connected.add("connect");
        async move { channel.subscribe(&Topic::new("all")?).await }
    })
}

/// As [`noted`], for an `on_connect` of the test's own.
fn without_connect(notes: &Notes) -> Endpoint {
    let (handled, ended) = (notes.clone(), notes.clone());
    Endpoint::new("noted", "/noted")
        .public()
        .limits(limits())
        .on_message(move |text: String| {
            handled.add(&*text);
            async move { text }
        })
        .on("close", |channel: Channel| async move { channel.close(Close::normal("done")) })
        .on("forever", || async { std::future::pending::<()>().await })
        .on_disconnect(move |reason: DisconnectReason| {
            ended.add(format!("{reason:?}"));
            async {}
        })
}

#[derive(Debug, Clone, Copy)]
enum End {
    ClientCloses,
    StreamEnds,
    Reset,
    HandlerCloses,
    CloseUnanswered,
    Violation,
    ClientClosesWhileAHandlerRuns,
    ResetWhileAHandlerRuns,
    Drain,
}

impl End {
    async fn come(self, node: &Node, mut client: TcpClient) {
        match self {
            Self::ClientCloses => client.leave().await,
            Self::StreamEnds => drop(client),
            Self::Reset => client.reset(),
            Self::HandlerCloses => {
                client.text(r#"{"action":"close"}"#).await;
                client.expect(r#"{"action":"close"}"#).await;
                assert_eq!(client.closes(1000).await, "done");
            }
            Self::CloseUnanswered => {
                client.text(r#"{"action":"close"}"#).await;
                assert_eq!(client.is_closed().await.0, 1000);
                assert_eq!(client.next().await, Got::End);
            }
            Self::Violation => {
                client.send([0xff, 0xff]).await;
                client.closes(1002).await;
            }
            Self::ClientClosesWhileAHandlerRuns => {
                client.send([text(r#"{"action":"forever"}"#), close(1000, "")].concat()).await;
                assert_eq!(client.is_closed().await.0, 1000);
            }
            Self::ResetWhileAHandlerRuns => {
                client.text(r#"{"action":"forever"}"#).await;
                client.reset();
            }
            Self::Drain => {
                node.handle.drain();
                client.closes(1012).await;
            }
        }
    }
}

#[tokio::test]
async fn every_end_runs_on_disconnect_once_with_its_reason() {
    let ends = [
        (End::ClientCloses, "Client"),
        (End::StreamEnds, "Lost"),
        (End::Reset, "Lost"),
        (End::HandlerCloses, "Server"),
        (End::CloseUnanswered, "Server"),
        (End::Violation, "Server"),
        (End::ClientClosesWhileAHandlerRuns, "Client"),
        (End::ResetWhileAHandlerRuns, "Lost"),
        (End::Drain, "Server"),
    ];
    for (end, reason) in ends {
        let notes = Notes::default();
        let quick = Limits { handler: Duration::from_millis(100), ..limits() };
        let node = serve(noted(&notes).limits(quick)).await;
        let client = node.client("/noted").await;
        notes.become_these(&["connect"]).await;
        end.come(&node, client).await;
        node.is_left_by_all().await;
        assert_eq!(notes.all(), ["connect", reason], "{end:?}");
        node.end().await;
        assert_eq!(notes.all().len(), 2, "{end:?}: it runs once");
    }
}

#[tokio::test]
async fn a_silent_client_is_lost() {
    let notes = Notes::default();
    let impatient = Limits { ping: Duration::from_millis(10), silent: Duration::from_millis(30), ..limits() };
    let node = serve(noted(&notes).limits(impatient)).await;
    node.client("/noted").await.closes(1001).await;
    node.is_left_by_all().await;
    notes.become_these(&["connect", "Lost"]).await;
    node.end().await;
}

#[tokio::test]
async fn a_lost_client_stays_lost_when_the_sweeper_or_a_drain_finds_its_channel() {
    for drains in [false, true] {
        let notes = Notes::default();
        let gate = Gate::shut();
        let waiting = gate.clone();
        let quick = Limits { ping: Duration::from_millis(10), silent: Duration::from_millis(30), ..limits() };
        let endpoint = noted(&notes).limits(quick).on("wait", move || {
            let gate = waiting.clone();
            async move { gate.pass().await }
        });
        let node = serve(endpoint).await;
        let mut client = node.client("/noted").await;
        client.send([text(r#"{"action":"wait"}"#), text("waits"), close(1000, "")].concat()).await;
        assert_eq!(client.is_closed().await.0, 1000);
        if drains {
            node.handle.drain();
        }
        // The handler outlasts the limit on silence, which does not apply to a client that has gone.
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.let_in(1);
        let expected: &[&str] = if drains { &["connect", "Client"] } else { &["connect", "waits", "Client"] };
        if !drains {
            notes.become_these(expected).await;
        }
        node.is_left_by_all().await;
        assert_eq!(notes.all().last().map(String::as_str), Some("Client"), "drains: {drains}");
        node.end().await;
    }
}

#[tokio::test]
async fn no_message_is_handled_before_on_connect_has_ended() {
    let (notes, gate) = (Notes::default(), Gate::shut());
    let (connected, waiting) = (notes.clone(), gate.clone());
    let endpoint = without_connect(&notes).on_connect(move || {
        let (notes, gate) = (connected.clone(), waiting.clone());
        async move {
            notes.add("connect");
            gate.pass().await;
            notes.add("connected");
        }
    });
    let node = serve(endpoint).await;
    let mut client = node.client("/noted").await;
    client.send([text("one"), text("two")].concat()).await;
    notes.become_these(&["connect"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    notes.become_these(&["connect"]).await;
    gate.let_in(1);
    client.expect("one").await;
    client.expect("two").await;
    client.leave().await;
    notes.become_these(&["connect", "connected", "one", "two", "Client"]).await;
    node.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_during_on_connect_is_disconnected_after_it() {
    let (notes, gate) = (Notes::default(), Gate::shut());
    let (connected, waiting) = (notes.clone(), gate.clone());
    let endpoint = without_connect(&notes).on_connect(move |channel: Channel| {
        let (notes, gate) = (connected.clone(), waiting.clone());
        async move {
            gate.pass().await;
            notes.add("connected");
            channel.subscribe(&Topic::new("all")?).await
        }
    });
    let node = serve(endpoint).await;
    for _ in 0..3 {
        node.client("/noted").await.reset();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(notes.all().len(), 0);
    gate.let_in(3);
    node.is_left_by_all().await;
    let mut all = notes.all();
    all.sort();
    assert_eq!(all, ["Lost", "Lost", "Lost", "connected", "connected", "connected"]);
    node.end().await;
}

#[tokio::test]
async fn who_is_refused_by_on_connect_is_closed_and_not_heard() {
    type Refuse = fn() -> Error;
    let cases: [(Refuse, u16, &str); 3] = [
        (|| Error::forbidden("not today"), 1008, "not today"),
        (|| Error::unavailable("come back later"), 1011, "come back later"),
        (|| Error::internal("the secret cause"), 1011, "something went wrong on the server"),
    ];
    for (refuse, code, expected) in cases {
        let notes = Notes::default();
        let endpoint = without_connect(&notes).on_connect(move || async move { Err::<(), _>(refuse()) });
        let node = serve(endpoint).await;
        let mut client = node.client("/noted").await;
        client.text("too early").await;
        assert_eq!(client.closes(code).await, expected);
        notes.become_these(&["Server"]).await;
        node.end().await;
    }
}

#[tokio::test]
async fn on_connect_that_panics_or_takes_too_long_refuses() {
    let notes = Notes::default();
    let quick = Limits { handler: Duration::from_millis(50), ..limits() };
    let panics = without_connect(&notes).on_connect(|| async { panic!("on purpose") as () });
    let node = serve(panics).await;
    node.client("/noted").await.closes(1011).await;
    node.end().await;
    let hangs = without_connect(&notes).limits(quick).on_connect(|| async { std::future::pending::<()>().await });
    let node = serve(hangs).await;
    node.client("/noted").await.closes(1011).await;
    node.end().await;
    notes.become_these(&["Server", "Server"]).await;
}

#[tokio::test]
async fn a_broken_on_disconnect_holds_nobody_up() {
    let quick = Limits { handler: Duration::from_millis(50), ..limits() };
    let panics =
        Endpoint::new("noted", "/noted").limits(limits()).on_disconnect(|| async { panic!("on purpose") as () });
    let hangs =
        Endpoint::new("hangs", "/hangs").limits(quick).on_disconnect(|| async { std::future::pending::<()>().await });
    let node = serve_app(App::new().endpoint(panics).endpoint(hangs)).await;
    node.client("/noted").await.leave().await;
    node.client("/hangs").await.leave().await;
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_handler_that_outlives_its_channel_brings_nothing_back() {
    let notes = Notes::default();
    let (late, gate) = (notes.clone(), Gate::shut());
    let waiting = gate.clone();
    let endpoint = noted(&notes).on("detach", move |channel: Channel| {
        let (gate, late) = (waiting.clone(), late.clone());
        async move {
            tokio::spawn(async move {
                gate.pass().await;
                let joined = channel.subscribe(&Topic::new("late").expect("a name")).await;
                let logged_in = channel.login(Session::new("ada", ()).expect("a name")).await;
                channel.close(Close::normal("late"));
                let sent = channel.send_json("late").await;
                let code = |result: Result<(), Error>| {
                    result.map_or_else(|error| error.code().to_owned(), |()| "ok".to_owned())
                };
                late.add([joined, logged_in, sent].map(code).join(" "));
            });
        }
    });
    let node = serve(endpoint).await;
    let mut client = node.client("/noted").await;
    client.text(r#"{"action":"detach"}"#).await;
    client.expect(r#"{"action":"detach"}"#).await;
    client.leave().await;
    node.is_left_by_all().await;
    gate.let_in(1);
    notes.become_these(&["connect", "Client", "conflict conflict ok"]).await;
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn sockets_of_one_user_find_each_other_and_nothing_is_left_of_them() {
    let endpoint = noted(&Notes::default()).authenticate(|| async { Session::new("ada", ()) });
    let node = serve(endpoint).await;
    let user = Session::new("ada", ()).expect("a name").user().clone();
    let (first, second) = (node.client("/noted").await, node.client("/noted").await);
    crate::kit::becomes(|| node.store.stats().members, 2).await;
    let closed = node.app.hub().close_user(&user, Close::new(4001, "elsewhere").expect("a code")).await;
    assert_eq!(closed.expect("they are closed"), 2);
    assert_eq!(first.closes(4001).await, "elsewhere");
    // A client that does not answer is cut off.
    let mut second = second;
    assert_eq!(second.is_closed().await.0, 4001);
    tokio::time::timeout(CLOSING * 20, async { assert_eq!(second.next().await, Got::End) }).await.expect("in time");
    node.is_left_by_all().await;
    node.end().await;
}
