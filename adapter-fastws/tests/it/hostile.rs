//! Clients that break the rules are told which, and cost nothing.

use std::time::Duration;

use strait_core::Limits;

use crate::kit::{Got, close, echo, frame, header, limits, serve, text};

#[tokio::test]
async fn violations_are_closed_with_their_code() {
    let node = serve(echo("/echo").limits(Limits { message: 1000, ..limits() })).await;
    let mut unmasked = text("hello");
    unmasked[1] &= 0x7f;
    let half_a_code = frame(0x88, [3]);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("reserved bits", frame(0xc1, "x"), 1002),
        ("a reserved opcode", frame(0x83, "x"), 1002),
        ("no mask", unmasked, 1002),
        ("a continuation of nothing", frame(0x80, "x"), 1002),
        ("a start inside of a message", [frame(0x01, "x"), frame(0x81, "y")].concat(), 1002),
        ("a fragmented ping", frame(0x09, "x"), 1002),
        ("a ping of 126 bytes", frame(0x89, [0; 126]), 1002),
        ("a length that is too long for what it says", vec![0x81, 0xfe, 0, 5], 1002),
        ("half a close code", half_a_code, 1002),
        ("a close code that may not be sent", close(1005, ""), 1002),
        ("text that is not UTF-8", frame(0x81, b"\xff\xfe"), 1007),
        ("a reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("text cut in a character", [frame(0x01, b"\xc3"), frame(0x80, b"x")].concat(), 1007),
        ("a frame over the limit", header(0x82, 1001), 1009),
        ("a length of 8 EiB", header(0x82, usize::MAX >> 1), 1009),
        ("fragments over the limit", [frame(0x02, [0; 600]), frame(0x00, [0; 401])].concat(), 1009),
    ];
    for (case, bytes, code) in cases {
        let mut client = node.client("/echo").await;
        client.send([text("before"), bytes].concat()).await;
        client.expect("before").await;
        match client.next().await {
            Got::Close(found, _) => assert_eq!(found, code, "{case}"),
            other => panic!("{case}: {other:?}"),
        }
        client.try_send(text("after")).await;
        client.try_send(close(code, "")).await;
        assert_eq!(client.next().await, Got::End, "{case}");
    }
    let mut client = node.client("/echo").await;
    client.text(&"x".repeat(1000)).await;
    client.expect(&"x".repeat(1000)).await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn endless_fragments_come_to_an_end() {
    let node = serve(echo("/echo").limits(Limits { message: 10_000, ..limits() })).await;
    for payload in [100, 1] {
        let mut client = node.client("/echo").await;
        client.send(frame(0x02, vec![0; payload])).await;
        let fragment = frame(0x00, vec![0; payload]).repeat(100);
        while client.try_send(&fragment).await {}
        // The close frame may be lost with the reset that such a client earns; the socket ends in any case.
        loop {
            match client.next().await {
                Got::Close(code, _) => assert_eq!(code, 1009),
                other => break assert_eq!(other, Got::End),
            }
        }
        node.is_left_by_all().await;
    }
    node.end().await;
}

#[tokio::test]
async fn noise_ends_the_connection_and_nothing_else() {
    let node = serve(echo("/echo")).await;
    let mut good = node.client("/echo").await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..100 {
        let noise: Vec<u8> = (0..200)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let mut client = node.client("/echo").await;
        client.try_send(noise).await;
        drop(client);
    }
    good.text("still here").await;
    good.expect("still here").await;
    good.leave().await;
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn empty_fragments_are_no_way_around_the_limits() {
    let node = serve(echo("/echo").limits(Limits {
        ping: Duration::from_millis(75),
        silent: Duration::from_millis(150),
        ..limits()
    }))
    .await;
    let mut client = node.client("/echo").await;
    client.send(frame(0x01, "")).await;
    let empty = frame(0x00, "").repeat(10);
    let start = tokio::time::Instant::now();
    while client.try_send(&empty).await {
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "a message may not go on for ever");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn who_broke_the_protocol_sees_the_end_without_having_to_wait_for_it() {
    let limits = Limits { closing: Duration::from_secs(600), ..limits() };
    let node = serve(echo("/echo").limits(Limits { message: 1000, ..limits })).await;
    for (bytes, code) in [(frame(0xc1, "x"), 1002), (frame(0x81, [0xff]), 1007), (text(&"x".repeat(50_000)), 1009)] {
        let mut client = node.client("/echo").await;
        client.send(bytes).await;
        assert_eq!(client.is_closed().await.0, code);
        assert_eq!(client.next().await, Got::End, "{code}");
    }
    node.is_left_by_all().await;
    node.end().await;
}
