//! The socket's own rules: fragments, pings, silence, and the closing handshake from the client's side.

use std::time::Duration;

use strait_core::Limits;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::kit::{Got, close, echo, frame, limits, ping, pong, serve, text, within};

#[tokio::test]
async fn fragments_become_one_message_with_control_frames_between() {
    let node = serve(echo("/echo")).await;
    let mut client = node.client("/echo").await;
    let whole = [
        frame(0x01, "Käse".as_bytes().split_at(2).0),
        ping(b"between"),
        frame(0x00, "Käse".as_bytes().split_at(2).1),
        pong(),
        frame(0x00, ""),
        frame(0x80, "kuchen"),
    ];
    client.send(whole.concat()).await;
    assert_eq!(client.next().await, Got::Pong(b"between".to_vec()));
    client.expect("Käsekuchen").await;
    // The same bytes, one by one.
    for byte in whole.concat() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.next().await, Got::Pong(b"between".to_vec()));
    client.expect("Käsekuchen").await;
    client.send([frame(0x02, b"\xff"), frame(0x80, b"\0")].concat()).await;
    assert_eq!(client.next().await, Got::Binary(vec![0xff, 0]));
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn pings_are_answered_with_what_they_carry() {
    let node = serve(echo("/echo")).await;
    let mut client = node.client("/echo").await;
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        client.send([ping(payload), text("after")].concat()).await;
        assert_eq!(client.next().await, Got::Pong(payload.to_vec()));
        client.expect("after").await;
    }
    client.leave().await;
    node.end().await;
}

fn impatient() -> Limits {
    Limits { ping: Duration::from_millis(40), silent: Duration::from_millis(200), ..limits() }
}

#[tokio::test]
async fn a_quiet_client_is_pinged_and_stays_as_long_as_it_answers() {
    let node = serve(echo("/echo").limits(impatient())).await;
    let mut client = node.client("/echo").await;
    let start = Instant::now();
    let mut pings = 0;
    while start.elapsed() < impatient().silent * 3 {
        assert_eq!(client.next_of_all().await, Got::Ping);
        client.send(pong()).await;
        pings += 1;
    }
    assert!(pings >= 3, "{pings}");
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_silent_client_is_closed_in_time() {
    let node = serve(echo("/echo").limits(impatient())).await;
    // The clock starts before the server can know of the client.
    let start = Instant::now();
    let mut client = node.client("/echo").await;
    assert_eq!(client.next_of_all().await, Got::Ping);
    let (code, reason) = client.is_closed().await;
    assert_eq!((code, &*reason), (1001, "nothing came from you for too long"));
    assert!(start.elapsed() >= impatient().silent);
    assert_eq!(client.next().await, Got::End, "and dropped, as it does not answer that either");
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_client_that_neither_reads_nor_sends_is_given_up() {
    let small = Limits { queue: 16 * 1024, ..impatient() };
    let node = serve(echo("/echo").limits(small)).await;
    let mut client = node.narrow_client("/echo").await;
    // The client asks for more than the kernels keep, and vanishes. The node does not read from a client that does not
    // read.
    let message = text(&"x".repeat(60_000));
    let filled = async { while client.try_send(&message).await {} };
    let _ = tokio::time::timeout(Duration::from_millis(100), filled).await;
    node.is_left_by_all().await;
    drop(client);
    node.end().await;
}

#[tokio::test]
async fn a_slow_but_steady_reader_is_no_silent_client() {
    let small = Limits { queue: 16 * 1024, ..impatient() };
    let node = serve(echo("/echo").limits(small)).await;
    let mut client = node.narrow_client("/echo").await;
    let message = "x".repeat(10_000);
    let (mut sent, mut got, start) = (0, 0, Instant::now());
    // For a long time the client always has something left to read.
    while start.elapsed() < impatient().silent * 4 {
        while sent < got + 40 {
            client.text(&message).await;
            sent += 1;
        }
        client.expect(&message).await;
        got += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while got < sent {
        client.expect(&message).await;
        got += 1;
    }
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_message_that_is_never_finished_is_not_waited_for() {
    let node = serve(echo("/echo").limits(impatient())).await;
    let whole = text(&"x".repeat(1000));
    for (case, first) in
        [("in a header", &whole[..3]), ("in a payload", &whole[..100]), ("between fragments", &frame(1, "a")[..])]
    {
        let mut client = node.client("/echo").await;
        let start = Instant::now();
        client.send(first).await;
        // The client's pongs do not help it.
        let (code, reason) = loop {
            match client.next_of_all().await {
                Got::Ping if case == "between fragments" => client.send(pong()).await,
                Got::Ping => {
                    // Inside of a frame the client can only go on with it.
                    client.try_send([b'x']).await;
                }
                Got::Close(code, reason) => break (code, reason),
                other => panic!("{case}: {other:?}"),
            }
        };
        assert_eq!((code, &*reason), (1008, "a message took too long"), "{case}");
        assert!(start.elapsed() >= impatient().silent / 2, "{case}");
    }
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn a_client_that_sends_on_and_on_is_not_taken_for_a_slow_one() {
    let node = serve(echo("/echo").limits(impatient())).await;
    let mut client = node.client("/echo").await;
    let start = Instant::now();
    let message = text("split");
    client.send(&message[..4]).await;
    // Whenever one message ends, the next one has begun.
    let mut between = message[4..].to_vec();
    between.extend(&message[..4]);
    while start.elapsed() < impatient().silent * 3 {
        client.send(&between).await;
        client.expect("split").await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    client.send(&message[4..]).await;
    client.expect("split").await;
    client.leave().await;
    node.end().await;
}

#[tokio::test]
async fn a_clients_close_is_answered_with_its_code() {
    let node = serve(echo("/echo")).await;
    for code in [1000, 1001, 1011, 3000, 4999] {
        let mut client = node.client("/echo").await;
        client.send([text("last words"), close(code, "bye")].concat()).await;
        client.expect("last words").await;
        assert_eq!(client.next().await, Got::Close(code, String::new()));
        assert_eq!(client.next().await, Got::End);
    }
    let mut client = node.client("/echo").await;
    client.send(frame(0x88, "")).await;
    assert_eq!(client.next().await, Got::Close(0, String::new()), "no code, no code back");
    assert_eq!(client.next().await, Got::End);
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn what_comes_after_a_close_is_ignored() {
    let node = serve(echo("/echo")).await;
    let mut client = node.client("/echo").await;
    client.send([close(1000, ""), text("more"), vec![0xff; 50]].concat()).await;
    assert_eq!(client.next().await, Got::Close(1000, String::new()));
    assert_eq!(client.next().await, Got::End);
    node.is_left_by_all().await;
    node.end().await;
}

#[tokio::test]
async fn the_end_of_the_stream_ends_the_channel() {
    let node = serve(echo("/echo")).await;
    let half = text("half a message");
    for end in [0, 1, 5, half.len()] {
        let mut client = node.client("/echo").await;
        client.send(&half[..end]).await;
        within(client.socket.shutdown()).await.expect("it can be shut");
        loop {
            match client.next().await {
                Got::Text(_) => {}
                other => break assert_eq!(other, Got::End),
            }
        }
        node.is_left_by_all().await;
    }
    node.end().await;
}

#[tokio::test]
async fn a_reset_at_any_point_ends_the_channel() {
    let node = serve(echo("/echo")).await;
    let sent = [text("a message"), frame(1, "a fragment"), ping(b"a ping"), frame(0x80, "the rest"), close(1000, "")];
    let sent = sent.concat();
    for end in 0..=sent.len() {
        let mut client = node.client("/echo").await;
        client.send(&sent[..end]).await;
        if end % 2 == 0 {
            tokio::task::yield_now().await;
        }
        client.reset();
    }
    node.is_left_by_all().await;
    node.end().await;
}
