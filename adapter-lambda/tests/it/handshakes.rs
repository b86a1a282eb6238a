use strait_core::store::ChannelStore;
use strait_core::{App, AppBuilder, Channel, Endpoint, Error, Headers, Payload, Peer, Route, Session, State};

use crate::kit::{Deployment, Log, eventually};

async fn welcome(channel: Channel, State(log): State<Log>) -> Result<(), Error> {
    log.note("connect");
    channel.send(&Payload::text("one")).await?;
    channel.send(&Payload::text("two")).await
}

fn app(log: &Log) -> AppBuilder {
    async fn bearer(Headers(headers): Headers, Peer(peer): Peer) -> Result<Session<()>, Error> {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok());
        assert!(peer.is_some_and(|peer| peer.ip().is_loopback()), "the client's address is told");
        match given {
            Some("Bearer ada") => Ok(Session::new("ada", ())?),
            _ => Err(Error::unauthenticated("who are you?")),
        }
    }
    async fn who(session: Session<()>) -> String {
        session.user().to_string()
    }
    async fn full(State(log): State<Log>) -> Result<(), Error> {
        log.note("refused");
        Err(Error::forbidden("the room is full"))
    }
    async fn fails() -> Result<(), std::io::Error> {
        Err(std::io::Error::other("the password is hunter2"))
    }
    #[derive(serde::Deserialize)]
    struct Number {
        #[serde(rename = "number")]
        _number: u32,
    }
    let welcome = Endpoint::new("welcome", "/welcome").public().subprotocols(["chat.v2"]).on_connect(welcome);
    App::new()
        .endpoint(welcome.on_message(async |text: String| text))
        .endpoint(
            Endpoint::new("own", "/own/{name}")
                .authenticate(bearer)
                .on("who", who)
                .route("room", Route::new(async |channel: Channel| channel.param("name").unwrap_or_default()).public()),
        )
        .endpoint(Endpoint::new("full", "/full").on_connect(full).on_disconnect(async |State(log): State<Log>| {
            log.note("disconnect");
        }))
        .endpoint(Endpoint::new("fails", "/fails").on_connect(fails))
        .endpoint(Endpoint::new("typed", "/typed/{number}").opening::<Number>())
        .state(log.clone())
}

#[tokio::test]
async fn a_client_that_only_listens_gets_what_on_connect_sends() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut client = deployment.connect("/welcome").await;
    client.expect("one").await;
    client.expect("two").await;
    assert_eq!(client.ask("three").await, "three");
}

#[tokio::test]
async fn a_refusal_has_its_status_and_leaves_no_connection() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    for (path, expected) in [
        ("/full", (403, "the room is full")),
        ("/fails", (500, "something went wrong on the server")),
        ("/own/a", (401, "who are you?")),
        ("/nowhere", (404, "there is no endpoint at this path")),
    ] {
        let (status, body) = deployment.try_connect(path).await.err().expect("refused");
        assert_eq!((status, body.as_str()), expected, "{path}");
    }
    let (status, _) = deployment.try_connect("/typed/many").await.err().expect("refused");
    assert_eq!(status, 422);
    let origin = [("origin", "https://evil.example")];
    let (status, _) = deployment.try_connect_with("/welcome", &origin).await.err().expect("refused");
    assert_eq!(status, 403);
    assert_eq!(deployment.gateway.connections(), 0);
    assert_eq!(log.all(), ["refused", "disconnect"]);
    for id in deployment.ids() {
        let found = deployment.store.find(&deployment.at(&id).location()).await.unwrap();
        assert!(found.is_none(), "a refused connection leaves a record");
    }
}

#[tokio::test]
async fn authentication_path_and_subprotocol_reach_the_handlers() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let bearer = [("authorization", "Bearer ada")];
    let mut client = deployment.try_connect_with("/own/tea%2520%2526%2520cake", &bearer).await.expect("let in");
    assert_eq!(client.ask(r#"{"action":"who"}"#).await, r#"{"action":"who","result":"ada"}"#);
    assert_eq!(client.ask(r#"{"action":"room"}"#).await, r#"{"action":"room","result":"tea & cake"}"#);
    let offered = [("sec-websocket-protocol", "other, chat.v2")];
    let client = deployment.try_connect_with("/welcome", &offered).await.expect("let in");
    assert_eq!(client.protocol.as_deref(), Some("chat.v2"));
}

#[tokio::test]
async fn a_connect_that_is_handed_over_twice_runs_once() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    deployment.gateway.faults().add("connect=twice".parse().unwrap());
    let mut client = deployment.connect("/welcome").await;
    client.expect("one").await;
    client.expect("two").await;
    assert_eq!(client.ask("three").await, "three");
    assert_eq!((log.count("connect"), deployment.count("connect")), (1, 2));
}

#[tokio::test]
async fn nothing_is_posted_before_the_handshake_is_answered() {
    async fn slow(channel: Channel, State(log): State<Log>) -> Result<(), Error> {
        channel.send(&Payload::text("early")).await?;
        log.note("sent");
        while log.count("go on") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Ok(())
    }
    let log = Log::default();
    let app = || App::new().endpoint(Endpoint::new("slow", "/slow").on_connect(slow)).state(log.clone());
    let deployment = Deployment::start(app).await;
    let connecting = deployment.connect("/slow");
    let watching = async {
        log.wait_for("sent").await;
        assert_eq!(deployment.count("POST"), 0);
        log.note("go on");
    };
    let (mut client, ()) = tokio::join!(connecting, watching);
    client.expect("early").await;
    eventually("one post", || deployment.count("POST") >= 1).await;
}

#[tokio::test]
async fn what_is_no_handshake_of_version_13_asks_nobody() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let refused = deployment.try_connect_with("/welcome", &[("sec-websocket-version", "8")]).await;
    assert_eq!(refused.err().expect("refused").0, 403);
    assert!(deployment.ids().is_empty());
}
