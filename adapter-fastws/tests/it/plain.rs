//! The plain protocol end to end: the answers, and their order.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use strait_core::{App, Channel, Endpoint, Error, EventHub, Extract, Json, Limits, MessageContext, NoReply, Payload};
use strait_core::{Publish, Session, Topic};
use tokio::time::Instant;

use crate::kit::{Got, Notes, becomes, binary, echo, limits, serve, serve_app, text, until};

fn topic() -> Topic {
    Topic::new("news").expect("a name")
}

#[derive(Debug, Deserialize)]
struct Sum {
    a: i64,
    b: i64,
}

#[tokio::test]
async fn every_kind_of_message_has_its_answer() {
    let node = serve(
        echo("/echo")
            .on("sum", |Json(sum): Json<Sum>| async move { Json(sum.a + sum.b) })
            .on("object", || async { Json(json!({ "x": 1 })) })
            .on("error_member", || async { Json(json!({ "error": 1 })) })
            .on("nothing", || async {})
            .on("silent", || async { NoReply })
            .on("text", || async { "words" })
            .on("bytes", || async { Bytes::from_static(b"\0\xff") })
            .on("refuse", || async { Err::<(), _>(Error::new("sold_out", "there are none left")) })
            .on("fail", || async { Err::<(), _>(std::io::Error::other("the secret cause")) }),
    )
    .await;
    let mut client = node.client("/echo").await;
    let cases = [
        (r#"{"action":"sum","a":1,"b":2}"#, r#"{"action":"sum","result":3}"#),
        (r#"{"a":1,"b":2, "action":"sum"}"#, r#"{"action":"sum","result":3}"#),
        (r#"{"action":"object"}"#, r#"{"action":"object","x":1}"#),
        (r#"{"action":"error_member"}"#, r#"{"action":"error_member","result":{"error":1}}"#),
        (r#"{"action":"nothing"}"#, r#"{"action":"nothing"}"#),
        (r#"{"action":"text"}"#, r#"{"action":"text","result":"words"}"#),
        (r#"{"action":"echo","n":1.00000000000000000001}"#, r#"{"action":"echo","n":1.00000000000000000001}"#),
        ("plain text", "plain text"),
        ("", ""),
        (r#"{"action":"nobody"}"#, r#"{"action":"nobody"}"#),
        (r#"{"action":7}"#, r#"{"action":7}"#),
        ("[1]", "[1]"),
    ];
    for (sent, expected) in cases {
        client.text(sent).await;
        client.expect(expected).await;
    }
    let errors = [
        (r#"{"action":"sum","a":"one","b":2}"#, "invalid"),
        (r#"{"action":"sum","a":1,"a":1,"b":2}"#, "invalid"),
        (r#"{"action":"sum","action":"sum"}"#, "invalid"),
        (r#"{"action":"refuse"}"#, "sold_out"),
        (r#"{"action":"fail"}"#, "internal"),
    ];
    for (sent, code) in errors {
        client.text(sent).await;
        let answer = client.json().await;
        assert_eq!(answer["error"]["code"], code, "{sent}");
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
    client.text(r#"{"action":"bytes"}"#).await;
    assert_eq!(client.next().await, Got::Binary(vec![0, 0xff]));
    client.send(binary(&[0, 1, 0xfe])).await;
    assert_eq!(client.next().await, Got::Binary(vec![0, 1, 0xfe]));
    client.text(r#"{"action":"silent"}"#).await;
    client.text("next").await;
    client.expect("next").await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn what_nobody_takes_is_told() {
    let node = serve(Endpoint::new("strict", "/strict").public().limits(limits()).on("known", || async {})).await;
    let mut client = node.client("/strict").await;
    client.text(r#"{"action":"toString"}"#).await;
    let answer = client.json().await;
    assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!("toString"), &json!("unknown_route")));
    for sent in ["words", "{}", r#"{"action":null}"#] {
        client.text(sent).await;
        assert_eq!(client.error().await, "unknown_route", "{sent}");
    }
    client.send(binary(b"bytes")).await;
    assert_eq!(client.error().await, "invalid");
    client.text(r#"{"action":"known"}"#).await;
    client.expect(r#"{"action":"known"}"#).await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn without_a_session_only_public_routes_are_served() {
    let endpoint = Endpoint::new("closed", "/closed")
        .limits(limits())
        .on("secret", || async {})
        .route("login", strait_core::Route::new(login).public())
        .on("logout", |channel: Channel| async move { channel.logout().await })
        .on("who", |session: Session<Value>| async move { session.user().to_string() });
    let node = serve(endpoint).await;
    let mut client = node.client("/closed").await;
    // Both messages are there before the first is handled: the second sees the session that the first sets.
    let sent = [
        r#"{"action":"secret"}"#,
        r#"{"action":"login","user":"ada"}"#,
        r#"{"action":"who"}"#,
        r#"{"action":"login","user":"bob"}"#,
        r#"{"action":"who"}"#,
        r#"{"action":"logout"}"#,
        r#"{"action":"who"}"#,
    ];
    client.send(sent.iter().flat_map(|sent| text(sent)).collect::<Vec<u8>>()).await;
    assert_eq!(client.error().await, "unauthenticated");
    client.expect(r#"{"action":"login"}"#).await;
    client.expect(r#"{"action":"who","result":"ada"}"#).await;
    client.expect(r#"{"action":"login"}"#).await;
    client.expect(r#"{"action":"who","result":"bob"}"#).await;
    client.expect(r#"{"action":"logout"}"#).await;
    assert_eq!(client.error().await, "unauthenticated");
    client.leave().await;
    node.end().await;
}

async fn login(channel: Channel, Json(input): Json<Value>) -> Result<(), Error> {
    let user = input["user"].as_str().unwrap_or_default();
    channel.login(Session::new(user, json!({}))?).await
}

#[tokio::test]
async fn hundreds_at_once_are_answered_in_order() {
    let endpoint = echo("/echo").on("later", |Json(value): Json<Value>| async move {
        tokio::task::yield_now().await;
        Json(value)
    });
    let node = serve(endpoint).await;
    let mut client = node.client("/echo").await;
    let mut sent = Vec::new();
    for n in 0..600 {
        let action = if n % 3 == 0 { "later" } else { "echo" };
        sent.extend(text(&format!(r#"{{"action":"{action}","n":{n}}}"#)));
    }
    client.send(sent).await;
    for n in 0..600 {
        assert_eq!(client.json().await["n"], n);
    }
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn big_messages_and_replies_pass() {
    let endpoint = echo("/echo").limits(Limits { message: 2 << 20, ..limits() }).on(
        "big",
        |Json(input): Json<Value>| async move {
            "y".repeat(usize::try_from(input["size"].as_u64().unwrap_or(0)).unwrap_or(0))
        },
    );
    let node = serve(endpoint).await;
    let mut client = node.client("/echo").await;
    for size in [125, 126, 65_535, 65_536, 2 << 20] {
        let message = "x".repeat(size);
        client.text(&message).await;
        client.expect(&message).await;
    }
    client.text(r#"{"action":"big","size":5000000}"#).await;
    assert_eq!(client.json().await["result"].as_str().map(str::len), Some(5_000_000));
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn an_event_of_ones_own_does_not_wait_for_a_later_handler() {
    let (gate, held) = tokio::sync::watch::channel(false);
    let post = |channel: Channel| async move { channel.publish(&topic(), Payload::text("event")).await.map(drop) };
    let wait = move || {
        let mut held = held.clone();
        async move { held.wait_for(|open| *open).await.map(drop) }
    };
    let endpoint = echo("/room")
        .on_connect(|channel: Channel| async move { channel.subscribe(&topic()).await })
        .on("post", post)
        .on("wait", wait);
    let node = serve(endpoint).await;
    let mut client = node.client("/room").await;
    client.text(r#"{"action":"post"}"#).await;
    client.text(r#"{"action":"wait"}"#).await;
    client.expect(r#"{"action":"post"}"#).await;
    client.expect("event").await;
    gate.send(true).expect("the handler waits");
    client.expect(r#"{"action":"wait"}"#).await;
    node.end().await;
}

#[tokio::test]
async fn an_event_of_ones_own_comes_after_the_reply() {
    let post = |channel: Channel, Json(input): Json<Value>| async move {
        let payload = Payload::json(&json!({ "event": input["n"] }))?;
        if input["others"].is_null() {
            channel.publish(&topic(), payload).await?;
        } else {
            channel.publish_to_others(&topic(), payload).await?;
        }
        // Deliveries run meanwhile.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok::<_, Error>(Json(json!({ "n": input["n"] })))
    };
    let endpoint =
        echo("/room").on_connect(|channel: Channel| async move { channel.subscribe(&topic()).await }).on("post", post);
    let node = serve(endpoint).await;
    let (mut author, mut other) = (node.client("/room").await, node.client("/room").await);
    becomes(|| node.app.hub().channels(), 2).await;
    other.text("ready").await;
    other.expect("ready").await;
    for n in 0..20 {
        author.text(&format!(r#"{{"action":"post","n":{n}}}"#)).await;
        author.expect(&format!(r#"{{"action":"post","n":{n}}}"#)).await;
        author.expect(&format!(r#"{{"event":{n}}}"#)).await;
        other.expect(&format!(r#"{{"event":{n}}}"#)).await;
    }
    author.text(r#"{"action":"post","n":100,"others":true}"#).await;
    author.expect(r#"{"action":"post","n":100}"#).await;
    other.expect(r#"{"event":100}"#).await;
    // An event published from outside reaches all members, and no other one has come in between.
    let publish = Publish::new(topic(), Payload::text("outside"));
    node.app.hub().publish(publish).await.expect("it is published");
    author.expect("outside").await;
    other.expect("outside").await;
    author.leave().await;
    other.leave().await;
    node.end().await;
}

fn explode() {
    panic!("in a handler, later")
}

struct Explosive;

impl Extract<MessageContext> for Explosive {
    fn extract(_: &mut MessageContext) -> Result<Self, Error> {
        panic!("in an extractor")
    }
}

#[tokio::test]
async fn panics_are_internal_errors_and_the_node_goes_on() {
    let endpoint = echo("/echo")
        .on("panic", || async { panic!("in a handler") as () })
        .on("later", || async {
            tokio::task::yield_now().await;
            explode();
        })
        .on("extract", |_: Explosive| async {});
    let node = serve(endpoint).await;
    let (mut client, mut other) = (node.client("/echo").await, node.client("/echo").await);
    for action in ["panic", "later", "extract"] {
        client.text(&format!(r#"{{"action":"{action}"}}"#)).await;
        let answer = client.json().await;
        assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!(action), &json!("internal")));
    }
    for client in [&mut client, &mut other] {
        client.text("still here").await;
        client.expect("still here").await;
    }
    client.leave().await;
    other.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_handler_has_its_time() {
    let endpoint = echo("/echo")
        .limits(Limits { handler: Duration::from_millis(50), ..limits() })
        .on("forever", || async { std::future::pending::<()>().await });
    let node = serve(endpoint).await;
    let mut client = node.client("/echo").await;
    let start = Instant::now();
    client.send([text(r#"{"action":"forever"}"#), text("next")].concat()).await;
    let answer = client.json().await;
    assert_eq!((&answer["action"], &answer["error"]["code"]), (&json!("forever"), &json!("timeout")));
    assert!(start.elapsed() >= Duration::from_millis(50));
    client.expect("next").await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn sends_find_a_channel_and_a_user() {
    let ids = Notes::default();
    let noted = ids.clone();
    let endpoint = echo("/echo")
        .authenticate(|| async { Session::new("ada", ()) })
        .on_connect(move |channel: Channel| {
            noted.add(channel.id().as_str());
            async {}
        })
        .on("whisper", |hub: EventHub, session: Session<()>| async move {
            hub.send_to_user(session.user(), Payload::text("psst")).await.map(Json)
        });
    let node = serve_app(App::new().endpoint(endpoint)).await;
    let mut first = node.client("/echo").await;
    until("it is connected", || ids.all().len() == 1).await;
    let mut second = node.client("/echo").await;
    until("both are connected", || ids.all().len() == 2).await;
    let id = ids.all()[0].clone().try_into().expect("an id");
    assert!(node.app.hub().send(&id, Payload::binary(&b"direct"[..])).await.expect("it is sent"));
    assert_eq!(first.next().await, Got::Binary(b"direct".to_vec()));
    second.text(r#"{"action":"whisper"}"#).await;
    let mut got = [second.next().await, second.next().await];
    got.sort_by_key(|got| format!("{got:?}").len());
    assert_eq!(got[0], Got::Text("psst".to_owned()));
    assert_eq!(got[1], Got::Text(r#"{"action":"whisper","result":2}"#.to_owned()));
    first.expect("psst").await;
    first.leave().await;
    second.leave().await;
    node.end().await;
}
