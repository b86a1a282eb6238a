//! What must hold of the decoder. `rules` goes through the RFC, `upstream` through the known defects of fastwebsockets, `property`
//! compares with the reference in `model`.

mod client;
mod encode;
mod memory;
mod model;
mod property;
mod rules;
mod upstream;

use std::ops::ControlFlow;

use bytes::BytesMut;

use super::{Decoder, Incoming, Violation};

/// The limit on a message wherever a test does not set its own.
const LIMIT: usize = 1 << 20;

/// How a stream stands after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Between two messages.
    Idle,
    /// Inside a frame or a fragmented message.
    Unfinished,
    /// The client has sent its close frame.
    Closed,
    Failed(Violation),
}

fn text(payload: &str) -> Incoming {
    Incoming::Text(BytesMut::from(payload))
}

fn binary(payload: &[u8]) -> Incoming {
    Incoming::Binary(BytesMut::from(payload))
}

fn ping(payload: &[u8]) -> Incoming {
    Incoming::Ping(BytesMut::from(payload))
}

/// Decodes `chunks`; asks `break_off` after each item. A stream that has ended must stay so.
fn drive<'a>(
    max_message: usize,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    mut break_off: impl FnMut() -> bool,
) -> (Vec<Incoming>, End) {
    let mut decoder = Decoder::new(max_message);
    let mut taken = Vec::new();
    let mut failed = None;
    for chunk in chunks {
        let mut chunk = chunk;
        loop {
            let before = taken.len();
            let mut stopped = false;
            let result = decoder.decode(chunk, |incoming| {
                assert!(!stopped, "an item came after the break");
                // Parts are told, but are nothing to compare.
                if incoming != Incoming::Fragment {
                    taken.push(incoming);
                }
                stopped = break_off();
                if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let ended = failed.is_some() || matches!(taken[..before].last(), Some(Incoming::Close(_)));
            assert!(!ended || (result.is_ok() && taken.len() == before), "decoded past the end");
            failed = failed.or(result.err());
            assert!(stopped || !decoder.has_pending(), "bytes are pending that nobody refused");
            if !decoder.has_pending() {
                break;
            }
            chunk = &[];
        }
    }
    let end = match failed {
        Some(violation) => End::Failed(violation),
        None if matches!(taken.last(), Some(Incoming::Close(_))) => End::Closed,
        None if decoder.is_idle() => End::Idle,
        None => End::Unfinished,
    };
    (taken, end)
}

/// Decodes `bytes` whole, byte by byte, and with a break after every item.
#[track_caller]
fn check_within(max_message: usize, bytes: &[u8], items: &[Incoming], end: End) {
    let expected = (items.to_vec(), end);
    assert_eq!(drive(max_message, [bytes], || false), expected, "whole");
    assert_eq!(drive(max_message, bytes.chunks(1), || false), expected, "byte by byte");
    assert_eq!(drive(max_message, [bytes], || true), expected, "with breaks");
    assert_eq!(drive(max_message, bytes.chunks(7), || true), expected, "in chunks with breaks");
}

#[track_caller]
fn check(bytes: &[u8], items: &[Incoming], end: End) {
    check_within(LIMIT, bytes, items, end);
}

/// `bytes` break a rule before anything is taken from them.
#[track_caller]
fn refuse(bytes: &[u8], violation: Violation) {
    check(bytes, &[], End::Failed(violation));
}
