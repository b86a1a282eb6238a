//! Tests of the decoder. `rules` goes through the RFC, `upstream` through the known defects of fastwebsockets,
//! `property` compares with the reference in `reference::model`.

mod client;
mod encode;
mod memory;
mod property;
mod rules;
mod upstream;

use super::reference::{End, drive};
use super::violation::Violation;
use super::{Decoder, Incoming};

/// The limit on a message, unless a test sets its own.
const LIMIT: usize = 1 << 20;

fn text(payload: &str) -> Incoming {
    Incoming::Text(payload.to_owned())
}

fn binary(payload: &[u8]) -> Incoming {
    Incoming::Binary(payload.to_vec())
}

fn ping(payload: &[u8]) -> Incoming {
    Incoming::Ping(payload.to_vec())
}

/// Decodes `bytes` at once, byte by byte, and with a break after every item.
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

/// Checks that `bytes` break a rule before `take` gets anything.
#[track_caller]
fn refuse(bytes: &[u8], violation: Violation) {
    check(bytes, &[], End::Failed(violation));
}
