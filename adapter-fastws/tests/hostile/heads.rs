//! Requests that are wrong, absurd, or have another meaning for a proxy before the server.

use crate::kit::{Got, TcpClient, handshake, text};
use crate::siege::{Siege, socket};
use crate::victim::Victim;

/// Adds headers to a good request, behind its last header.
fn with(headers: &str) -> Vec<u8> {
    handshake("/echo", &[]).replacen("\r\n\r\n", &format!("\r\n{headers}\r\n\r\n"), 1).into_bytes()
}

/// Sends a request, and answers the status; 0 if the socket ends without an answer.
async fn status(victim: &Victim, request: &[u8]) -> (u16, TcpClient) {
    let mut client = victim.socket().await;
    client.try_send(request).await;
    let status = client.try_answer().await.map_or(0, |answer| answer.status);
    (status, client)
}

#[tokio::test]
async fn absurd_headers_are_refused() {
    let victim = Victim::start().await;
    let good = handshake("/echo", &[]);
    let long = "x".repeat(17 * 1024);
    let many: String = (0..120).map(|number| format!("x-{number}: 1\r\n")).collect();
    let same = "x-same: 1\r\n".repeat(200);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("two hosts", with("host: evil.test"), 400),
        ("no host", handshake("/echo", &[("host", "")]).into_bytes(), 400),
        ("two keys", with("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        ("two versions", with("sec-websocket-version: 13"), 426),
        ("two origins", with("origin: http://strait.test\r\norigin: http://evil.test"), 403),
        ("the origin of another page", with("origin: http://evil.test"), 403),
        (
            "the host of another site",
            handshake("/echo", &[("host", "evil.test"), ("origin", "http://strait.test")]).into(),
            403,
        ),
        ("an origin that only begins like the host", with("origin: http://strait.test.evil.test"), 403),
        ("the host as the origin's user", with("origin: http://strait.test@evil.test"), 403),
        ("an origin that is no origin", with("origin: null"), 403),
        ("a zero byte in a header", with("x-zero: a\0b"), 400),
        ("a zero byte in a name", with("x-ze\0ro: a"), 400),
        ("a lone carriage return in a header", with("x-cr: a\rb"), 400),
        ("a header that goes on in the next line", with("x-long: a\r\n b"), 400),
        ("a space before the colon", with("x-space : a"), 400),
        ("a header without a colon", with("nothing"), 400),
        ("no name", with(": nameless"), 400),
        ("120 headers", with(many.trim_end()), 431),
        ("one header 200 times", with(same.trim_end()), 431),
        ("a header of 17 KiB", with(&format!("x-long: {long}")), 431),
        ("a name of 17 KiB", with(&format!("{long}: x")), 431),
        ("a path of 17 KiB", handshake(&format!("/{long}"), &[]).into(), 431),
        ("a path that climbs", handshake("/x/../echo", &[]).into(), 404),
        ("a path with two slashes", handshake("//echo", &[]).into(), 404),
        ("a path with a zero byte", handshake("/echo%00", &[]).into(), 404),
        ("a body of known length", with("content-length: 5"), 400),
        ("a body in chunks", with("transfer-encoding: chunked"), 400),
        ("a body with two lengths", with("content-length: 5\r\ncontent-length: 6"), 400),
        ("a body whose length is no number", with("content-length: +5"), 400),
        ("a body of a negative length", with("content-length: -1"), 400),
        ("a body of both kinds", with("content-length: 5\r\ntransfer-encoding: chunked"), 400),
        ("a body of no known kind", with("transfer-encoding: chunked, identity"), 400),
        // hyper knows this preface, and sends no answer.
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 0),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20), 400),
        ("CONNECT", good.replacen("GET /echo", "CONNECT echo:80", 1).into(), 400),
    ];
    for (case, request, expected) in cases {
        let (found, _) = status(&victim, &request).await;
        assert_eq!(found, expected, "{case}");
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn odd_headers_that_mean_no_harm_are_let_in() {
    let victim = Victim::start().await;
    let tokens = "token, ".repeat(500);
    let cases = [
        ("lines that end in a line feed only", handshake("/echo", &[]).replace("\r\n", "\n").into_bytes()),
        ("empty lines before the request", [b"\r\n\r\n".to_vec(), handshake("/echo", &[]).into()].concat()),
        ("bytes above 0x7f", [&with("")[..with("").len() - 4], b"x-high: \xff\xfe\r\n\r\n"].concat()),
        ("a length of zero", with("content-length: 0")),
        ("500 subprotocols", with(&format!("sec-websocket-protocol: {tokens}last"))),
        ("upgrade twice", with("upgrade: websocket")),
        ("many connection tokens", with("connection: a, b, c, keep-alive")),
    ];
    for (case, request) in cases {
        let (found, mut client) = status(&victim, &request).await;
        assert_eq!(found, 101, "{case}");
        client.text(case).await;
        client.expect(case).await;
        client.leave().await;
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn what_is_pipelined_behind_a_handshake_is_frames_and_nothing_else() {
    let victim = Victim::start().await;
    let good = handshake("/echo", &[]).into_bytes();
    for behind in
        [good.clone(), b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), b"\r\n\r\n".to_vec(), vec![0xff; 3000]]
    {
        let (found, mut client) = status(&victim, &[&good[..], &behind].concat()).await;
        assert_eq!(found, 101);
        assert_eq!(client.is_closed().await.0, 1002, "{behind:?}");
        assert_eq!(client.next().await, Got::End);
    }
    let (found, mut client) = status(&victim, &[&good[..], &text("early")].concat()).await;
    assert_eq!(found, 101);
    client.expect("early").await;
    client.leave().await;
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn a_request_is_not_smuggled_in_the_body_of_another() {
    let victim = Victim::start().await;
    let inner = handshake("/echo", &[]);
    let length = inner.len();
    let chunk = format!("{length:x}\r\n{inner}\r\n0\r\n\r\n");
    let cases = [
        ("a length", format!("POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{inner}")),
        ("chunks", format!("POST /nothing HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")),
        (
            "both, the length first",
            format!(
                "POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "both, the chunks first",
            format!(
                "POST /nothing HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "chunks that are misspelt",
            format!("POST /nothing HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n{inner}"),
        ),
        (
            "chunks under another name",
            format!("POST /nothing HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n{inner}"),
        ),
        (
            "a chunk of too many digits",
            format!(
                "POST /nothing HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{inner}"
            ),
        ),
    ];
    for (case, request) in cases {
        let mut client = victim.socket().await;
        client.try_send(&request).await;
        let mut found = Vec::new();
        while let Some(answer) = client.try_answer().await {
            found.push(answer.status);
        }
        assert!(found.len() <= 1 && !found.contains(&101), "{case}: {found:?}");
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn pages_may_be_pipelined() {
    let victim = Victim::start().await;
    let mut client = victim.socket().await;
    client.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100)).await;
    for _ in 0..100 {
        assert_eq!(client.answer().await.status, 200);
    }
    drop(client);
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn heads_of_16_kib_that_never_end() {
    let head = format!("GET /echo HTTP/1.1\r\nhost: strait.test\r\nx-long: {}", "x".repeat(15 * 1024));
    let attack = move |address, _| {
        let head = head.clone();
        async move {
            if let Some(mut client) = socket(address).await {
                client.try_send(&head).await;
                client.try_next().await;
            }
        }
    };
    Siege { name: "500 send 15 KiB of a request's head and no more", attackers: 500, mib: 32 }.by(attack).await;
}
