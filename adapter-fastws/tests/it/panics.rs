//! A panic in a connection's own task ends that connection, with its channel's end, and nothing else.

use std::time::Duration;

use strait_core::{Channel, DisconnectReason, Endpoint, Limits, Topic};

use crate::kit::{Got, Notes, limits, serve, text};

/// Panics when its handler is dropped for taking too long: the adapter expects no more of the handler then.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose, in a destructor");
    }
}

async fn never() {
    let _bomb = Bomb;
    std::future::pending::<()>().await;
}

fn endpoint(notes: &Notes) -> Endpoint {
    let ended = notes.clone();
    Endpoint::new("a", "/a")
        .public()
        .limits(Limits { handler: Duration::from_millis(50), ..limits() })
        .on_connect(|channel: Channel| async move { channel.subscribe_present::<()>(&Topic::new("t")?, None).await })
        .on_message(|text: String| async move { text })
        .on("bomb", never)
        .on_disconnect(move |reason: DisconnectReason| {
            ended.add(format!("{reason:?}"));
            async {}
        })
}

#[tokio::test]
async fn a_panic_ends_its_connection_with_1011_and_its_channel() {
    let notes = Notes::default();
    let node = serve(endpoint(&notes)).await;
    let (mut bystander, mut unlucky) = (node.client("/a").await, node.client("/a").await);
    unlucky.send([text(r#"{"action":"bomb"}"#), text("never handled")].concat()).await;
    let (code, reason) = unlucky.is_closed().await;
    assert_eq!((code, &*reason), (1011, "something went wrong on the server"));
    assert_eq!(unlucky.next().await, Got::End);
    notes.become_these(&["Server"]).await;
    bystander.text("well").await;
    bystander.expect("well").await;
    assert_eq!(node.app.hub().channels(), 1);
    bystander.leave().await;
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_panic_when_the_client_has_gone_ends_the_channel() {
    let notes = Notes::default();
    let node = serve(endpoint(&notes)).await;
    let mut client = node.client("/a").await;
    client.text(r#"{"action":"bomb"}"#).await;
    client.reset();
    notes.become_these(&["Lost"]).await;
    node.is_left_by_all().await;
    node.end().await;
}
