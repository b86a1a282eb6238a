//! Frames that RFC 6455 forbids, with the close code for each.

use crate::kit::{Got, TcpClient, close, frame, header, ping, text};
use crate::victim::{SMALL, Victim};

/// Messages of a client that does not read the specification, and the code that closes it.
fn violations() -> Vec<(String, Vec<u8>, u16)> {
    let mut cases: Vec<(String, Vec<u8>, u16)> = Vec::new();
    let mut case = |name: &str, bytes: Vec<u8>, code| cases.push((name.to_owned(), bytes, code));
    for bit in [0x40, 0x20, 0x10, 0x70] {
        case("reserved bits", frame(0x81 | bit, "x"), 1002);
        case("reserved bits of a ping", frame(0x89 | bit, "x"), 1002);
        case("reserved bits of a close", frame(0x88 | bit, ""), 1002);
    }
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        case("a reserved opcode", frame(0x80 | opcode, "x"), 1002);
        case("a reserved opcode, fragmented", frame(opcode, ""), 1002);
    }
    for opcode in [0x8, 0x9, 0xa] {
        case("a control frame in fragments", [frame(opcode, ""), frame(0x80, "")].concat(), 1002);
        case("a control frame of 126 bytes", frame(0x80 | opcode, [b'x'; 126]), 1002);
        case("a control frame of 64 KiB", frame(0x80 | opcode, [b'x'; 65_536]), 1002);
        case(
            "a control frame of 126 bytes within a message",
            [frame(0x01, "a"), frame(0x80 | opcode, [0; 126])].concat(),
            1002,
        );
    }
    for first in [0x81, 0x82, 0x01, 0x88, 0x89, 0x8a] {
        case("no mask", vec![first, 1, b'x'], 1002);
        case("no mask, and nothing to mask", vec![first, 0], 1002);
    }
    for (name, length) in [
        ("5 in 16 bits", [&[0xfe, 0, 5][..], &[0; 4], b"abcde"].concat()),
        ("125 in 16 bits", vec![0xfe, 0, 125]),
        ("5 in 64 bits", vec![0xff, 0, 0, 0, 0, 0, 0, 0, 5]),
        ("65,535 in 64 bits", vec![0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ("more than 63 bits", vec![0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        for first in [0x81, 0x82, 0x01] {
            case(name, [&[first][..], &length].concat(), 1002);
        }
    }
    case("a continuation of nothing", frame(0x80, "x"), 1002);
    case("a continuation of nothing that goes on", frame(0x00, ""), 1002);
    case("a continuation after a ping", [frame(0x89, ""), frame(0x80, "")].concat(), 1002);
    for second in [0x01, 0x02, 0x81, 0x82] {
        case("a message within another", [frame(0x01, "x"), frame(second, "y")].concat(), 1002);
        case("a message within another, behind a ping", [frame(0x02, ""), ping(b""), frame(second, "")].concat(), 1002);
    }
    case("half a close code", frame(0x88, [3]), 1002);
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        case("a close code that may not be sent", close(code, ""), 1002);
    }
    case("a frame over the limit", header(0x82, SMALL + 1), 1009);
    case("a frame of 4 GiB", header(0x82, 1 << 32), 1009);
    case("a frame of 8 EiB", header(0x81, usize::MAX >> 1), 1009);
    case("a fragment of 8 EiB", [frame(0x01, "x"), header(0x00, usize::MAX >> 1)].concat(), 1009);
    case("fragments over the limit", [frame(0x02, [0; SMALL / 2 + 1]), frame(0x80, [0; SMALL / 2])].concat(), 1009);
    case("many fragments over the limit", [frame(0x02, [0; 8]), frame(0x00, [0; 8]).repeat(SMALL / 8)].concat(), 1009);
    cases
}

#[tokio::test]
async fn violations_are_closed_with_their_code() {
    let victim = Victim::start().await;
    for (case, bytes, code) in violations() {
        let mut client = victim.client("/small").await;
        client.send([text("before"), bytes.clone()].concat()).await;
        client.expect("before").await;
        ends_with(client, code, &format!("{case}: {:02x?}", &bytes[..bytes.len().min(16)])).await;
    }
    victim.ends_unharmed().await;
}

/// The close frame comes next, and then the end, even if the client goes on sending.
pub(crate) async fn ends_with(mut client: TcpClient, code: u16, case: &str) {
    loop {
        match client.next().await {
            Got::Pong(_) => {}
            Got::Close(found, reason) => break assert_eq!(found, code, "{case}: {reason}"),
            other => panic!("{case}: {other:?}"),
        }
    }
    client.try_send(text("after")).await;
    client.try_send(close(code, "")).await;
    assert_eq!(client.next().await, Got::End, "{case}");
}

#[tokio::test]
async fn what_is_only_strange_is_answered() {
    let victim = Victim::start().await;
    let mut client = victim.client("/echo").await;
    client.send([text(""), frame(0x82, ""), text("x")].concat()).await;
    client.expect("").await;
    assert_eq!(client.next().await, Got::Binary(Vec::new()));
    client.expect("x").await;
    let fragments =
        [frame(0x01, ""), frame(0x00, "").repeat(50), ping(&[0xff; 125]), frame(0x00, "ab"), frame(0x80, "")];
    client.send(fragments.concat()).await;
    assert_eq!(client.next().await, Got::Pong(vec![0xff; 125]));
    client.expect("ab").await;
    client.send(frame(0x8a, "a pong that nobody asked for").repeat(40)).await;
    // The longest message, as a whole and byte by byte.
    let whole = "x".repeat(65_536);
    client.text(&whole).await;
    client.expect(&whole).await;
    client.leave().await;
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn fragments_without_end_come_to_an_end() {
    let victim = Victim::start().await;
    for (payload, codes) in [(500, [1009, 1009]), (1, [1009, 1008]), (0, [1008, 1008])] {
        let mut client = victim.client("/echo").await;
        client.send(frame(0x02, vec![0; payload])).await;
        let fragment = frame(0x00, vec![0; payload]);
        let start = tokio::time::Instant::now();
        let code = loop {
            client.try_send(fragment.repeat(10)).await;
            match tokio::time::timeout(std::time::Duration::from_millis(1), client.try_next()).await {
                Err(_) | Ok(Some(Got::Ping)) => {}
                Ok(Some(Got::Close(code, _))) => break code,
                Ok(other) => panic!("{payload}: {other:?}"),
            }
            assert!(start.elapsed() < std::time::Duration::from_secs(8), "a message may not go on for ever");
        };
        assert!(codes.contains(&code), "{payload}: {code}");
    }
    victim.ends_unharmed().await;
}
