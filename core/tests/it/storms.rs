//! Errors that many clients cause while a store is away are logged once a second, not once a client.

use std::time::{Duration, Instant};

use strait_core::store::{ChannelStore, StoreError, StoreErrorKind};
use strait_core::testkit::Fault;
use strait_core::{App, Endpoint, Error, Limits};

use crate::captured::Captured;
use crate::node::{Node, faulty, headers, serve};

const MANY: usize = 100;
const LONG: Duration = Duration::from_secs(60);

/// Checks that a kind of line came, and at most once a second since `began`.
fn once_a_second(log: &Captured, line: &str, began: Instant) {
    let lines = log.lines(line).len();
    let most = 1 + began.elapsed().as_secs();
    assert!(lines >= 1 && lines as u64 <= most, "{lines} times {line:?}, at most {most} may be");
}

fn away() -> StoreError {
    StoreError::new(StoreErrorKind::Misconfigured, "test", "get").because("NOAUTH")
}

#[tokio::test]
async fn failing_handlers() {
    let (log, began) = (Captured::begin(), Instant::now());
    let limits = Limits { rate: None, ..Limits::default() };
    let fail = async |_: String| Err::<(), _>(away());
    let client = serve(Endpoint::new("a", "/").public().limits(limits).on_message(fail)).await.connect("/").await;
    for _ in 0..MANY {
        client.ask("hello").await;
    }
    once_a_second(&log, "a handler failed", began);
}

#[tokio::test]
async fn refused_handshakes() {
    let (log, began) = (Captured::begin(), Instant::now());
    let node = serve(Endpoint::new("a", "/").authenticate(async || Err::<(), Error>(Error::internal(away())))).await;
    for _ in 0..MANY {
        node.refused("/", &[]).await;
    }
    once_a_second(&log, "a handshake was refused", began);
}

#[tokio::test]
async fn channels_that_cannot_be_opened() {
    let (store, faults) = faulty();
    let node = Node::start(App::new().endpoint(Endpoint::new("a", "/").public()).store(store).lease(LONG)).await;
    let (log, began) = (Captured::begin(), Instant::now());
    faults.always("open", Fault::Refuse(StoreErrorKind::Misconfigured));
    for _ in 0..MANY {
        assert!(node.open("/", headers(&[])).await.is_err());
    }
    once_a_second(&log, "a channel could not be opened", began);
}

#[tokio::test]
async fn channels_that_cannot_be_attached_again() {
    let (store, faults) = faulty();
    let app = App::new().endpoint(Endpoint::new("a", "/").public()).store(store.clone());
    // Renewed every 2 s.
    let node = Node::start(app.lease(Duration::from_secs(6))).await;
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(node.connect("/").await);
    }
    let (log, began, before) = (Captured::begin(), Instant::now(), faults.calls("attach"));
    faults.always("attach", Fault::Refuse(StoreErrorKind::Unavailable));
    store.release(node.hub().node()).await.unwrap();
    while faults.calls("attach") < before + MANY {
        assert!(began.elapsed() < LONG, "the lost lease is not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    once_a_second(&log, "a channel could not be attached again", began);
}
