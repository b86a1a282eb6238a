//! Drives the decoder, and compares its results with those of the reference in [`model`]: for the seeded property tests
//! and for the fuzzer.

pub(super) mod model;

use std::ops::ControlFlow;

use super::violation::Violation;
use super::{Decoder, Incoming};
use model::Verdict;

/// The state of a stream after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Between two messages.
    Idle,
    /// Inside a frame or a fragmented message.
    Unfinished,
    /// The client has sent its close frame.
    Closed,
    Failed(Violation),
}

impl End {
    fn verdict(self) -> Verdict {
        match self {
            Self::Idle => Verdict::Idle,
            Self::Unfinished => Verdict::Unfinished,
            Self::Closed => Verdict::Closed,
            Self::Failed(violation) => Verdict::Failed(violation.close().0),
        }
    }
}

/// Decodes `chunks`; asks `break_off` after each item. An ended stream must stay ended.
pub(super) fn drive<'a>(
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
                // The reference does not report fragments.
                if !matches!(incoming, Incoming::Fragment(_)) {
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

/// Cuts `bytes` into chunks of these lengths, over and over. One of them must not be 0.
pub(super) fn chunks<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (chunk, rest) = bytes.split_at(bytes.len().min(*length));
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}

/// Decodes `bytes` in chunks of these lengths, with these breaks, and by the reference; panics where the results
/// differ.
pub(super) fn compare(max_message: usize, bytes: &[u8], lengths: &[usize], breaks: &[bool]) -> Verdict {
    let mut breaks = breaks.iter().cycle();
    let break_off = || breaks.next().copied().unwrap_or_default();
    let (items, end) = drive(max_message, chunks(bytes, lengths), break_off);
    let (expected, verdict) = model::decode(bytes, max_message);
    assert_eq!((items, end.verdict()), (expected, verdict), "{bytes:02x?} in chunks of {lengths:?}");
    verdict
}

/// Runs a fuzzer's input. It holds the limit on messages, the number of different chunk lengths, a byte for each, and
/// the stream. That byte gives the length, and whether a break follows an item.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let Some((&[limit, ways], rest)) = data.split_first_chunk() else { return };
    let (ways, stream) = rest.split_at(rest.len().min(usize::from(ways % 16)));
    let max_message = match limit {
        0..=127 => usize::from(limit),
        128..=191 => 300,
        192..=223 => 70_000,
        224.. => usize::MAX,
    };
    let mut lengths: Vec<usize> = ways.iter().map(|way| usize::from(way & 0x7f)).collect();
    lengths.push(if ways.is_empty() { usize::MAX } else { 50 });
    let breaks: Vec<bool> = ways.iter().map(|way| way & 0x80 != 0).collect();
    compare(max_message, stream, &lengths, &breaks);
}
