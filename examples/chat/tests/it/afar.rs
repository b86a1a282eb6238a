//! Sends and closes from other processes of one application: a node's client and a function's.

use std::io::Write;
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};
use strait_adapter_fastws::{Runtimes, Server as Node};
use strait_adapter_lambda::ApiGateway;
use strait_core::{App, Channel, ChannelId, Close, Endpoint, Error, EventHub, Json, Payload, Session, UserId};
use tokio_tungstenite::tungstenite::Message;

use crate::fleet::{on_postgres, on_redis};
use crate::kit::{Client, Server};

#[derive(Deserialize)]
struct Channels {
    to: ChannelId,
}

#[derive(Deserialize)]
struct Users {
    to: UserId,
}

async fn login(channel: Channel) -> Result<(), Error> {
    channel.login(Session::new(channel.param("user").unwrap_or_default(), ())?).await
}

async fn send(hub: EventHub, Json(Channels { to }): Json<Channels>) -> Result<Json<bool>, Error> {
    Ok(Json(hub.send(&to, Payload::text("to the channel")).await?))
}

async fn send_to_user(hub: EventHub, Json(Users { to }): Json<Users>) -> Result<Json<usize>, Error> {
    Ok(Json(hub.send_to_user(&to, Payload::text("to the user")).await?))
}

async fn close(hub: EventHub, Json(Channels { to }): Json<Channels>) -> Result<Json<bool>, Error> {
    Ok(Json(hub.close_channel(&to, Close::normal("bye")).await?))
}

async fn close_user(hub: EventHub, Json(Users { to }): Json<Users>) -> Result<Json<usize>, Error> {
    Ok(Json(hub.close_user(&to, Close::normal("bye")).await?))
}

/// Not a test: this program, as another process of the application.
#[test]
#[ignore = "it is what the tests here start"]
fn process() {
    let Ok(role) = std::env::var("AFAR") else { return };
    let store: chat::Store = std::env::var("CHAT_STORE").expect("a store").parse().expect("a store");
    let endpoint = Endpoint::new("afar", "/afar/{user}")
        .public()
        .on_connect(login)
        .on("id", async |channel: Channel| Json(channel.id().clone()))
        .on("send", send)
        .on("send_to_user", send_to_user)
        .on("close", close)
        .on("close_user", close_user);
    let app = store.give(App::new().endpoint(endpoint));
    if role == "function" {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(strait_adapter_lambda::run(app)).expect("it runs");
    }
    let app = app.gateway(ApiGateway::from_env().expect("variables")).build().expect("it builds");
    let listening = |address| writeln!(std::io::stdout(), "listening on http://{address}").expect("it is read");
    Node::new(app).run(([127, 0, 0, 1], 0).into(), Runtimes::Shared, listening).expect("it serves");
}

const ARGUMENTS: [&str; 4] = ["afar::process", "--exact", "--ignored", "--nocapture"];

async fn at_a_node_and_at_a_gateway(store: String) {
    let own = std::env::current_exe().expect("this program");
    let variables = |role: &str| vec![("CHAT_STORE".to_owned(), store.clone()), ("AFAR".to_owned(), role.to_owned())];
    let functions = Server::functions(&own, &ARGUMENTS, variables("function"), 2, 1).await;
    let mut node = Command::new(&own);
    node.args(ARGUMENTS).envs(variables("node")).envs(functions.variables());
    let node = Server::run(node);
    for (n, (one, other)) in
        [(&node, &functions), (&functions, &node), (&functions, &functions)].into_iter().enumerate()
    {
        let (bob, carl) = (format!("bob{n}"), format!("carl{n}"));
        let mut ada = one.client("/afar/ada").await;
        let mut client = other.client(&format!("/afar/{bob}")).await;
        let id = ask(&mut client, "id", &Value::Null).await;
        assert_eq!(ask(&mut ada, "send", &id).await, true);
        client.expect("to the channel").await;
        assert_eq!(ask(&mut ada, "send_to_user", &json!(bob)).await, 1);
        client.expect("to the user").await;
        assert_eq!(ask(&mut ada, "close", &id).await, true);
        is_closed(client).await;
        let mut client = other.client(&format!("/afar/{carl}")).await;
        // The answer shows that the login is done.
        ask(&mut client, "id", &Value::Null).await;
        assert_eq!(ask(&mut ada, "close_user", &json!(carl)).await, 1);
        is_closed(client).await;
        ada.leave().await;
    }
}

async fn ask(client: &mut Client, action: &str, to: &Value) -> Value {
    client.ask(&json!({ "action": action, "to": to }).to_string()).await["result"].take()
}

async fn is_closed(mut client: Client) {
    let close = client.next().await;
    assert!(matches!(&close, Message::Close(Some(close)) if u16::from(close.code) == 1000), "{close:?}");
}

#[tokio::test]
async fn sends_and_closes_pass_between_nodes_and_functions_on_redis() {
    on_redis("afar", at_a_node_and_at_a_gateway).await;
}

#[tokio::test]
async fn sends_and_closes_pass_between_nodes_and_functions_on_postgres() {
    on_postgres("afar", at_a_node_and_at_a_gateway).await;
}
