//! The rate limit of a client's messages.

use std::time::Duration;

use strait_core::{Limits, RateLimit};

use crate::kit::{Got, echo, limits, serve, text};

fn rate(per_second: u32, burst: u32, patience: Duration) -> Limits {
    Limits { rate: Some(RateLimit { per_second, burst, patience }), ..limits() }
}

#[tokio::test]
async fn beyond_the_burst_messages_are_refused_in_their_order() {
    let node = serve(echo("/echo").limits(rate(1, 5, Duration::from_secs(60)))).await;
    let mut client = node.client("/echo").await;
    let sent: Vec<u8> = (0..8).flat_map(|n| text(&format!(r#"{{"action":"echo","n":{n}}}"#))).collect();
    client.send([sent, text("whole"), crate::kit::binary(b"bytes"), crate::kit::ping(b"free")].concat()).await;
    for n in 0..5 {
        client.expect(&format!(r#"{{"action":"echo","n":{n}}}"#)).await;
    }
    for n in 5..8 {
        let answer = client.json().await;
        assert_eq!((&answer["action"], &answer["error"]["code"]), (&"echo".into(), &"rate_limited".into()), "{n}");
    }
    assert_eq!(client.error().await, "rate_limited");
    assert_eq!(client.error().await, "rate_limited");
    assert_eq!(client.next().await, Got::Pong(b"free".to_vec()));
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn the_rate_comes_back_with_time() {
    let node = serve(echo("/echo").limits(rate(50, 1, Duration::from_secs(60)))).await;
    let mut client = node.client("/echo").await;
    client.send([text("one"), text("two")].concat()).await;
    client.expect("one").await;
    assert_eq!(client.error().await, "rate_limited");
    let answered = async {
        loop {
            client.text("again").await;
            match client.next().await {
                Got::Text(text) if text == "again" => return,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    crate::kit::within(answered).await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn who_floods_for_too_long_is_closed() {
    let node = serve(echo("/echo").limits(rate(1, 3, Duration::from_millis(100)))).await;
    let mut client = node.client("/echo").await;
    let mut answers = Vec::new();
    let reason = loop {
        client.try_send(text("spam")).await;
        match client.next().await {
            Got::Text(text) => answers.push(text),
            Got::Close(code, reason) => {
                assert_eq!(code, 1008);
                break reason;
            }
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(reason, "flooding");
    assert_eq!(answers[..3], ["spam", "spam", "spam"]);
    assert!(answers.len() > 3 && answers[3..].iter().all(|answer| answer.contains("rate_limited")));
    node.is_left_by_all().await;
    node.end().await;
}
