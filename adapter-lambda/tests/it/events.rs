//! Events as emulators, other services and forgers make them.

use std::time::SystemTime;

use serde_json::{Value, json};
use strait_adapter_lambda::local::{LocalGateway, Options};
use strait_adapter_lambda::{Function, Handled};
use strait_core::{App, Endpoint, Error, Headers, State};
use strait_store_memory::MemoryStore;
use tokio::net::TcpListener;

use crate::kit::{Log, PATIENCE, settings};

/// A function at API Gateway's own addresses, and the gateway that its client posts to.
async fn function(log: &Log) -> (LocalGateway, Function) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = LocalGateway::start(listener, Options::default()).await.unwrap();
    let endpoint = Endpoint::new("a", "/a").authenticate(async |Headers(headers): Headers, State(log): State<Log>| {
        let mut names: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        names.sort();
        log.note(names.join(","));
        Ok::<(), Error>(())
    });
    let app = App::new().endpoint(endpoint).state(log.clone()).store(MemoryStore::new());
    let app = app.gateway(gateway.client(settings()).unwrap());
    (gateway, Function::new(app.build().unwrap(), "eu-west-1", None))
}

async fn invoke(function: &Function, event: &Value) -> Result<Value, String> {
    let deadline = SystemTime::now() + PATIENCE;
    let handled: Result<Handled, _> = function.handle(&event.to_string(), deadline).await;
    let handled = handled.map_err(|failure| failure.to_string())?;
    Ok(serde_json::from_str(handled.answer.get()).unwrap())
}

#[tokio::test]
async fn an_event_that_cannot_be_read_says_why() {
    let (_gateway, function) = function(&Log::default()).await;
    for (event, why) in [
        (json!({ "requestContext": { "eventType": "MESSAGE" } }), "missing field `connectionId`"),
        (json!({ "requestContext": { "eventType": "OTHER", "connectionId": "a" } }), "unknown variant `OTHER`"),
        (
            json!({ "requestContext": { "connectionId": "a", "http": { "method": "GET" } } }),
            "missing field `eventType`",
        ),
        (json!({ "detail": 1 }), "detail"),
    ] {
        let failure = invoke(&function, &event).await.unwrap_err();
        assert!(failure.contains(why), "{failure} does not say {why}");
    }
}

#[tokio::test]
async fn members_that_are_no_texts_are_passed_over() {
    let log = Log::default();
    let (_gateway, function) = function(&log).await;
    let connect = |id: &str, members: Value| {
        let mut event = members;
        event["requestContext"] =
            json!({ "eventType": "CONNECT", "connectionId": id, "apiId": "abc", "stage": "prod", "identity": null });
        event
    };
    let single = json!({
        "headers": { "X-Text": "b", "X-Null": null, "X-Number": 5, "X-List": ["a"], "X-Object": {} },
        "queryStringParameters": { "path": "/a", "null": null, "number": 5, "list": ["a"] },
    });
    assert_eq!(invoke(&function, &connect("one", single)).await.unwrap()["statusCode"], 200);
    let many = json!({
        "multiValueHeaders": { "X-Text": ["b", null, 5], "X-Null": null, "X-Number": 5, "X-Lone": "a" },
        "multiValueQueryStringParameters": { "path": ["/a"], "null": [null], "number": 5 },
    });
    assert_eq!(invoke(&function, &connect("two", many)).await.unwrap()["statusCode"], 200);
    // An emulator may write empty maps as lists.
    let lists = json!({ "headers": [], "multiValueHeaders": [], "queryStringParameters": { "path": "/a" } });
    assert_eq!(invoke(&function, &connect("three", lists)).await.unwrap()["statusCode"], 200);
    assert_eq!(log.all(), ["x-text=\"b\"", "x-text=\"b\"", ""]);
}

#[tokio::test]
async fn an_authorizers_event_opens_no_channel_and_is_told_as_such() {
    let log = Log::default();
    let (_gateway, function) = function(&log).await;
    let event = json!({
        "type": "REQUEST",
        "methodArn": "arn:aws:execute-api:eu-west-1:123456789012:abc/prod/$connect",
        "headers": {},
        "queryStringParameters": { "path": "/a" },
        "requestContext": { "eventType": "CONNECT", "connectionId": "a", "apiId": "abc", "stage": "prod" },
    });
    let failure = invoke(&function, &event).await.unwrap_err();
    assert!(failure.contains("authorizer"), "{failure}");
    assert!(log.all().is_empty());
}

#[tokio::test]
async fn an_event_cannot_choose_the_host_that_is_posted_to() {
    let log = Log::default();
    let (_gateway, function) = function(&log).await;
    let connect = |number: usize, api: &str, stage: &str| {
        json!({
            "queryStringParameters": { "path": "/a" },
            "requestContext":
                { "eventType": "CONNECT", "connectionId": format!("c{number}"), "apiId": api, "stage": stage },
        })
    };
    for (number, (api, stage)) in [
        ("evil.test/", "prod"),
        ("evil.test#", "prod"),
        ("user@evil", "prod"),
        ("evil.test", "prod"),
        ("", "prod"),
        ("abc", "prod/@connections"),
        ("abc", "../x"),
        ("abc", "a?b"),
        ("abc", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let failure = invoke(&function, &connect(number, api, stage)).await.unwrap_err();
        assert!(failure.contains("apiId") && failure.contains("stage"), "{failure}");
    }
    assert!(log.all().is_empty());
    for (number, (api, stage)) in
        [("abcd1234", "prod"), ("my-api", "v1_test-2"), ("abc", "$default")].into_iter().enumerate()
    {
        let answer = invoke(&function, &connect(100 + number, api, stage)).await.unwrap();
        assert_eq!(answer["statusCode"], 200, "{api} {stage}");
    }
}
