//! Events as API Gateway and EventBridge make them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::HeaderMap;
use serde_json::{Value, json};

use super::connections::Connection;
use super::socket::{random_id, random_uuid};
use super::time::{iso, log, millis};

/// The context that a WebSocket API hands over about a connection.
fn context(connection: &Connection, kind: &str, route: &str) -> Value {
    let now = SystemTime::now();
    json!({
        "routeKey": route,
        "eventType": kind,
        "messageDirection": "IN",
        "connectionId": connection.id,
        "connectedAt": millis(connection.connected_at),
        "requestTime": log(now),
        "requestTimeEpoch": millis(now),
        "requestId": random_id(),
        "extendedRequestId": random_id(),
        "stage": "local",
        "apiId": "local",
        "domainName": "local.execute-api.us-east-1.amazonaws.com",
        "identity": { "sourceIp": connection.source_ip, "userAgent": connection.user_agent },
    })
}

pub(super) fn connect(connection: &Connection, headers: &HeaderMap, query: Option<&str>) -> String {
    let mut many = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        many.entry(name.as_str().to_owned()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let mut event = json!({
        "headers": last(&many),
        "multiValueHeaders": many,
        "requestContext": context(connection, "CONNECT", "$connect"),
        "isBase64Encoded": false,
    });
    let fields: Vec<(String, String)> =
        query.and_then(|query| serde_urlencoded::from_str(query).ok()).unwrap_or_default();
    if !fields.is_empty() {
        let mut many = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in fields {
            many.entry(name).or_default().push(value);
        }
        event["queryStringParameters"] = json!(last(&many));
        event["multiValueQueryStringParameters"] = json!(many);
    }
    event.to_string()
}

/// Where an event has one value for a header with many, it is the last.
fn last(many: &BTreeMap<String, Vec<String>>) -> BTreeMap<&str, &str> {
    many.iter().filter_map(|(name, values)| Some((name.as_str(), values.last()?.as_str()))).collect()
}

pub(super) fn message(connection: &Connection, text: &str) -> String {
    let mut context = context(connection, "MESSAGE", "$default");
    context["messageId"] = json!(random_id());
    json!({ "requestContext": context, "body": text, "isBase64Encoded": false }).to_string()
}

pub(super) fn disconnect(connection: &Connection, code: u16, reason: &str) -> String {
    let mut context = context(connection, "DISCONNECT", "$disconnect");
    context["disconnectStatusCode"] = json!(code);
    context["disconnectReason"] = json!(reason);
    json!({
        "headers": { "Host": "local.execute-api.us-east-1.amazonaws.com", "x-api-key": "", "x-restapi": "" },
        "multiValueHeaders": { "Host": ["local.execute-api.us-east-1.amazonaws.com"] },
        "requestContext": context,
        "isBase64Encoded": false,
    })
    .to_string()
}

/// An event of an EventBridge rule.
pub(super) fn schedule() -> String {
    json!({
        "version": "0",
        "id": random_uuid(),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": iso(SystemTime::now()),
        "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/local"],
        "detail": {},
    })
    .to_string()
}
