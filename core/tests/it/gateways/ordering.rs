//! A slow first and a fast second message of one channel, in parallel invocations.

use strait_core::{App, Endpoint, Ordering, State};
use strait_store_memory::MemoryStore;

use super::fake::{FakeGateway, Function};
use crate::log::{Log, Turnstile, eventually};

async fn handle(text: String, State(log): State<Log>, State(turnstile): State<Turnstile>) -> String {
    log.note(format!("begins {text}"));
    if text.contains("slow") {
        turnstile.pass().await;
    }
    log.note(format!("ends {text}"));
    text
}

fn function(ordering: Ordering) -> (Function, Log, Turnstile) {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/a").public().ordering(ordering).on_message(handle);
    let app = App::new().endpoint(endpoint).state(log.clone()).state(turnstile.clone()).store(MemoryStore::new());
    (Function::new(app, &FakeGateway::new()), log, turnstile)
}

#[tokio::test]
async fn concurrent_messages_are_handled_as_they_are_delivered() {
    let (function, log, turnstile) = function(Ordering::Concurrent);
    function.connect("c1", "/?path=/a").await;
    let fast = async {
        log.wait_for("begins slow").await;
        function.message("c1", "fast").await;
        turnstile.let_pass(1);
    };
    tokio::join!(function.message("c1", "slow"), fast);
    assert_eq!(log.all(), ["begins slow", "begins fast", "ends fast", "ends slow"]);
    assert_eq!(function.gateway.seen("c1"), ["fast", "slow"]);
}

#[tokio::test]
async fn serialized_messages_are_handled_one_at_a_time() {
    let (function, log, turnstile) = function(Ordering::Serialized);
    function.connect("c1", "/?path=/a").await;
    let fast = async {
        log.wait_for("begins slow").await;
        let let_pass = async {
            // Time for the second one to begin, if it could.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            turnstile.let_pass(1);
        };
        tokio::join!(function.message("c1", "fast"), let_pass);
    };
    tokio::join!(function.message("c1", "slow"), fast);
    assert_eq!(log.all(), ["begins slow", "ends slow", "begins fast", "ends fast"]);
    assert_eq!(function.gateway.seen("c1"), ["slow", "fast"]);
}

#[tokio::test]
async fn a_disconnect_waits_for_a_serialized_handler() {
    let (log, turnstile) = (Log::default(), Turnstile::new());
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .ordering(Ordering::Serialized)
        .on_message(handle)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    let app = App::new().endpoint(endpoint).state(log.clone()).state(turnstile.clone()).store(MemoryStore::new());
    let function = Function::new(app, &FakeGateway::new());
    function.connect("c1", "/?path=/a").await;
    let end = async {
        log.wait_for("begins slow").await;
        let let_pass = async {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            turnstile.let_pass(1);
        };
        tokio::join!(function.disconnect("c1"), let_pass);
    };
    tokio::join!(function.message("c1", "slow"), end);
    assert_eq!(log.all(), ["begins slow", "ends slow", "disconnect"]);
}

#[tokio::test]
async fn sequenced_messages_are_handled_in_the_clients_order() {
    let (function, log, turnstile) = function(Ordering::Sequenced("seq".to_owned()));
    function.connect("c1", "/?path=/a").await;
    let [slow, second, third] = [r#"{"seq":1,"x":"slow"}"#, r#"{"seq":2}"#, r#"{"seq":3}"#];
    // The third comes first, and waits for the missing ones.
    function.message("c1", third).await;
    assert!(log.all().is_empty());
    let rest = async {
        eventually("the first", || log.count(&format!("begins {slow}")) == 1).await;
        let again = async {
            tokio::join!(function.message("c1", second), function.message("c1", third));
        };
        let let_pass = async {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            turnstile.let_pass(1);
        };
        tokio::join!(again, let_pass);
    };
    tokio::join!(function.message("c1", slow), rest);
    assert_eq!(function.gateway.seen("c1"), [slow, second, third]);
    function.message("c1", second).await;
    assert_eq!(function.gateway.seen("c1").len(), 3, "what comes again is dropped");
}

#[tokio::test]
async fn a_message_without_its_number_is_invalid_and_one_far_ahead_is_refused() {
    let (function, _, _) = function(Ordering::Sequenced("seq".to_owned()));
    function.connect("c1", "/?path=/a").await;
    function.message("c1", "text").await;
    function.message("c1", r#"{"seq":66}"#).await;
    let seen = function.gateway.seen("c1");
    assert!(seen[0].contains(r#""code":"invalid""#) && seen[1].contains(r#""code":"rate_limited""#), "{seen:?}");
    function.message("c1", r#"{"seq":1}"#).await;
    assert_eq!(function.gateway.seen("c1").last().map(String::as_str), Some(r#"{"seq":1}"#));
}
