//! The events that a function is invoked with.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-route-keys-connect-disconnect.html>

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use strait_core::Work;

use crate::texts::{Members, Texts};

/// The kind of an invocation.
#[derive(Debug)]
pub(crate) enum Event {
    Gateway(Box<GatewayEvent>),
    Own(Own),
}

/// Events that this crate makes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Own {
    /// Work that an earlier invocation had no time for.
    #[serde(rename = "strait_go_on")]
    GoOn(Work),
    /// The janitor.
    #[serde(rename = "strait_sweep")]
    Sweep {},
}

/// The part of a WebSocket API's event that the adapter reads. Null members count as absent. Headers and query fields
/// that are not text are passed over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayEvent {
    #[serde(default)]
    headers: Members<String>,
    #[serde(default)]
    multi_value_headers: Members<Texts>,
    #[serde(default)]
    query_string_parameters: Members<String>,
    #[serde(default)]
    multi_value_query_string_parameters: Members<Texts>,
    pub(crate) request_context: RequestContext,
    #[serde(default)]
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) is_base64_encoded: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestContext {
    pub(crate) event_type: EventType,
    pub(crate) connection_id: String,
    #[serde(default)]
    pub(crate) api_id: Option<String>,
    #[serde(default)]
    pub(crate) stage: Option<String>,
    #[serde(default)]
    pub(crate) identity: Option<Identity>,
    #[serde(default)]
    pub(crate) disconnect_status_code: Option<i64>,
    #[serde(default)]
    pub(crate) disconnect_reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum EventType {
    Connect,
    Message,
    Disconnect,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    #[serde(default)]
    pub(crate) source_ip: Option<String>,
}

/// The members that tell the kinds apart.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "requestContext")]
    request_context: Option<&'a serde_json::value::RawValue>,
    /// Present in EventBridge's events.
    source: Option<String>,
    /// Present in an authorizer's events, which are about a connection as well.
    #[serde(rename = "methodArn", alias = "routeArn")]
    asked_for: Option<IgnoredAny>,
}

/// The reason why a function does not handle an event.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The event asks an authorizer.
    Authorizer,
    /// The error of serde.
    Malformed(serde_json::Error),
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error)
    }
}

/// The reason why an event gives no address to post to its connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoEndpoint {
    /// The event names no API, or no stage.
    Missing,
    /// A name has characters that names of APIs and stages do not have.
    Forged,
}

impl Event {
    /// Reads an event; a scheduled one of EventBridge calls the janitor.
    pub(crate) fn read(json: &str) -> Result<Self, Unreadable> {
        let kind: Kind<'_> = serde_json::from_str(json)?;
        if kind.asked_for.is_some() {
            return Err(Unreadable::Authorizer);
        }
        if kind.request_context.is_some() {
            return Ok(Self::Gateway(serde_json::from_str(json)?));
        }
        if matches!(kind.source.as_deref(), Some("aws.events" | "aws.scheduler")) {
            return Ok(Self::Own(Own::Sweep {}));
        }
        Ok(Self::Own(serde_json::from_str(json)?))
    }
}

impl GatewayEvent {
    /// The handshake's headers. A pair that cannot be a header is left out.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all_values(&self.multi_value_headers, &self.headers) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.append(name, value);
            }
        }
        headers
    }

    /// The query, encoded; API Gateway has decoded it.
    pub(crate) fn query(&self) -> Option<String> {
        let many = &self.multi_value_query_string_parameters;
        let mut fields: Vec<(&str, &str)> = all_values(many, &self.query_string_parameters).collect();
        // Maps have no order; the values of a name do.
        fields.sort_by_key(|(name, _)| *name);
        let query = serde_urlencoded::to_string(&fields).unwrap_or_default();
        // A form's space is a plus; the reader of the path does not decode it.
        (!query.is_empty()).then(|| query.replace('+', "%20"))
    }

    /// The address to post to connections of the API.
    pub(crate) fn endpoint(&self, region: &str) -> Result<String, NoEndpoint> {
        let RequestContext { api_id, stage, .. } = &self.request_context;
        let (Some(api), Some(stage)) = (api_id.as_deref(), stage.as_deref()) else { return Err(NoEndpoint::Missing) };
        // Both become part of the URL that signed requests go to: an event must not choose another host.
        let is_api = is_name(api, b"-");
        let is_stage = stage == "$default" || is_name(stage, b"-_");
        if !is_api || !is_stage {
            return Err(NoEndpoint::Forged);
        }
        Ok(format!("https://{api}.execute-api.{region}.{}/{stage}", domain(region)))
    }
}

/// Whether a text has only ASCII letters, digits and the characters of `others`.
fn is_name(text: &str, others: &[u8]) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

/// All values of a name where the event has them all, else the one value that the event has.
fn all_values<'a>(many: &'a Members<Texts>, single: &'a Members<String>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let known = move |name: &str| many.0.get(name).is_some_and(|values| !values.0.is_empty());
    let all = many.0.iter().flat_map(|(name, values)| values.0.iter().map(move |value| (&**name, &**value)));
    let rest = single.0.iter().filter(move |(name, _)| !known(name));
    all.chain(rest.map(|(name, value)| (&**name, &**value)))
}

/// The domain of AWS' services in a region.
pub(crate) fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// The answer of a proxy integration.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub(crate) status_code: u16,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub(crate) headers: HashMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<String>,
}

impl Answer {
    pub(crate) fn status(status_code: u16) -> Self {
        Self { status_code, headers: HashMap::new(), body: None }
    }
}

#[cfg(test)]
mod tests {
    use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest;

    use super::*;

    const SAMPLES: [&str; 8] = [
        include_str!("../tests/samples/connect.json"),
        include_str!("../tests/samples/message.json"),
        include_str!("../tests/samples/disconnect.json"),
        include_str!("../tests/samples/connect-authorizer.json"),
        include_str!("../tests/samples/disconnect-idle.json"),
        include_str!("../tests/samples/disconnect-nulls.json"),
        include_str!("../tests/samples/message-base64.json"),
        include_str!("../tests/samples/message-nulls.json"),
    ];

    fn read(json: &str) -> GatewayEvent {
        match Event::read(json) {
            Ok(Event::Gateway(event)) => *event,
            other => panic!("{other:?} of {json}"),
        }
    }

    #[test]
    fn samples_are_read_as_the_published_crate_reads_them() {
        for json in SAMPLES {
            let (ours, theirs) =
                (read(json), serde_json::from_str::<ApiGatewayWebsocketProxyRequest>(json).expect(json));
            let context = theirs.request_context;
            assert_eq!(Some(&ours.request_context.connection_id), context.connection_id.as_ref());
            let kind = format!("{:?}", ours.request_context.event_type).to_uppercase();
            assert_eq!(Some(kind), context.event_type);
            assert_eq!(ours.request_context.api_id, context.apiid);
            assert_eq!(ours.request_context.stage, context.stage);
            assert_eq!(
                ours.request_context.identity.as_ref().and_then(|i| i.source_ip.clone()),
                context.identity.source_ip
            );
            assert_eq!(ours.request_context.disconnect_status_code, context.disconnect_status_code);
            assert_eq!(ours.request_context.disconnect_reason, context.disconnect_reason);
            let encoded = ours.is_base64_encoded.unwrap_or_default();
            assert_eq!((ours.body.clone(), encoded), (theirs.body, theirs.is_base64_encoded));
            assert_eq!(ours.headers(), theirs.multi_value_headers);
        }
    }

    #[test]
    fn a_query_comes_back_encoded_with_all_values_in_order() {
        let event = read(SAMPLES[0]);
        assert_eq!(event.query().as_deref(), Some("path=%2Frooms%2Ftea%20%26%20cake&x=1&x=2"));
        let single = SAMPLES[0].replace("multiValueQuery", "otherQuery");
        assert_eq!(read(&single).query().as_deref(), Some("path=%2Frooms%2Ftea%20%26%20cake&x=2"));
        assert_eq!(read(SAMPLES[1]).query(), None);
    }

    #[test]
    fn a_header_given_twice_keeps_both_values() {
        let headers = read(SAMPLES[3]).headers();
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        let single = SAMPLES[3].replace("multiValueHeaders", "otherHeaders");
        assert_eq!(read(&single).headers().get_all("cookie").iter().collect::<Vec<_>>(), ["b=2"]);
    }

    #[test]
    fn a_name_whose_values_are_missing_has_the_single_one() {
        let event = |many: &str| {
            read(&format!(
                r#"{{"requestContext":{{"eventType":"CONNECT","connectionId":"a"}},
                "headers":{{"Host":"a.test","Cookie":"b=2"}},"multiValueHeaders":{many},
                "queryStringParameters":{{"Host":"a.test","Cookie":"b=2"}},"multiValueQueryStringParameters":{many}}}"#
            ))
        };
        for many in ["{}", "null", r#"{"Cookie":[]}"#, r#"{"Cookie":["b=2"]}"#] {
            let event = event(many);
            let headers = event.headers();
            assert_eq!(
                (headers.len(), &headers["host"], &headers["cookie"]),
                (2, &"a.test".parse().unwrap(), &"b=2".parse().unwrap()),
                "{many}"
            );
            assert_eq!(event.query().as_deref(), Some("Cookie=b%3D2&Host=a.test"), "{many}");
        }
    }

    #[test]
    fn an_event_needs_its_kind_and_its_connection_alone() {
        for kind in ["CONNECT", "MESSAGE", "DISCONNECT"] {
            let event = read(&format!(r#"{{"requestContext":{{"eventType":"{kind}","connectionId":"a"}}}}"#));
            let missing = Err(NoEndpoint::Missing);
            assert_eq!(
                (event.headers(), event.query(), event.endpoint("eu-west-1")),
                (HeaderMap::new(), None, missing)
            );
        }
        for less in
            [r#""eventType":"MESSAGE""#, r#""connectionId":"a""#, r#""eventType":"MESSAGE","connectionId":null"#]
        {
            let error = Event::read(&format!(r#"{{"requestContext":{{{less}}}}}"#)).expect_err(less);
            let missing = if less.contains("eventType") { "connectionId" } else { "eventType" };
            let Unreadable::Malformed(error) = error else { panic!("{error:?}") };
            assert!(error.to_string().contains(missing) || error.to_string().contains("null"), "{error}");
        }
    }

    #[test]
    fn the_event_says_where_connections_are_posted_to() {
        let event = read(SAMPLES[1]);
        let expected = "https://abcd1234.execute-api.eu-west-1.amazonaws.com/prod";
        assert_eq!(event.endpoint("eu-west-1").as_deref(), Ok(expected));
        let china = "https://abcd1234.execute-api.cn-north-1.amazonaws.com.cn/prod";
        assert_eq!(event.endpoint("cn-north-1").as_deref(), Ok(china));
    }

    #[test]
    fn a_schedule_calls_the_janitor_and_what_is_unknown_is_refused() {
        let schedule = include_str!("../tests/samples/schedule.json");
        for json in [schedule, r#"{"strait_sweep":{}}"#] {
            assert!(matches!(Event::read(json), Ok(Event::Own(Own::Sweep {}))), "{json}");
        }
        for json in ["{}", "[]", "null", r#"{"source":"aws.s3"}"#, r#"{"requestContext":{"eventType":"OTHER"}}"#] {
            assert!(Event::read(json).is_err(), "{json}");
        }
    }
}
