//! How many store operations things take: the book's table, counted.

use std::time::Duration;

use strait_core::testkit::Faults;
use strait_core::{App, Channel, Endpoint, Error, NoReply, Payload, Retention, Topic};

use super::fake::{FakeGateway, Function};
use crate::node::faulty;

/// What stores are asked by invocations.
const OPERATIONS: [&str; 15] = [
    "open",
    "get",
    "find",
    "write",
    "lock",
    "unlock",
    "claim",
    "remove",
    "subscribe",
    "unsubscribe",
    "topics",
    "members",
    "publish",
    "history",
    "replay",
];

fn calls(faults: &Faults) -> usize {
    OPERATIONS.iter().chain(&["relay", "relay_done", "presence", "deliver"]).map(|op| faults.calls(op)).sum()
}

/// How many operations something takes.
async fn count(faults: &Faults, what: impl Future<Output = ()>) -> usize {
    let before = calls(faults);
    what.await;
    calls(faults) - before
}

async fn publish(channel: Channel, text: String) -> Result<NoReply, Error> {
    channel.publish(&Topic::new(text)?, Payload::text("event")).await?;
    Ok(NoReply)
}

#[tokio::test]
async fn operations_are_those_that_the_book_tells() {
    async fn welcome(channel: Channel) -> Result<(), Error> {
        channel.send(&Payload::text("welcome")).await
    }
    async fn subscribe(channel: Channel) -> Result<(), Error> {
        channel.subscribe(&Topic::new("t")?).await?;
        channel.subscribe(&Topic::new("kept")?).await
    }
    let (store, faults) = faulty();
    let app = App::new()
        .endpoint(Endpoint::new("quiet", "/quiet").public().on_message(async |text: String| text))
        .endpoint(Endpoint::new("polite", "/polite").public().on_connect(welcome))
        .endpoint(Endpoint::new("room", "/room").public().on_connect(subscribe).on_message(publish))
        .retain("kept", Retention { count: 10, age: Duration::from_secs(600) })
        .store(store);
    let function = Function::new(app, &FakeGateway::new());
    assert_eq!(count(&faults, function.connect("c1", "/?path=/quiet")).await, 5, "connect");
    assert_eq!(count(&faults, function.connect("c2", "/?path=/polite")).await, 10, "connect, with a message");
    let joined = count(&faults, function.connect("r0", "/?path=/room")).await;
    assert_eq!(joined - 5, 2 * 2, "two subscriptions");
    assert_eq!(count(&faults, function.message("c1", "hello")).await, 1, "a message");
    for n in 1..300 {
        function.connect(&format!("r{n}"), "/?path=/room").await;
    }
    assert_eq!(count(&faults, function.message("r0", "t")).await, 1 + 1 + 2, "a publication to 300 members");
    assert_eq!(count(&faults, function.message("r0", "kept")).await, 1 + 5 + 2, "a publication that is kept");
    assert_eq!(count(&faults, function.disconnect("c1")).await, 3, "a disconnect");
}
