//! Admission: clients that are let in, and the answers to the others.

use std::time::Duration;

use serde::Deserialize;
use strait_adapter_fastws::{Server, ServerLimits};
use strait_core::testkit::{self, Fault, Faults};
use strait_core::{App, Channel, Endpoint, Error, Json, Limits, Opening, Origins, Session};

use crate::kit::{
    Client, Gate, Node, becomes, echo, handshake, limits, serve, serve_on, serve_with, server_limits, text, within,
};

type Headers<'h> = &'h [(&'h str, &'h str)];

async fn status(node: &Node, request: impl AsRef<[u8]>) -> u16 {
    let mut client = node.socket().await;
    client.send(request).await;
    client.answer().await.status
}

#[derive(Debug, Deserialize)]
struct Numbered {
    number: u32,
}

/// Lets in a client that brings the token; `banned` is known, and may not come in.
async fn by_token(headers: strait_core::Headers) -> Result<Session<()>, Error> {
    match headers.0.get("authorization").and_then(|value| value.to_str().ok()) {
        Some("Bearer ada") => Ok(Session::new("ada", ())?),
        Some("Bearer banned") => Err(Error::forbidden("you are banned")),
        _ => Err(Error::unauthenticated("bring a token")),
    }
}

/// An endpoint on which each check can refuse a client.
fn guarded() -> Endpoint {
    Endpoint::new("guarded", "/guarded/{number}").limits(limits()).opening::<Numbered>().authenticate(by_token)
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_and_nothing_is_stored() {
    let node = serve(echo("/echo")).await;
    let many: String = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = "x".repeat(20 * 1024);
    let good = handshake("/echo", &[]);
    let cases = [
        ("no upgrade header", handshake("/echo", &[("upgrade", "")]), 426),
        ("another protocol", handshake("/echo", &[("upgrade", "h2c")]), 426),
        ("a connection that is not upgraded", handshake("/echo", &[("connection", "keep-alive")]), 426),
        ("no version", handshake("/echo", &[("sec-websocket-version", "")]), 426),
        ("an old version", handshake("/echo", &[("sec-websocket-version", "8")]), 426),
        ("no key", handshake("/echo", &[("sec-websocket-key", "")]), 400),
        ("a short key", handshake("/echo", &[("sec-websocket-key", "c2hvcnQ=")]), 400),
        ("a key that is no base64", handshake("/echo", &[("sec-websocket-key", "????????????????????????")]), 400),
        ("POST", good.replacen("GET", "POST", 1).replacen("\r\n\r\n", "\r\ncontent-length: 0\r\n\r\n", 1), 400),
        ("HTTP/1.0", good.replacen("HTTP/1.1", "HTTP/1.0", 1), 400),
        ("an unknown path", handshake("/nothing", &[]), 404),
        ("the path of a page", handshake("/healthz", &[]), 404),
        ("a path that is not UTF-8", handshake("/%ff", &[]), 404),
        ("a page", "GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 404),
        ("a method that nobody knows", "BREW / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 404),
        ("a request line without a version", "GET /echo\r\n\r\n".to_owned(), 400),
        ("a version of the future", good.replacen("HTTP/1.1", "HTTP/9.9", 1), 400),
        ("a control character in the path", handshake("/ec\u{1}ho", &[]), 400),
        ("a header without a name", good.replacen("\r\n\r\n", "\r\n: nameless\r\n\r\n", 1), 400),
        ("a header of 20 KiB", handshake("/echo", &[("x-long", &long)]), 431),
        ("150 headers", good.replacen("\r\n\r\n", &format!("\r\n{many}\r\n"), 1), 431),
        ("a path of 20 KiB", handshake(&format!("/{long}"), &[]), 431),
        ("garbage", "\u{0}\u{1}\u{2}nonsense\r\n\r\n".to_owned(), 400),
    ];
    for (case, request, expected) in cases {
        assert_eq!(status(&node, request).await, expected, "{case}");
    }
    let mut binary = handshake("/echo", &[]).into_bytes();
    let end = binary.len() - 2;
    binary.splice(end..end, *b"x-junk: \xff\xfe\x80\r\n");
    assert_eq!(status(&node, binary).await, 101, "bytes above 0x7f are obsolete in a header, not forbidden");
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn the_good_ones_are_let_in() {
    let app = App::new().endpoint(echo("/echo/{room}"));
    let node = serve_with(app, |server| server.limits(server_limits()).path_in_query()).await;
    let cases: &[(&str, &str, Headers<'_>)] = &[
        ("as browsers ask", "/echo/a", &[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]),
        ("with a query", "/echo/a?x=1", &[]),
        ("the path in the query of /", "/?path=/echo/a", &[]),
        ("the path in the query of /, encoded", "/?x=1&path=%2Fecho%2Fa%20b", &[]),
        ("its own page", "/echo/a", &[("origin", "http://strait.test")]),
        ("its own page behind TLS", "/echo/a", &[("origin", "https://strait.test")]),
        ("compression is offered", "/echo/a", &[("sec-websocket-extensions", "permessage-deflate")]),
    ];
    for (case, path, headers) in cases {
        let mut client = node.socket().await;
        client.send(handshake(path, headers)).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 101, "{case}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{case}");
        assert_eq!(answer.header("sec-websocket-extensions"), None, "{case}");
        client.text("hello").await;
        client.expect("hello").await;
        client.leave().await;
    }
    assert_eq!(status(&node, handshake("/?path=/nothing", &[])).await, 404);
    assert_eq!(status(&node, handshake("/?x=1", &[])).await, 404);
    node.end().await;
}

/// Path and query are kept as long as the channel is.
#[tokio::test]
async fn path_and_query_have_a_limit() {
    let narrow = Limits { opening: 32, ..limits() };
    let endpoints = [echo("/echo/{room}"), Endpoint::new("narrow", "/narrow/{room}").public().limits(narrow)];
    let app = endpoints.into_iter().fold(App::new(), strait_core::AppBuilder::endpoint);
    let node = serve_with(app, |server| server.limits(server_limits()).path_in_query()).await;
    let query = |length: usize| format!("?q={}", "%e9".repeat(length / 3));
    let cases = [
        (format!("/echo/a{}", query(4_000)), 101),
        (format!("/echo/a{}", query(4_200)), 414),
        (format!("/echo/{}", "a".repeat(4_200)), 414),
        (format!("/narrow/a{}", query(20)), 101),
        (format!("/narrow/a{}", query(30)), 414),
        (format!("/?path=/narrow/a&q={}", "x".repeat(30)), 414),
        (format!("/nothing{}", query(4_200)), 404),
    ];
    for (path, expected) in cases {
        let mut client = node.socket().await;
        client.send(handshake(&path, &[("origin", "http://strait.test")])).await;
        assert_eq!(client.answer().await.status, expected, "{path}");
    }
    node.is_left_by_all().await;
    node.end().await;
}

/// A proxy that blocks an endpoint by its path does not recognise this form.
#[tokio::test]
async fn a_path_in_the_query_is_none_unless_it_is_switched_on() {
    let node = serve(echo("/echo")).await;
    assert_eq!(status(&node, handshake("/?path=/echo", &[])).await, 404);
    assert_eq!(status(&node, "GET /?path=/echo HTTP/1.1\r\nhost: a\r\n\r\n").await, 404);
    assert_eq!(status(&node, handshake("/echo?path=/nothing", &[])).await, 101);
    node.is_left_by_all().await;
    node.end().await;
}

/// A proxy may have checked the host in the target, not the header's.
#[tokio::test]
async fn a_target_in_absolute_form_names_the_host_of_the_header() {
    let node = serve(echo("/echo")).await;
    let page = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let cases = [
        (handshake("http://strait.test/echo", &[]), 101),
        (handshake("ws://STRAIT.test:80/echo", &[]), 101),
        (handshake("http://other.test/echo", &[]), 400),
        (handshake("http://strait.test:8080/echo", &[]), 400),
        (page("http://a/healthz", "a"), 200),
        (page("http://b/healthz", "a"), 400),
        (page("http://b/nothing", "a"), 400),
    ];
    for (request, expected) in cases {
        assert_eq!(status(&node, &request).await, expected, "{request}");
    }
    node.is_left_by_all().await;
    node.end().await;
}

/// A page at evil.test, with a name made to resolve to this server, is of the same host as far as `Origin` tells.
#[tokio::test]
async fn hosts_that_are_not_listed_are_not_answered_for() {
    let app = App::new().endpoint(echo("/echo"));
    let listed = |server: Server| server.limits(server_limits()).hosts(["strait.test", "other.test:81"]);
    let node = serve_with(app, listed).await;
    let page = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let cases = [
        (handshake("/echo", &[]), 101),
        (handshake("/echo", &[("host", "strait.test:8080")]), 101),
        (handshake("/echo", &[("host", "other.test:81")]), 101),
        (handshake("/echo", &[("host", "other.test")]), 421),
        (handshake("/echo", &[("host", "evil.test"), ("origin", "http://evil.test")]), 421),
        (page("/nothing", "strait.test"), 404),
        (page("/nothing", "evil.test"), 421),
        (page("/healthz", "10.0.0.1:8080"), 200),
        (page("/readyz", "10.0.0.1:8080"), 200),
    ];
    for (request, expected) in cases {
        assert_eq!(status(&node, &request).await, expected, "{request}");
    }
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn an_unknown_subprotocol_is_not_chosen() {
    let node = serve(echo("/echo")).await;
    let mut client = node.socket().await;
    client.send(handshake("/echo", &[("sec-websocket-protocol", "soap, graphql-ws")])).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn pages_of_others_may_not_connect() {
    let listed = Origins::Listed(vec!["https://friend.test".to_owned()]);
    let node = serve(echo("/echo").origins(listed)).await;
    let cases = [
        ("", 101),
        ("http://strait.test", 101),
        ("https://friend.test", 101),
        ("http://friend.test", 403),
        ("http://strait.test:8080", 403),
        ("http://strait.test.evil.test", 403),
        ("null", 403),
        ("nonsense", 403),
    ];
    for (origin, expected) in cases {
        assert_eq!(status(&node, handshake("/echo", &[("origin", origin)])).await, expected, "{origin:?}");
    }
    let twice = handshake("/echo", &[("origin", "http://strait.test\r\norigin: http://evil.test")]);
    assert_eq!(status(&node, twice).await, 403, "two origins");
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn authentication_and_opening_data_refuse_with_their_status() {
    let node = serve(guarded()).await;
    let cases = [
        ("/guarded/1", "Bearer ada", 101),
        ("/guarded/1", "", 401),
        ("/guarded/1", "Bearer banned", 403),
        ("/guarded/one", "Bearer ada", 422),
    ];
    for (path, token, expected) in cases {
        let mut client = node.socket().await;
        client.send(handshake(path, &[("authorization", token)])).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, expected, "{path} {token}");
        assert_eq!(answer.header("www-authenticate"), (expected == 401).then_some("bearer"));
        if expected == 101 {
            client.leave().await;
        }
        node.is_left_by_all().await;
    }
    node.end().await;
}

#[tokio::test]
async fn checks_come_in_the_documented_order() {
    let app = App::new().endpoint(guarded()).endpoint(echo("/echo"));
    let node = serve_with(app, |server| server.limits(ServerLimits { connections: 1, ..server_limits() })).await;
    let only = node.client("/echo").await;
    // Each request also fails all later checks; the answer names the first failure.
    let (version, origin) = (("sec-websocket-version", "7"), ("origin", "http://evil.test"));
    let cases: [(&str, Headers<'_>, u16); 4] = [
        ("/nothing", &[version, origin], 426),
        ("/nothing", &[origin], 404),
        ("/guarded/one", &[origin], 403),
        ("/guarded/one", &[], 503),
    ];
    for (path, headers, expected) in cases {
        assert_eq!(status(&node, handshake(path, headers)).await, expected, "{path}");
    }
    only.leave().await;
    becomes(|| node.stored(), 0).await;
    // There is room again: authentication comes before the opening data's check.
    assert_eq!(status(&node, handshake("/guarded/one", &[])).await, 401);
    assert_eq!(status(&node, handshake("/guarded/one", &[("authorization", "Bearer ada")])).await, 422);
    node.end().await;
}

#[tokio::test]
async fn above_the_limit_clients_are_told_to_come_back() {
    let limited = |server: Server| server.limits(ServerLimits { connections: 2, ..server_limits() });
    let node = serve_with(App::new().endpoint(echo("/echo")), limited).await;
    let (first, second) = (node.client("/echo").await, node.client("/echo").await);
    let mut third = node.socket().await;
    third.send(handshake("/echo", &[])).await;
    let answer = third.answer().await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok_and(|after| after > 0)));
    first.leave().await;
    becomes(|| node.stored(), 1).await;
    // The same socket may ask again.
    within(async {
        loop {
            third.send(handshake("/echo", &[])).await;
            if third.answer().await.status == 101 {
                break;
            }
        }
    })
    .await;
    second.leave().await;
    third.leave().await;
    node.end().await;
}

#[tokio::test]
async fn the_limit_holds_while_many_authenticate_at_once() {
    let gate = Gate::shut();
    let waiting = gate.clone();
    let slow = echo("/echo").authenticate(move || {
        let gate = waiting.clone();
        async move { gate.pass().await }
    });
    let limited = |server: Server| server.limits(ServerLimits { connections: 2, ..server_limits() });
    let node = serve_with(App::new().endpoint(slow), limited).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = node.socket().await;
        client.send(handshake("/echo", &[])).await;
        clients.push(client);
    }
    let mut refused = Vec::new();
    for at in (2..6).rev() {
        let mut client = clients.remove(at);
        refused.push(client.answer().await.status);
    }
    assert_eq!(refused, [503; 4], "who authenticates takes a place");
    gate.let_in(2);
    for mut client in clients {
        client.is_let_in().await;
        client.leave().await;
    }
    node.end().await;
}

#[tokio::test]
async fn nothing_is_written_before_the_answer() {
    let connected = |channel: Channel| async move { channel.send_json("welcome").await };
    let node = serve(echo("/echo").on_connect(connected)).await;
    let mut client = node.socket().await;
    // Messages that `on_connect` sends come behind the 101, which begins the stream.
    client.open("/echo").await;
    client.expect("\"welcome\"").await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn what_comes_with_the_request_is_handled() {
    let node = serve(echo("/echo")).await;
    let mut client = node.socket().await;
    let mut bytes = handshake("/echo", &[]).into_bytes();
    bytes.extend(text("early"));
    let (half, rest) = (text("cut in two"), bytes.len() + 5);
    bytes.extend(half);
    client.send(&bytes[..rest]).await;
    client.is_let_in().await;
    client.expect("early").await;
    client.send(&bytes[rest..]).await;
    client.expect("cut in two").await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_reset_at_any_point_of_the_request_leaves_nothing() {
    let node = serve(echo("/echo")).await;
    let request = handshake("/echo", &[]).into_bytes();
    for end in 0..=request.len() {
        let mut client = node.socket().await;
        client.send(&request[..end]).await;
        client.reset();
    }
    node.is_left_by_all().await;
    let mut client = node.client("/echo").await;
    client.text("still here").await;
    client.expect("still here").await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_client_that_goes_while_it_is_authenticated_leaves_nothing() {
    let gate = Gate::shut();
    let waiting = gate.clone();
    let slow = echo("/echo").authenticate(move || {
        let gate = waiting.clone();
        async move { gate.pass().await }
    });
    let node = serve(slow).await;
    for round in 0..20 {
        let mut client = node.socket().await;
        client.send(handshake("/echo", &[])).await;
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        client.reset();
    }
    gate.let_in(100);
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_client_that_goes_before_its_answer_leaves_nothing() {
    let node = serve(echo("/echo")).await;
    for round in 0..50 {
        let mut client = node.socket().await;
        client.send(handshake("/echo", &[])).await;
        for _ in 0..round % 8 {
            tokio::task::yield_now().await;
        }
        client.reset();
    }
    node.is_left_by_all().await;
    node.end().await;
}

/// A store may finish a call that it has begun although the client has gone: the server does not give the call up.
#[tokio::test]
async fn a_client_that_goes_while_its_channel_is_stored_leaves_nothing() {
    for fault in [Fault::Hang, Fault::HoldAnswer] {
        let (faults, gate) = (Faults::new(), testkit::Gate::new());
        let node = serve_on(App::new().endpoint(echo("/echo")), &faults, |server| server.limits(server_limits())).await;
        faults.next("open", 1, &fault(gate.clone()));
        let mut client = node.socket().await;
        client.send(handshake("/echo", &[])).await;
        becomes(|| gate.waiting(), 1).await;
        client.reset();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!((gate.waiting(), faults.calls("claim")), (1, 0), "it is not given up half-way");
        gate.open();
        becomes(|| faults.calls("remove"), 1).await;
        node.is_left_by_all().await;
        node.end().await;
    }
}

#[tokio::test]
async fn a_panic_in_the_store_is_an_error_and_nothing_more() {
    let faults = Faults::new();
    let node = serve_on(App::new().endpoint(echo("/echo")), &faults, |server| server.limits(server_limits())).await;
    faults.next("open", 1, &Fault::Panic);
    assert_eq!(status(&node, handshake("/echo", &[])).await, 500);
    node.client("/echo").await.leave().await;
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_panic_in_authentication_is_an_error_and_nothing_more() {
    let broken = Endpoint::new("broken", "/broken").authenticate(|| async { panic!("on purpose") as () });
    let node = serve_with(App::new().endpoint(broken).endpoint(echo("/echo")), |server| server).await;
    assert_eq!(status(&node, handshake("/broken", &[])).await, 500);
    let client: Client<_> = node.client("/echo").await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn opening_data_reaches_handlers() {
    let endpoint = Endpoint::new("numbers", "/numbers/{number}")
        .public()
        .limits(limits())
        .opening::<Numbered>()
        .on("which", |opening: Opening<Numbered>| async move { Json(opening.number) });
    let node = serve(endpoint).await;
    let mut client = node.client("/numbers/42").await;
    client.text(r#"{"action":"which"}"#).await;
    client.expect(r#"{"action":"which","result":42}"#).await;
    client.leave().await;
    node.end().await;
}
