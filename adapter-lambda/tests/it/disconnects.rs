//! Disconnect events that come once, twice, or never.

use std::time::Duration;

use strait_adapter_lambda::local::Options;
use strait_core::store::ChannelStore;
use strait_core::{App, AppBuilder, DisconnectReason, Endpoint, Error, Session, State};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::kit::{Deployment, Log};

fn app(log: &Log) -> AppBuilder {
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .on_message(async |text: String| text)
        .on_disconnect(async |State(log): State<Log>, reason: DisconnectReason| log.note(format!("{reason:?}")));
    App::new().endpoint(endpoint).state(log.clone())
}

#[tokio::test]
async fn a_clients_close_is_answered_with_its_code() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let mut client = deployment.connect("/a").await;
    client.send(Message::Close(Some(CloseFrame { code: 4000.into(), reason: "bye".into() }))).await;
    assert_eq!(client.closed().await, 4000);
}

#[tokio::test]
async fn a_disconnect_ends_the_channel_once_however_often_it_is_told() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    deployment.gateway.faults().add("disconnect=twice".parse().unwrap());
    let mut client = deployment.connect("/a").await;
    assert_eq!(client.ask("hello").await, "hello");
    client.leave().await;
    crate::kit::eventually("both are told", || deployment.count("disconnect") == 2).await;
    assert_eq!(log.all(), ["Client"]);
    let id = deployment.ids().remove(0);
    assert!(deployment.store.find(&deployment.at(&id).location()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_lost_disconnect_is_found_by_the_janitor() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    deployment.gateway.faults().add("disconnect=lost".parse().unwrap());
    let mut stays = deployment.connect("/a").await;
    deployment.connect("/a").await.leave().await;
    crate::kit::eventually("one is left", || deployment.gateway.connections() == 1).await;
    // Older than an opening connection.
    tokio::time::sleep(Duration::from_millis(350)).await;
    deployment.sweep().await;
    assert_eq!(log.all(), ["Lost"]);
    assert_eq!(stays.ask("still here").await, "still here");
    deployment.sweep().await;
    assert_eq!(log.all(), ["Lost"]);
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_channel_as_lost() {
    let log = Log::default();
    let deployment = Deployment::start(|| app(&log)).await;
    let client = deployment.connect("/a").await;
    drop(client);
    log.wait_for("Lost").await;
}

#[tokio::test]
async fn quiet_and_old_connections_are_closed_by_the_gateway() {
    let log = Log::default();
    let options =
        Options { idle: Duration::from_millis(80), lifetime: Duration::from_millis(300), ..Options::default() };
    let deployment = Deployment::with(|| app(&log), options, 2).await;
    let mut quiet = deployment.connect("/a").await;
    assert_eq!(quiet.closed().await, 1001);
    log.wait_for("Lost").await;
    let mut busy = deployment.connect("/a").await;
    let started = std::time::Instant::now();
    loop {
        busy.send("hello").await;
        match busy.next().await {
            tokio_tungstenite::tungstenite::Message::Close(_) => break,
            message => assert_eq!(message.to_text().unwrap(), "hello"),
        }
    }
    assert!(started.elapsed() >= Duration::from_millis(200), "it was not idle");
}

#[tokio::test]
async fn an_event_that_is_none_fails_and_the_instance_goes_on() {
    let log = Log::default();
    let deployment = Deployment::start(|| {
        async fn authenticate() -> Result<Session<()>, Error> {
            Err(Error::unauthenticated("no"))
        }
        app(&log).endpoint(Endpoint::new("b", "/b").authenticate(authenticate))
    })
    .await;
    let mut client = deployment.connect("/a").await;
    assert!(deployment.try_connect("/b").await.is_err());
    assert_eq!(client.ask("hello").await, "hello");
}
