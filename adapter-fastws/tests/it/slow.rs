//! Clients that do not keep up, and their neighbours.

use std::time::Duration;

use serde_json::Value;
use strait_core::{Channel, Endpoint, Json, Limits, Payload, Publish, SlowClient, Topic};
use tokio::time::{Instant, timeout};

use crate::kit::{Got, Node, becomes, echo, limits, serve, text, until};

const QUEUE: usize = 16 * 1024;
const EVENT: usize = 4 * 1024;

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a name")
}

/// An endpoint with channels that are members of two topics.
fn listening(slow_client: SlowClient) -> Endpoint {
    echo("/listen")
        .limits(Limits { queue: QUEUE, slow_client, ..limits() })
        .on_connect(|channel: Channel| async move {
            channel.subscribe(&topic("a")).await?;
            channel.subscribe(&topic("b")).await
        })
        .on("send", |channel: Channel, Json(input): Json<Value>| async move {
            channel.send_json(&input["what"]).await.map(|()| strait_core::NoReply)
        })
}

async fn publish(node: &Node, name: &str, number: usize) {
    let padding = "x".repeat(EVENT);
    let payload = Payload::text(format!("{name} {number} {padding}"));
    node.app.hub().publish(Publish::new(topic(name), payload)).await.expect("it is published");
}

/// The topic and the number of an event; the topic alone for a gap.
fn what(got: &Got) -> (String, Option<usize>) {
    let Got::Text(text) = got else { panic!("this is no event: {got:?}") };
    if let Ok(gap) = serde_json::from_str::<Value>(text) {
        return (gap["gap"]["topic"].as_str().expect("a gap").to_owned(), None);
    }
    let mut words = text.split(' ');
    let name = words.next().expect("a topic").to_owned();
    (name, Some(words.next().expect("a number").parse().expect("a number")))
}

/// Publishes, and lets the deliveries run.
async fn publish_many(node: &Node, name: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        publish(node, name, number).await;
        tokio::task::yield_now().await;
    }
}

/// More than the kernels keep for a socket.
const MANY: usize = 3_000;

#[tokio::test]
async fn by_default_who_reads_too_slowly_is_closed() {
    let node = serve(listening(SlowClient::Disconnect)).await;
    let (mut slow, mut quick) = (node.narrow_client("/listen").await, node.client("/listen").await);
    becomes(|| node.app.hub().topics(), 2).await;
    quick.text("ready").await;
    quick.expect("ready").await;
    for number in 0..MANY {
        publish(&node, "a", number).await;
        assert_eq!(what(&quick.next().await), ("a".to_owned(), Some(number)));
        if node.app.hub().channels() == 1 {
            break;
        }
    }
    // Events on their way arrive, then the reason if there was still time to send it.
    let mut expected = 0;
    loop {
        match slow.try_next().await {
            Some(Got::Close(code, reason)) => {
                assert_eq!((code, &*reason), (1008, "you read too slowly"));
            }
            None | Some(Got::End) => break,
            Some(event) => {
                assert_eq!(what(&event), ("a".to_owned(), Some(expected)), "nothing is left out before the close");
                expected += 1;
            }
        }
    }
    becomes(|| node.app.hub().channels(), 1).await;
    quick.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_burst_of_sends_is_no_slowness() {
    const SENDS: usize = 100;
    let endpoint = listening(SlowClient::Disconnect).on("burst", |channel: Channel| async move {
        let big = "x".repeat(EVENT);
        for number in 0..SENDS {
            channel.send(&Payload::text(format!("b {number} {big}"))).await?;
        }
        Ok::<_, strait_core::Error>(strait_core::NoReply)
    });
    let node = serve(endpoint).await;
    let mut client = node.client("/listen").await;
    // Far more events than may wait, in one turn of the connection's task: the socket was not tried yet.
    client.text(r#"{"action":"burst"}"#).await;
    for number in 0..SENDS {
        assert_eq!(what(&client.next().await), ("b".to_owned(), Some(number)));
    }
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn the_oldest_are_dropped_with_one_notice_for_a_run() {
    let node = serve(listening(SlowClient::DropOldest)).await;
    let mut slow = node.narrow_client("/listen").await;
    slow.text("ready").await;
    slow.expect("ready").await;
    publish_many(&node, "a", 0..MANY).await;
    let (mut gaps, mut last) = (0, None);
    let mut got_after_gap = 0;
    while last != Some(MANY - 1) {
        match what(&slow.next().await) {
            (name, Some(number)) => {
                assert_eq!(name, "a");
                let expected = last.map_or(0, |last| last + 1);
                assert!(number == expected || (gaps > 0 && got_after_gap == 0 && number > expected), "{number}");
                last = Some(number);
                got_after_gap += 1;
            }
            (_, None) => {
                assert!(gaps == 0 || got_after_gap > 0, "two notices in a row");
                gaps += 1;
                got_after_gap = 0;
            }
        }
    }
    assert_eq!(gaps, 1, "nothing was read meanwhile, so that there was one run");
    assert!(got_after_gap <= QUEUE / EVENT, "no more than the queue holds is kept: {got_after_gap}");
    slow.text("still here").await;
    slow.expect("still here").await;
    slow.leave().await;
    node.end().await;
}

#[tokio::test]
async fn the_latest_of_each_topic_is_kept() {
    let node = serve(listening(SlowClient::LatestPerTopic)).await;
    let mut slow = node.narrow_client("/listen").await;
    slow.text("ready").await;
    slow.expect("ready").await;
    for number in 0..MANY {
        publish(&node, "a", number).await;
        publish(&node, "b", number).await;
        tokio::task::yield_now().await;
    }
    let mut all = Vec::new();
    while all.iter().filter(|(_, number)| *number == Some(MANY - 1)).count() < 2 {
        all.push(what(&slow.next().await));
    }
    for name in ["a", "b"] {
        let gaps = all.iter().filter(|(found, number)| found == name && number.is_none()).count();
        assert_eq!(gaps, 1, "{name}");
        let at = all.iter().position(|(found, number)| found == name && number.is_none()).expect("a gap");
        let after = all[at..].iter().filter(|(found, number)| found == name && number.is_some()).count();
        assert_eq!(after, 1, "{name}: only the latest waits");
    }
    slow.leave().await;
    node.end().await;
}

#[tokio::test]
async fn replies_and_direct_sends_are_never_dropped() {
    let node = serve(listening(SlowClient::DropOldest)).await;
    let mut slow = node.narrow_client("/listen").await;
    slow.text("ready").await;
    slow.expect("ready").await;
    publish_many(&node, "a", 0..MANY / 2).await;
    slow.send([text("a reply"), text(r#"{"action":"send","what":"a send"}"#)].concat()).await;
    publish_many(&node, "a", MANY / 2..MANY).await;
    let mut found = Vec::new();
    loop {
        match slow.next().await {
            Got::Text(text) if text.starts_with("a r") || text.starts_with("\"a s") => found.push(text),
            event if what(&event).1 == Some(MANY - 1) => break,
            _ => {}
        }
    }
    assert_eq!(found, ["a reply", "\"a send\""]);
    slow.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_stalled_member_slows_nobody_down() {
    let node = serve(listening(SlowClient::DropOldest)).await;
    let mut stalled = Vec::new();
    for _ in 0..5 {
        stalled.push(node.narrow_client("/listen").await);
    }
    let mut quick = node.client("/listen").await;
    quick.text("ready").await;
    quick.expect("ready").await;
    let mut worst = Duration::ZERO;
    for number in 0..1_000 {
        let start = Instant::now();
        publish(&node, "a", number).await;
        assert_eq!(what(&quick.next().await), ("a".to_owned(), Some(number)));
        worst = worst.max(start.elapsed());
    }
    assert!(worst < Duration::from_millis(500), "{worst:?}");
    quick.leave().await;
    drop(stalled);
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn who_does_not_read_replies_is_not_read_from_until_it_does() {
    let handled = crate::kit::Notes::default();
    let noted = handled.clone();
    let endpoint = Endpoint::new("big", "/big").public().limits(Limits { queue: QUEUE, ..limits() }).on_message(
        move |text: String| {
            noted.add("");
            async move { format!("{text} {}", "y".repeat(20_000)) }
        },
    );
    let node = serve(endpoint).await;
    let mut client = node.narrow_client("/big").await;
    let most = 20_000;
    let mut sent = 0;
    while sent < most {
        match timeout(Duration::from_millis(200), client.socket.writable()).await {
            Ok(writable) => writable.expect("the socket is open"),
            Err(_) => break,
        }
        let message = text(&format!("{sent} {}", "x".repeat(2_000)));
        match client.socket.try_write(&message) {
            Ok(written) => {
                client.send(&message[written..]).await;
                sent += 1;
            }
            Err(_) => tokio::task::yield_now().await,
        }
        let handled = handled.all().len();
        if sent > handled + 200 {
            break;
        }
    }
    assert!(sent < most, "the server reads on and on");
    let before = handled.all().len();
    assert!(before < sent);
    for number in 0..sent {
        match client.next().await {
            Got::Text(text) => assert!(text.starts_with(&format!("{number} "))),
            other => panic!("{other:?}"),
        }
    }
    until("all are handled", || handled.all().len() == sent).await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn direct_sends_beyond_twice_the_queue_are_too_much() {
    let endpoint = listening(SlowClient::DropOldest).on("pour", |channel: Channel| async move {
        let much = "z".repeat(QUEUE);
        for _ in 0..1_000 {
            channel.send_json(&much).await?;
        }
        Ok::<_, strait_core::Error>(())
    });
    let node = serve(endpoint).await;
    let mut client = node.narrow_client("/listen").await;
    client.text(r#"{"action":"pour"}"#).await;
    assert_eq!(client.is_closed().await, (1008, "you read too slowly".to_owned()));
    assert_eq!(client.next().await, Got::End);
    node.is_left_by_all().await;
    node.end().await;
}
