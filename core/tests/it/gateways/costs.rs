//! The store operations of each action: the book's table, counted.

use std::time::Duration;

use strait_core::testkit::Faults;
use strait_core::{App, Channel, Endpoint, Error, NoReply, Ordering, Payload, Retention, Topic};

use super::fake::{FakeGateway, Function};
use crate::node::faulty;

/// The store operations that invocations use.
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

/// The counters: the store's operations and the gateway's requests.
struct Counts(Faults, FakeGateway);

impl Counts {
    /// How many operations something takes.
    async fn count(&self, what: impl Future<Output = ()>) -> usize {
        let before = calls(&self.0);
        what.await;
        calls(&self.0) - before
    }

    /// How many operations, and requests.
    async fn both(&self, what: impl Future<Output = ()>) -> (usize, usize) {
        let before = self.1.requests();
        let operations = self.count(what).await;
        (operations, self.1.requests() - before)
    }
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
    let echo = async |text: String| text;
    let ordered =
        |name: &str, ordering| Endpoint::new(name, format!("/{name}")).public().ordering(ordering).on_message(echo);
    let app = App::new()
        .endpoint(Endpoint::new("quiet", "/quiet").public().on_message(echo))
        .endpoint(Endpoint::new("polite", "/polite").public().on_connect(welcome))
        .endpoint(Endpoint::new("room", "/room").public().on_connect(subscribe).on_message(publish))
        .endpoint(ordered("serialized", Ordering::Serialized))
        .endpoint(ordered("sequenced", Ordering::Sequenced("seq".to_owned())))
        .retain("kept", Retention { count: 10, age: Duration::from_secs(600) })
        .lease(Duration::from_millis(100))
        .store(store);
    let function = Function::new(app, &FakeGateway::new());
    let counts = Counts(faults, function.gateway.clone());
    assert_eq!(counts.both(function.connect("c1", "/?path=/quiet")).await, (5, 0), "connect");
    assert_eq!(counts.both(function.connect("c2", "/?path=/polite")).await, (10, 1), "connect, with a message");
    let joined = counts.count(function.connect("r0", "/?path=/room")).await;
    assert_eq!(joined - 5, 2 * 2, "two subscriptions");
    assert_eq!(counts.both(function.message("c1", "hello")).await, (1, 1), "a message");
    function.connect("s1", "/?path=/serialized").await;
    assert_eq!(counts.both(function.message("s1", "hello")).await, (4, 1), "a serialized message");
    function.connect("s2", "/?path=/sequenced").await;
    assert_eq!(counts.both(function.message("s2", r#"{"seq":2}"#)).await, (5, 0), "a message that waits");
    assert_eq!(counts.both(function.message("s2", r#"{"seq":1}"#)).await, (4 + 2 * 2, 2), "it, and the one before");
    for n in 1..300 {
        function.connect(&format!("r{n}"), "/?path=/room").await;
    }
    assert_eq!(counts.both(function.message("r0", "t")).await, (1 + 1 + 2, 300), "a publication to 300 members");
    assert_eq!(counts.both(function.message("r0", "kept")).await, (1 + 5 + 2, 300), "a publication that is kept");
    assert_eq!(counts.both(function.disconnect("c1")).await, (3, 0), "a disconnect");
    // Three members besides those in the room; one of them keeps a sequence, and one topic is retained.
    let expected = (16 + 2 * 303 + 1 + 4, 303);
    assert_eq!(counts.both(function.sweep()).await, expected, "the janitor");
}
