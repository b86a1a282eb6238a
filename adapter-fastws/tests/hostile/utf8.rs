//! Text that is not UTF-8, wrong at every boundary that fragments can have.

use crate::frames::ends_with;
use crate::kit::{frame, ping};
use crate::victim::Victim;

/// RFC 3629 §3, §4 and the sequences that it forbids: each between good text.
const WRONG: [(&str, &[u8]); 14] = [
    ("a continuation byte alone", b"a\x80b"),
    ("two of them", b"a\x80\xbfb"),
    ("a start without its continuation", b"\xc3a"),
    ("a start of three with one", b"\xe2\x82a"),
    ("a start of four with two", b"\xf0\x9f\xa6a"),
    ("a slash in two bytes", b"a\xc0\xafb"),
    ("a slash in three bytes", b"a\xe0\x80\xafb"),
    ("a slash in four bytes", b"a\xf0\x80\x80\xafb"),
    ("the first surrogate", b"\xed\xa0\x80"),
    ("the last surrogate", b"\xed\xbf\xbf"),
    ("beyond the last character", b"\xf4\x90\x80\x80"),
    ("a start of five", b"\xf8\x88\x80\x80\x80"),
    ("a byte that is never used", b"\xc3\xa4\xff\xc3\xa4"),
    ("a text that ends within a character", b"ab\xf0\x9f\xa6"),
];

fn in_two(bytes: &[u8], at: usize, between: &[u8]) -> Vec<u8> {
    [&frame(0x01, &bytes[..at])[..], between, &frame(0x80, &bytes[at..])].concat()
}

#[tokio::test]
async fn wrong_text_is_closed_with_1007_however_it_is_cut() {
    let victim = Victim::start().await;
    // An unsolicited pong between the fragments: it gets no answer.
    let unasked = frame(0x8a, "");
    for (case, bytes) in WRONG {
        let whole = frame(0x81, bytes);
        let single: Vec<u8> = bytes.iter().flat_map(|byte| frame(0x00, [*byte])).collect();
        let single = [frame(0x01, ""), single, frame(0x80, "")].concat();
        let cut = (0..=bytes.len()).map(|at| in_two(bytes, at, if at % 2 == 0 { b"" } else { &unasked }));
        for (at, sent) in [whole, single].into_iter().chain(cut).enumerate() {
            let mut client = victim.client("/echo").await;
            client.send(sent).await;
            ends_with(client, 1007, &format!("{case}, way {at}")).await;
        }
    }
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn good_text_passes_however_it_is_cut() {
    let victim = Victim::start().await;
    let good = "aä€🦀\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10ffff}";
    let mut client = victim.client("/echo").await;
    for at in 0..=good.len() {
        client.send(in_two(good.as_bytes(), at, &ping(b""))).await;
        assert_eq!(client.next().await, crate::kit::Got::Pong(Vec::new()));
        client.expect(good).await;
    }
    client.leave().await;
    victim.ends_unharmed().await;
}

#[tokio::test]
async fn text_is_refused_as_soon_as_it_cannot_become_utf8() {
    let victim = Victim::start().await;
    for start in [&b"\xed\xa0"[..], b"a\xff", b"\xf4\x90", b"\xc0"] {
        let mut client = victim.client("/echo").await;
        // The end of the message never comes.
        client.send(frame(0x01, start)).await;
        ends_with(client, 1007, &format!("{start:02x?}")).await;
    }
    for reason in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80"] {
        let mut client = victim.client("/echo").await;
        client.send(frame(0x88, [b"\x03\xe8", reason].concat())).await;
        ends_with(client, 1007, &format!("a reason of {reason:02x?}")).await;
    }
    victim.ends_unharmed().await;
}
