//! The memory that a client makes the node hold is bounded by the bytes that it has sent.

use std::ops::ControlFlow;

use super::client::{BINARY, CLOSE, CONTINUATION, FIN, TEXT, frame};
use super::{Decoder, Incoming, LIMIT};

fn keep_going(_: Incoming) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 64, "{} bytes", size_of::<Decoder>());
    assert_eq!(Decoder::new(LIMIT).held(), 0);
}

#[test]
fn an_idle_decoder_holds_no_heap_after_a_big_message() {
    let whole = frame(FIN | BINARY, vec![1; LIMIT]);
    let fragments = [frame(BINARY, vec![1; LIMIT / 2]), frame(FIN | CONTINUATION, vec![1; LIMIT / 2])].concat();
    let mut decoder = Decoder::new(LIMIT);
    for bytes in [whole, fragments] {
        for chunk in bytes.chunks(4096) {
            decoder.decode(chunk, keep_going).unwrap();
        }
        assert!(decoder.is_idle());
        assert_eq!(decoder.held(), 0);
    }
}

#[test]
fn the_carry_grows_with_what_arrives() {
    let bytes = frame(FIN | BINARY, vec![1; LIMIT]);
    let mut decoder = Decoder::new(LIMIT);
    let mut arrived = 0;
    for chunk in bytes[..bytes.len() - 1].chunks(1000) {
        decoder.decode(chunk, keep_going).unwrap();
        arrived += chunk.len();
        assert!(decoder.held() <= 2 * arrived + 64, "{} bytes for {arrived}", decoder.held());
    }
}

#[test]
fn a_partial_frame_does_not_keep_the_space_of_those_before_it() {
    let mut bytes = frame(FIN | TEXT, "x".repeat(100)).repeat(600);
    bytes.extend(&frame(FIN | TEXT, "x")[..5]);
    let mut decoder = Decoder::new(LIMIT);
    decoder.decode(&bytes, |_| ControlFlow::Break(())).unwrap();
    assert!(decoder.has_pending());
    decoder.decode(&[], keep_going).unwrap();
    assert!(!decoder.has_pending() && !decoder.is_idle());
    assert_eq!(decoder.held(), 5);
}

#[test]
fn empty_fragments_hold_no_more_the_more_they_are() {
    let mut decoder = Decoder::new(LIMIT);
    decoder.decode(&frame(TEXT, "start"), keep_going).unwrap();
    let held = decoder.held();
    decoder.decode(&frame(CONTINUATION, "").repeat(10_000), keep_going).unwrap();
    assert_eq!(decoder.held(), held);
}

#[test]
fn a_stream_that_ended_holds_nothing() {
    let unmasked = vec![FIN | TEXT, 0];
    let close = frame(FIN | CLOSE, "");
    for end in [unmasked, close] {
        let (first, rest) = end.split_at(1);
        let mut decoder = Decoder::new(LIMIT);
        decoder.decode(&frame(TEXT, "start"), keep_going).unwrap();
        decoder.decode(first, keep_going).unwrap();
        assert!(decoder.held() > 0);
        let _ = decoder.decode(rest, keep_going);
        decoder.decode(&frame(TEXT, "start"), keep_going).unwrap();
        assert!(decoder.is_idle() && !decoder.has_pending());
        assert_eq!(decoder.held(), 0);
    }
}
