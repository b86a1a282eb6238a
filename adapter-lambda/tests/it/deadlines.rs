//! Deadlines of invocations: those that have passed already, and those that a store does not keep.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use strait_adapter_lambda::local::{LocalGateway, Options};
use strait_adapter_lambda::{Failure, Function, Handled};
use strait_core::testkit::{Fault, Faults, Faulty, Gate};
use strait_core::{App, Endpoint, State};
use strait_store_memory::MemoryStore;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::kit::{Log, settings};

/// Far beyond the deadlines here, also on a slow machine.
const LONG: Duration = Duration::from_secs(60);

async fn function(log: &Log, faults: &Faults) -> (LocalGateway, Function) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = LocalGateway::start(listener, Options::default()).await.unwrap();
    let endpoint = Endpoint::new("a", "/a")
        .public()
        .on_connect(async |State(log): State<Log>| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            log.note("connect");
        })
        .on_message(async |text: String, State(log): State<Log>| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            log.note(text);
        });
    let store = Faulty::new(Arc::new(MemoryStore::new()), faults.clone());
    let app = App::new().endpoint(endpoint).state(log.clone()).store(store);
    let app = app.gateway(gateway.client(settings()).unwrap());
    let function = gateway.function(app.build().unwrap());
    (gateway, function)
}

fn event(kind: &str) -> String {
    let context = json!({ "eventType": kind, "connectionId": "c" });
    json!({ "queryStringParameters": { "path": "/a" }, "requestContext": context, "body": "hello" }).to_string()
}

fn status(handled: &Handled) -> u64 {
    let answer: Value = serde_json::from_str(handled.answer.get()).unwrap();
    answer["statusCode"].as_u64().unwrap()
}

#[tokio::test]
async fn a_deadline_in_the_past_counts_as_none() {
    let log = Log::default();
    let (_gateway, function) = function(&log, &Faults::new()).await;
    // As cargo-lambda sends the deadline.
    let past = SystemTime::UNIX_EPOCH + Duration::from_millis(600_000);
    for kind in ["CONNECT", "MESSAGE", "DISCONNECT"] {
        let handled = timeout(LONG, function.handle(&event(kind), past)).await.expect("it ends").unwrap();
        assert_eq!(status(&handled), 200, "{kind}");
    }
    assert_eq!(log.all(), ["connect", "hello"]);
}

#[tokio::test]
async fn a_call_of_the_store_does_not_outlive_the_deadline() {
    let faults = Faults::new();
    let (_gateway, function) = function(&Log::default(), &faults).await;
    let soon = || SystemTime::now() + LONG;
    assert_eq!(status(&function.handle(&event("CONNECT"), soon()).await.unwrap()), 200);
    for operation in ["find", "open", "get", "lock"] {
        faults.always(operation, Fault::Hang(Gate::new()));
    }
    for kind in ["CONNECT", "MESSAGE", "DISCONNECT"] {
        let deadline = SystemTime::now() + Duration::from_millis(500);
        let ended = timeout(LONG, function.handle(&event(kind), deadline)).await;
        let ended = ended.unwrap_or_else(|_| panic!("{kind} outlives its deadline by far"));
        match ended {
            Ok(handled) => assert_eq!((kind, status(&handled)), ("CONNECT", 503)),
            Err(failure) => assert!(matches!(failure, Failure::Failed(_)) && kind != "CONNECT", "{kind}: {failure}"),
        }
    }
}
