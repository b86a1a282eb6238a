use serde::{Deserialize, Serialize};
use serde_json::json;
use strait_core::store::ChannelStore;
use strait_core::{App, AppBuilder, Channel, ChannelState, Close, Endpoint, Error, Json, Route, Session, State};

use crate::kit::{Deployment, Log};

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Counter {
    count: u64,
}

#[derive(Deserialize)]
struct Login {
    name: String,
}

fn app(log: &Log) -> AppBuilder {
    async fn count(state: ChannelState<Counter>) -> Result<Json<u64>, Error> {
        Ok(Json(
            state
                .update(|counter| {
                    counter.count += 1;
                    counter.count
                })
                .await?,
        ))
    }
    async fn login(channel: Channel, Json(login): Json<Login>) -> Result<(), Error> {
        channel.login(Session::new(login.name, ())?).await
    }
    async fn leave(channel: Channel, State(log): State<Log>) -> &'static str {
        log.note("message");
        channel.close(Close::normal("bye"));
        "bye"
    }
    let endpoint = Endpoint::new("a", "/a")
        .route("count", Route::new(count).public())
        .route("login", Route::new(login).public())
        .route("leave", Route::new(leave).public())
        .route("list", Route::new(async || Json([1, 2])).public())
        .route("zero", Route::new(async || Json(0)).public())
        .route("no", Route::new(async || Json(false)).public())
        .route("empty", Route::new(async || "").public())
        .route("panic", Route::new(async || -> () { panic!("the password is hunter2") }).public())
        .on("logout", async |channel: Channel| channel.logout().await)
        .on("who", async |session: Session<()>| session.user().to_string())
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    App::new().endpoint(endpoint).state(log.clone())
}

#[tokio::test]
async fn replies_are_those_of_a_node() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut client = deployment.connect("/a").await;
    for (asked, answered) in [
        (r#"{"action":"list"}"#, r#"{"action":"list","result":[1,2]}"#),
        (r#"{"action":"zero"}"#, r#"{"action":"zero","result":0}"#),
        (r#"{"action":"no"}"#, r#"{"action":"no","result":false}"#),
        (r#"{"action":"empty"}"#, r#"{"action":"empty","result":""}"#),
        (
            r#"{"action":"toString"}"#,
            r#"{"action":"toString","error":{"code":"unknown_route","message":"there is no such route"}}"#,
        ),
        (
            r#"{"action":"__proto__"}"#,
            r#"{"action":"__proto__","error":{"code":"unknown_route","message":"there is no such route"}}"#,
        ),
        (
            r#"{"action":"panic"}"#,
            r#"{"action":"panic","error":{"code":"internal","message":"something went wrong on the server"}}"#,
        ),
        (
            "text",
            r#"{"error":{"code":"unknown_route","message":"the message names no route: send a JSON object whose \"action\" is the route's name"}}"#,
        ),
    ] {
        assert_eq!(client.ask(asked).await, answered);
    }
}

#[tokio::test]
async fn sessions_and_state_pass_from_invocation_to_invocation() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut client = deployment.connect("/a").await;
    let code = |answer: String| serde_json::from_str::<serde_json::Value>(&answer).unwrap()["error"]["code"].clone();
    assert_eq!(code(client.ask(r#"{"action":"who"}"#).await), "unauthenticated");
    for name in ["ada", "bob"] {
        let login = json!({ "action": "login", "name": name }).to_string();
        assert_eq!(client.ask(&login).await, r#"{"action":"login"}"#);
        let who = json!({ "action": "who", "result": name }).to_string();
        assert_eq!(client.ask(r#"{"action":"who"}"#).await, who, "not the one before");
    }
    client.ask(r#"{"action":"logout"}"#).await;
    assert_eq!(code(client.ask(r#"{"action":"who"}"#).await), "unauthenticated");
    for count in 1..=3 {
        assert_eq!(client.ask(r#"{"action":"count"}"#).await, format!(r#"{{"action":"count","result":{count}}}"#));
    }
}

#[tokio::test]
async fn close_closes_the_socket_and_nothing_is_handled_after_it() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut client = deployment.connect("/a").await;
    assert_eq!(client.ask(r#"{"action":"leave"}"#).await, r#"{"action":"leave","result":"bye"}"#);
    client.send(r#"{"action":"leave"}"#).await;
    assert_eq!(client.closed().await, 1000);
    deployment.idle().await;
    assert_eq!(log.all(), ["message", "disconnect"]);
    let id = deployment.ids().remove(0);
    assert!(deployment.store.find(&deployment.at(&id).location()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_invocation_that_fails_is_told_by_the_gateway() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut client = deployment.connect("/a").await;
    deployment.gateway.faults().add("message=error".parse().unwrap());
    client.send(r#"{"action":"zero"}"#).await;
    client.expect(r#"{"action":"zero","result":0}"#).await;
    assert_eq!(client.json().await["message"], "Internal server error");
}

/// As an integration that converts to binary hands it over.
#[tokio::test]
async fn an_encoded_message_is_bytes_and_need_not_be_text() {
    let app = || {
        let takes = Endpoint::new("takes", "/takes")
            .public()
            .on_binary(async |bytes: bytes::Bytes| format!("{} bytes", bytes.len()));
        App::new()
            .endpoint(takes)
            .endpoint(Endpoint::new("texts", "/texts").public().on_message(async |text: String| text))
    };
    let deployment = Deployment::start(app).await;
    let mut takes = deployment.connect("/takes").await;
    let mut texts = deployment.connect("/texts").await;
    let [takes_id, texts_id] = deployment.ids().try_into().unwrap();
    let message = |connection: &str, body: &str| {
        let context = json!({"eventType": "MESSAGE", "connectionId": connection});
        json!({"requestContext": context, "body": body, "isBase64Encoded": true})
    };
    deployment.invoke(&message(&takes_id, "AP8=")).await.unwrap();
    takes.expect("2 bytes").await;
    deployment.invoke(&message(&texts_id, "aGVsbG8=")).await.unwrap();
    texts.expect("hello").await;
    deployment.invoke(&message(&texts_id, "_w==")).await.expect_err("that is no base64");
}
