//! Any bytes, cut in any way, with any breaks, are decoded as the reference decodes them whole.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::super::reference;
use super::super::reference::model::Verdict;
use super::client::{BINARY, CLOSE, CONTINUATION, FIN, Form, PING, PONG, TEXT, header, masked};

type Bytes = Vec<u8>;

/// The way in which a stream reaches the decoder, and the places where it is spoilt first.
#[derive(Debug, Clone)]
struct Run {
    max_message: usize,
    cuts: Vec<usize>,
    breaks: Vec<bool>,
    spoils: Vec<Spoil>,
}

#[derive(Debug, Clone)]
enum Spoil {
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
}

impl Spoil {
    fn apply(&self, bytes: &mut Bytes) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        match *self {
            Self::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Self::Insert(at, byte) => bytes.insert(at.index(len), byte),
            Self::Remove(at) => drop(bytes.remove(at.index(len))),
            Self::Truncate(at) => bytes.truncate(at.index(len)),
        }
    }
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        4 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Spoil::Insert(at, byte)),
        1 => any::<Index>().prop_map(Spoil::Remove),
        1 => any::<Index>().prop_map(Spoil::Truncate),
    ]
}

fn run() -> impl Strategy<Value = Run> {
    let max_message = prop_oneof![4 => Just(70_000), 1 => Just(usize::MAX), 1 => Just(126), 1 => 0..60usize];
    let cuts = prop_oneof![1 => Just(vec![usize::MAX]), 2 => vec(1..12usize, 1..6), 2 => vec(0..300usize, 1..6).prop_map(|mut cuts| {
        // Empty chunks may be among others; a stream of only empty ones would never end.
        cuts.push(50);
        cuts
    })];
    let breaks = prop_oneof![Just(vec![false]), Just(vec![true]), vec(any::<bool>(), 1..8)];
    let spoils = prop_oneof![3 => Just(Vec::new()), 2 => vec(spoil(), 1..3)];
    (max_message, cuts, breaks, spoils).prop_map(|(max_message, cuts, breaks, spoils)| Run {
        max_message,
        cuts,
        breaks,
        spoils,
    })
}

fn encode(first: u8, mask: [u8; 4], payload: &[u8]) -> Bytes {
    let mut bytes = header(first, true, Form::shortest(payload.len()), payload.len() as u64);
    bytes.extend(masked(mask, payload));
    bytes
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        60 => ".{0,12}".prop_map(String::into_bytes),
        10 => vec(any::<u8>(), 0..20),
        10 => (120..135usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        1 => (65_530..65_545usize).prop_map(|len| vec![b'x'; len]),
    ]
}

fn control() -> impl Strategy<Value = Bytes> {
    let close = (prop_oneof![980..1020u16, any::<u16>()], ".{0,6}").prop_map(|(code, reason)| {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend(reason.into_bytes());
        (FIN | CLOSE, payload)
    });
    let frame = prop_oneof![
        6 => vec(any::<u8>(), 0..8).prop_map(|payload| (FIN | PING, payload)),
        6 => vec(any::<u8>(), 0..8).prop_map(|payload| (FIN | PONG, payload)),
        1 => close,
        1 => vec(any::<u8>(), 0..2).prop_map(|payload| (FIN | CLOSE, payload)),
    ];
    (frame, any::<[u8; 4]>()).prop_map(|((first, payload), mask)| encode(first, mask, &payload))
}

/// A message, cut into fragments at any bytes, with control frames between them.
fn message() -> impl Strategy<Value = Bytes> {
    let cuts = prop_oneof![2 => Just(Vec::new()), 1 => vec(any::<Index>(), 1..5)];
    let interleaved = prop_oneof![3 => Just(None), 1 => control().prop_map(Some)];
    (any::<bool>(), payload(), cuts, interleaved, any::<[u8; 4]>()).prop_map(|(text, payload, cuts, control, mask)| {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(payload.len());
        let mut bytes = Bytes::new();
        let mut from = 0;
        for (i, to) in cuts.iter().copied().enumerate() {
            let fin = if i + 1 == cuts.len() { FIN } else { 0 };
            let opcode = match (i, text) {
                (0, true) => TEXT,
                (0, false) => BINARY,
                _ => CONTINUATION,
            };
            bytes.extend(encode(fin | opcode, mask, &payload[from..to]));
            if i == 0 {
                bytes.extend(control.iter().flatten());
            }
            from = to;
        }
        bytes
    })
}

/// A frame with a header that may be wrong in each of its parts.
fn odd() -> impl Strategy<Value = Bytes> {
    let first = prop_oneof![
        any::<u8>(),
        (any::<bool>(), 0..=10u8).prop_map(|(fin, opcode)| if fin { FIN | opcode } else { opcode })
    ];
    let form = prop_oneof![3 => Just(Form::Seven), 1 => Just(Form::Sixteen), 1 => Just(Form::SixtyFour)];
    let announced = prop_oneof![4 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0..70_000u64).prop_map(Some)];
    (first, proptest::bool::weighted(0.9), form, announced, vec(any::<u8>(), 0..130), any::<[u8; 4]>()).prop_map(
        |(first, mask_bit, form, announced, payload, mask)| {
            let mut bytes = header(first, mask_bit, form, announced.unwrap_or(payload.len() as u64));
            bytes.extend(masked(mask, &payload));
            bytes
        },
    )
}

fn stream() -> impl Strategy<Value = Bytes> {
    vec(prop_oneof![12 => message(), 6 => control(), 1 => odd()], 0..8).prop_map(|frames| frames.concat())
}

/// Runs `cases` streams through decoder and reference; counts the verdicts.
fn all_agree(cases: u32, streams: impl Strategy<Value = Bytes>) -> BTreeMap<Verdict, usize> {
    let config = Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(6455), ..Config::default() };
    let seen = RefCell::new(BTreeMap::new());
    let result = TestRunner::new(config).run(&(streams, run()), |(mut bytes, run)| {
        run.spoils.iter().for_each(|spoil| spoil.apply(&mut bytes));
        let verdict = reference::compare(run.max_message, &bytes, &run.cuts, &run.breaks);
        *seen.borrow_mut().entry(verdict).or_default() += 1;
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    seen.into_inner()
}

#[test]
fn any_bytes_are_decoded_as_by_the_reference() {
    all_agree(2000, vec(any::<u8>(), 0..200));
}

#[test]
fn almost_valid_streams_are_decoded_as_by_the_reference() {
    let cases = 3000;
    let seen = all_agree(cases, stream());
    // Without this check a one-sided generator would go unnoticed.
    for verdict in [
        Verdict::Idle,
        Verdict::Unfinished,
        Verdict::Closed,
        Verdict::Failed(1002),
        Verdict::Failed(1007),
        Verdict::Failed(1009),
    ] {
        let count = seen.get(&verdict).copied().unwrap_or_default();
        assert!(count >= cases as usize / 50, "{verdict:?} came {count} times: {seen:?}");
    }
    assert!(!seen.contains_key(&Verdict::Failed(1011)), "guard and parser disagree: {seen:?}");
}
