//! Extractors and replies.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strait_core::{
    App, Channel, ChannelState, Endpoint, Error, EventHub, Frame, Json, NoReply, Opening, Payload, Publish, Reply,
    State, Topic, Transport, Valid, Validate,
};
use strait_store_memory::MemoryStore;

use crate::client::Seen;
use crate::node::{Node, serve, topic};

fn keyed(action: &str, rest: &str) -> String {
    format!(r#"{{"action":"{action}"{rest}}}"#)
}

#[tokio::test]
async fn every_reply_has_its_form_behind_a_key() {
    #[derive(Serialize)]
    struct Named {
        a: u8,
        b: Option<()>,
    }
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on("object", async || Json(Named { a: 1, b: None }))
        .on("empty", async || Json(serde_json::json!({})))
        .on("array", async || Json([1, 2]))
        .on("number", async || Json(7))
        .on("zero", async || Json(0))
        .on("false", async || Json(false))
        .on("blank", async || Json(""))
        .on("null", async || Json(None::<u8>))
        .on("big", async || Json(RawValue::from_string("12345678901234567890.10".to_owned()).unwrap()))
        .on("error", async || Json(serde_json::json!({"error": 1})))
        .on("gap", async || Json(serde_json::json!({"gap": 1})))
        .on("key", async || Json(serde_json::json!({"action": 1})))
        .on("unit", async || ())
        .on("text", async || "say \"hi\"")
        .on("string", async || String::from("ä"))
        .on("result", async || Ok::<_, Error>(Json(1)))
        .on("own", async || Reply::Json(b"[1]".to_vec()))
        .on("map", async || Json(std::collections::HashMap::from([((1, 2), 3)])));
    let client = serve(endpoint).await.connect("/").await;
    for (action, rest) in [
        ("object", r#","a":1,"b":null"#),
        ("empty", ""),
        ("array", r#","result":[1,2]"#),
        ("number", r#","result":7"#),
        ("zero", r#","result":0"#),
        ("false", r#","result":false"#),
        ("blank", r#","result":"""#),
        ("null", r#","result":null"#),
        ("big", r#","result":12345678901234567890.10"#),
        ("error", r#","result":{"error":1}"#),
        ("gap", r#","result":{"gap":1}"#),
        ("key", r#","result":{"action":1}"#),
        ("unit", ""),
        ("text", r#","result":"say \"hi\"""#),
        ("string", r#","result":"ä""#),
        ("result", r#","result":1"#),
        ("own", r#","result":[1]"#),
        ("map", r#","error":{"code":"internal","message":"something went wrong on the server"}"#),
    ] {
        assert_eq!(client.ask(&keyed(action, "")).await, keyed(action, rest));
    }
}

#[tokio::test]
async fn whole_messages_are_answered_without_a_key() {
    let endpoint = Endpoint::new("a", "/").public().on_message(async |text: String| match &*text {
        "json" => Reply::Json(b"[1]".to_vec()),
        "bytes" => Reply::Bytes(Bytes::from_static(b"\xff")),
        "unit" => Reply::Acknowledged,
        "none" => Reply::None,
        _ => Reply::Text(text),
    });
    let client = serve(endpoint).await.connect("/").await;
    client.send("unit");
    client.send("none");
    assert_eq!(client.ask("json").await, "[1]", "nothing is said to the two before");
    client.send("bytes");
    assert_eq!(client.next().await, Seen::Binary(vec![0xff]));
    for whole in ["text", "", "[1]", "{", r#"{"other":"x"}"#, r#"{"action":7}"#, r#"{"action":"toString"}"#] {
        assert_eq!(client.ask(whole).await, whole);
    }
    assert!(client.ask(r#"{"action":"a","action":"b"}"#).await.contains("invalid"));
}

#[tokio::test]
async fn what_no_route_takes_is_unknown_and_names_inherited_elsewhere_are_no_routes() {
    let client = serve(Endpoint::new("a", "/").public().on("x", async || ())).await.connect("/").await;
    for action in ["toString", "__proto__", "constructor", "X", "x "] {
        let expected = keyed(action, r#","error":{"code":"unknown_route","message":"there is no such route"}"#);
        assert_eq!(client.ask(&keyed(action, "")).await, expected);
    }
    let keyless = r#"{"error":{"code":"unknown_route","message":"the message names no route: send a JSON object whose \"action\" is the route's name"}}"#;
    for whole in ["text", "[]", "{}", "{\"action\":1}", "not { json"] {
        assert_eq!(client.ask(whole).await, keyless, "{whole}");
    }
    assert_eq!(client.ask(&keyed("x", "")).await, keyed("x", ""));
}

#[tokio::test]
async fn bytes_are_answered_with_bytes_and_refused_where_nobody_takes_them() {
    let endpoint = Endpoint::new("a", "/").public().on_message(async |text: String| text);
    let client = serve(endpoint).await.connect("/").await;
    client.send_binary(b"{}");
    client.expect(r#"{"error":{"code":"invalid","message":"this endpoint takes no binary messages"}}"#).await;
    assert_eq!(client.ask("still here").await, "still here");
    let endpoint = Endpoint::new("a", "/").public().on("x", async || Json(1)).on_binary(async |bytes: Bytes| bytes);
    let client = serve(endpoint).await.connect("/").await;
    client.send_binary(b"{\"action\":\"x\"}\xff");
    assert_eq!(client.next().await, Seen::Binary(b"{\"action\":\"x\"}\xff".to_vec()), "bytes are not routed");
    let endpoint = Endpoint::new("a", "/").public().on_binary(async |Json(n): Json<u8>| Json(n));
    let client = serve(endpoint).await.connect("/").await;
    client.send_binary(b"1");
    client.expect(r#"{"error":{"code":"invalid","message":"this takes JSON text, not bytes"}}"#).await;
    let endpoint = Endpoint::new("a", "/").public().on_binary(async |text: String| text);
    let client = serve(endpoint).await.connect("/").await;
    client.send_binary(b"\xff");
    client.expect(r#"{"error":{"code":"invalid","message":"this takes text, not bytes"}}"#).await;
}

#[derive(Deserialize, Serialize)]
struct Post {
    title: String,
}

impl Validate for Post {
    fn validate(&self) -> Result<(), Error> {
        if self.title.len() < 3 {
            return Err(Error::invalid("the title is too short").with_details(&serde_json::json!({"least": 3})));
        }
        Ok(())
    }
}

#[tokio::test]
async fn input_is_checked_before_the_handler_and_the_channel_stays_open() {
    let endpoint = Endpoint::new("a", "/").public().on("post", async |Valid(post): Valid<Post>| Json(post));
    let client = serve(endpoint).await.connect("/").await;
    let short = r#","error":{"code":"invalid","message":"the title is too short","details":{"least":3}}"#;
    assert_eq!(client.ask(&keyed("post", r#","title":"ab""#)).await, keyed("post", short));
    for (wrong, message, details) in [
        (
            r#","title":1"#,
            "invalid type: integer `1`, expected a string at line 1 column 10",
            r#","details":{"field":"title"}"#,
        ),
        ("", "missing field `title` at line 1 column 2", ""),
        (r#","titel":"abc""#, "missing field `title` at line 1 column 15", ""),
    ] {
        let error = format!(r#","error":{{"code":"invalid","message":"{message}"{details}}}"#);
        assert_eq!(client.ask(&keyed("post", wrong)).await, keyed("post", &error));
    }
    assert!(client.ask(r#"{"action":"post","title":"a","title":"b"}"#).await.contains(r#""code":"invalid""#));
    assert_eq!(client.ask(&keyed("post", r#","title":"abc""#)).await, keyed("post", r#","title":"abc""#));
}

#[tokio::test]
async fn a_routes_input_is_the_object_without_the_key_and_numbers_stay_as_they_were() {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on("echo", async |raw: String| Reply::Text(raw))
        .on("raw", async |Json(raw): Json<Box<RawValue>>| Json(raw));
    let client = serve(endpoint).await.connect("/").await;
    let echoed = client.ask(r#"{"a":1.0,"action":"echo","b":[{"action":"no"}]}"#).await;
    assert_eq!(echoed, r#"{"action":"echo","result":"{\"a\":1.0,\"b\":[{\"action\":\"no\"}]}"}"#);
    let number = r#""n":12345678901234567890.10"#;
    assert_eq!(client.ask(&keyed("raw", &format!(",{number}"))).await, keyed("raw", &format!(",{number}")));
}

#[tokio::test]
async fn no_reply_and_errors_of_ones_own() {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on("quiet", async || NoReply)
        .on("own", async || Err::<(), _>(Error::new("full", "come back later")))
        .on("io", async || Err::<(), _>(std::io::Error::other("hunter2 at /etc/passwd")))
        .on("store", async |channel: Channel| channel.publish(&Topic::new("")?, Payload::text("")).await.map(|_| ()));
    let client = serve(endpoint).await.connect("/").await;
    client.send(&keyed("quiet", ""));
    let own = r#","error":{"code":"full","message":"come back later"}"#;
    assert_eq!(client.ask(&keyed("own", "")).await, keyed("own", own));
    let internal = r#","error":{"code":"internal","message":"something went wrong on the server"}"#;
    assert_eq!(client.ask(&keyed("io", "")).await, keyed("io", internal));
    assert!(client.ask(&keyed("store", "")).await.contains(r#""code":"invalid""#), "a name that is none");
}

#[tokio::test]
async fn every_argument_is_there() {
    #[derive(Clone)]
    struct Db(u8);
    #[derive(Deserialize)]
    struct Room {
        room: String,
    }
    #[expect(clippy::too_many_arguments, reason = "as many as there may be")]
    async fn all(
        channel: Channel,
        State(db): State<Db>,
        hub: EventHub,
        room: Opening<Room>,
        session: Option<strait_core::Session<()>>,
        state: ChannelState<u8>,
        text: String,
        bytes: Bytes,
    ) -> Result<String, Error> {
        let same = bytes == text.as_bytes();
        let known = hub.channels();
        Ok(format!(
            "{} {} {known} {} {} {} {same}",
            channel.endpoint(),
            db.0,
            room.room,
            session.is_none(),
            state.get()?
        ))
    }
    let endpoint = Endpoint::new("name", "/{room}").public().on_message(all);
    let node = Node::start(App::new().endpoint(endpoint).state(Db(5)).store(MemoryStore::new())).await;
    let client = node.connect("/hall").await;
    assert_eq!(client.ask("x").await, "name 5 1 hall true 0 true");
    assert!(node.hub().send(&client.id, Payload::binary(vec![1])).await.unwrap());
    assert_eq!(client.next().await, Seen::Binary(vec![1]));
    assert!(node.hub().send(&client.id, Payload::json(&[1]).unwrap()).await.unwrap());
    client.expect("[1]").await;
}

#[tokio::test]
async fn the_routing_key_is_the_endpoints_choice() {
    let endpoint = Endpoint::new("a", "/").public().routing_key("ty\"pe").on("x", async |text: String| text);
    let client = serve(endpoint).await.connect("/").await;
    assert_eq!(client.ask(r#"{"ty\"pe":"x","action":"y"}"#).await, r#"{"ty\"pe":"x","result":"{\"action\":\"y\"}"}"#);
}

#[tokio::test]
async fn events_are_told_to_be_lost_as_the_endpoint_says() {
    let gap = async |endpoint: Endpoint| {
        let node = serve(endpoint).await;
        let admitted = node.app.accept("/", None, &http::HeaderMap::new(), Transport::Plain).unwrap();
        let frame: Frame = admitted.admit(http::HeaderMap::new(), None).await.unwrap().gaps().frame(&topic("a\"b"));
        String::from_utf8(frame.payload().to_vec()).unwrap()
    };
    assert_eq!(gap(Endpoint::new("a", "/")).await, r#"{"gap":{"topic":"a\"b"}}"#);
    let own = Endpoint::new("a", "/").on_gap(|topic| Payload::text(format!("lost {topic:?}")));
    assert_eq!(gap(own).await, r#"lost Some("a\"b")"#);
    let broken = Endpoint::new("a", "/").on_gap(|_| panic!("as asked"));
    assert_eq!(gap(broken).await, r#"{"gap":{"topic":"a\"b"}}"#, "nobody else suffers");
}

#[tokio::test]
async fn what_is_sent_and_replied_keeps_its_order() {
    let endpoint =
        Endpoint::new("a", "/").public().on_message(async |text: String, channel: Channel, hub: EventHub| {
            channel.send(&Payload::text(format!("{text} 1"))).await?;
            hub.send(channel.id(), Payload::text(format!("{text} 2"))).await?;
            channel.send_json(&3).await?;
            hub.publish(Publish::new(topic("nobody"), Payload::text("nothing"))).await?;
            Ok::<_, Error>(format!("{text} reply"))
        });
    let client = serve(endpoint).await.connect("/").await;
    client.send("a");
    client.send("b");
    for text in ["a 1", "a 2", "3", "a reply", "b 1", "b 2", "3", "b reply"] {
        client.expect(text).await;
    }
}
