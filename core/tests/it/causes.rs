//! The log names the whole chain of causes of an error.

use std::io;

use strait_core::store::{StoreError, StoreErrorKind};
use strait_core::{Endpoint, Error, Transport};

use crate::captured::Captured;
use crate::log::eventually;
use crate::node::serve;

#[derive(Debug, thiserror::Error)]
#[error("the session table cannot be read")]
struct Outer(#[source] StoreError);

fn chain() -> Outer {
    let innermost = io::Error::other("10.0.0.7:6379 answered NOAUTH");
    Outer(StoreError::new(StoreErrorKind::Misconfigured, "test", "get").because(innermost))
}

#[tokio::test]
async fn a_failed_handler_is_logged_with_all_causes() {
    let log = Captured::begin();
    let endpoint = Endpoint::new("a", "/").public().on("fail", async || Err::<(), _>(chain()));
    let client = serve(endpoint).await.connect("/").await;
    let answer = client.ask(r#"{"action":"fail"}"#).await;
    assert!(answer.contains("internal") && !answer.contains("NOAUTH"), "{answer}");
    let [line] = &log.lines("a handler failed")[..] else { panic!("one line") };
    assert!(line.contains("session table") && line.contains("NOAUTH"), "{line}");
}

#[tokio::test]
async fn an_error_that_may_pass_is_logged_with_its_cause_too() {
    let log = Captured::begin();
    let fail = async || Err::<(), _>(StoreError::new(StoreErrorKind::Unavailable, "test", "get").because("MISCONF"));
    let endpoint = Endpoint::new("a", "/").public().on("fail", fail);
    let client = serve(endpoint).await.connect("/").await;
    let answer = client.ask(r#"{"action":"fail"}"#).await;
    assert!(answer.contains("unavailable") && !answer.contains("MISCONF"), "{answer}");
    let [line] = &log.lines("a handler answered with an error")[..] else { panic!("one line") };
    assert!(line.contains("MISCONF"), "{line}");
}

#[tokio::test]
async fn a_failed_on_disconnect_is_logged_with_all_causes() {
    let log = Captured::begin();
    let endpoint = Endpoint::new("a", "/").public().on_disconnect(async || Err::<(), _>(chain()));
    serve(endpoint).await.connect("/").await.lose();
    eventually("the line", || !log.lines("on_disconnect failed").is_empty()).await;
    let [line] = &log.lines("on_disconnect failed")[..] else { panic!("one line") };
    assert!(line.contains("session table") && line.contains("NOAUTH"), "{line}");
}

#[tokio::test]
async fn a_refused_handshake_is_logged_with_all_causes() {
    let log = Captured::begin();
    let authenticate = async || Err::<(), _>(Error::internal(chain()));
    let node = serve(Endpoint::new("a", "/").authenticate(authenticate)).await;
    let accepted = node.app.accept("/", None, &http::HeaderMap::new(), Transport::Plain).unwrap();
    accepted.admit(http::HeaderMap::new(), None).await.unwrap_err();
    let [line] = &log.lines("a handshake was refused")[..] else { panic!("one line") };
    assert!(line.contains("session table") && line.contains("NOAUTH"), "{line}");
}
