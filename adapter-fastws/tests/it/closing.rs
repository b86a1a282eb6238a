//! Closing from the server's side: after the reply, with code and reason, and for good.

use std::time::Duration;

use strait_core::{Channel, Close, Endpoint, EventHub, Json, Limits};
use tokio::time::Instant;

use crate::kit::{CLOSING, Got, Notes, becomes, close, echo, frame, limits, ping, pong, serve, text, until};

/// An endpoint with channels that tell their ids.
fn closing(handled: &Notes) -> Endpoint {
    let noted = handled.clone();
    Endpoint::new("closing", "/echo")
        .public()
        .limits(limits())
        .on("id", |channel: Channel| async move { channel.id().as_str().to_owned() })
        .on("close", |channel: Channel| async move {
            channel.send_json("goodbye").await?;
            channel.close(Close::new(4000, "as you like").expect("a code"));
            channel.close(Close::normal("too late"));
            Ok::<_, strait_core::Error>(Json(serde_json::json!({ "closed": true })))
        })
        .on("close_slowly", |channel: Channel| async move {
            channel.close(Close::normal(""));
            std::future::pending::<()>().await;
        })
        .on_message(move |text: String| {
            noted.add(&*text);
            async move { text }
        })
}

#[tokio::test]
async fn a_handlers_close_comes_after_its_reply_and_nothing_follows() {
    let handled = Notes::default();
    let node = serve(closing(&handled)).await;
    let mut client = node.client("/echo").await;
    client.send([text("first"), text(r#"{"action":"close"}"#), text("second"), ping(b"x")].concat()).await;
    client.expect("first").await;
    client.expect("\"goodbye\"").await;
    client.expect(r#"{"action":"close","closed":true}"#).await;
    assert_eq!(client.next().await, Got::Close(4000, "as you like".to_owned()));
    client.try_send([text("third"), pong()].concat()).await;
    assert_eq!(client.next().await, Got::End);
    node.is_left_by_all().await;
    handled.become_these(&["first"]).await;
    node.end().await;
}

#[tokio::test]
async fn what_a_client_sent_before_its_close_is_answered_before_it_and_the_rest_is_not() {
    let node = serve(echo("/echo").limits(Limits { message: 1 << 20, ..limits() })).await;
    let mut client = node.client("/echo").await;
    let long = "x".repeat(256 * 1024);
    client.send([text(&long), text("short"), close(1000, ""), ping(b"x"), text("late")].concat()).await;
    client.expect(&long).await;
    client.expect("short").await;
    assert_eq!(client.next().await, Got::Close(1000, String::new()));
    assert_eq!(client.next().await, Got::End);
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_handler_that_goes_on_after_its_close_does_not_hold_it_up() {
    let node =
        serve(closing(&Notes::default()).limits(Limits { handler: Duration::from_millis(100), ..limits() })).await;
    let mut client = node.client("/echo").await;
    client.text(r#"{"action":"close_slowly"}"#).await;
    client.closes(1000).await;
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn the_hub_closes_a_channel_by_its_id() {
    let node = serve(closing(&Notes::default())).await;
    let mut client = node.client("/echo").await;
    client.text(r#"{"action":"id"}"#).await;
    let id = client.json().await["result"].as_str().expect("an id").to_owned().try_into().expect("an id");
    let hub: &EventHub = node.app.hub();
    assert!(hub.close_channel(&id, Close::policy("kicked")).await.expect("it is closed"));
    assert_eq!(client.closes(1008).await, "kicked");
    becomes(|| hub.channels(), 0).await;
    node.is_left_by_all().await;
    assert!(!hub.close_channel(&id, Close::policy("kicked")).await.expect("there is none"));
    node.end().await;
}

#[tokio::test]
async fn who_does_not_answer_a_close_is_cut_off_in_time() {
    let node = serve(closing(&Notes::default())).await;
    let mut client = node.client("/echo").await;
    client.text(r#"{"action":"close"}"#).await;
    assert_eq!(client.is_closed().await.0, 4000);
    let start = Instant::now();
    // Further bytes of the client keep it no longer.
    while client.try_send(text("still here")).await {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(start.elapsed() >= CLOSING / 2, "it had its time to answer");
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn who_cannot_even_read_the_close_is_cut_off_in_time() {
    let node = serve(closing(&Notes::default())).await;
    let mut client = node.narrow_client("/echo").await;
    let message = text(&"x".repeat(60_000));
    // The client asks for more than the kernels keep, and reads nothing.
    let taken = async { while client.try_send(&message).await {} };
    let _ = tokio::time::timeout(Duration::from_millis(200), taken).await;
    let ids = node.app.hub().channels();
    assert_eq!(ids, 1);
    node.handle.drain();
    until("it is gone", || node.app.hub().channels() == 0).await;
    node.end().await;
}

#[tokio::test]
async fn who_broke_the_protocol_sees_the_end_without_having_to_wait_for_it() {
    let limits = Limits { closing: Duration::from_secs(600), ..limits() };
    let node = serve(echo("/echo").limits(Limits { message: 1000, ..limits })).await;
    for (bytes, code) in [(frame(0xc1, "x"), 1002), (frame(0x81, [0xff]), 1007), (text(&"x".repeat(50_000)), 1009)] {
        let mut client = node.client("/echo").await;
        client.send(bytes).await;
        assert_eq!(client.is_closed().await.0, code);
        assert_eq!(client.next().await, Got::End, "{code}");
    }
    node.is_left_by_all().await;
    node.end().await;
}
