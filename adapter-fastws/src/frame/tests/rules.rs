//! RFC 6455, rule by rule.

use super::client::{BINARY, CLOSE, CONTINUATION, FIN, Form, PING, PONG, TEXT, close, frame, header, unmasked};
use super::{End, Incoming, LIMIT, Violation, binary, check, check_within, ping, refuse, text};

#[test]
fn whole_messages_come_in_order() {
    let bytes = [
        frame(FIN | TEXT, "grüß dich"),
        frame(FIN | BINARY, [0, 255]),
        frame(FIN | TEXT, ""),
        frame(FIN | PING, "are you there"),
        frame(FIN | PONG, "yes"),
    ];
    let items = [text("grüß dich"), binary(&[0, 255]), text(""), ping(b"are you there"), Incoming::Pong];
    check(&bytes.concat(), &items, End::Idle);
}

#[test]
fn nothing_is_idle() {
    check(&[], &[], End::Idle);
}

#[test]
fn each_length_form_is_read_at_its_bounds() {
    for len in [0, 125, 126, 0xffff, 0x1_0000] {
        let payload = vec![7; len];
        check(&frame(FIN | BINARY, &payload), &[binary(&payload)], End::Idle);
    }
}

#[test]
fn many_frames_in_one_chunk() {
    let message = "x".repeat(1000);
    check(&frame(FIN | TEXT, &message).repeat(40), &vec![text(&message); 40], End::Idle);
}

#[test]
fn a_frame_without_its_last_byte_waits() {
    let bytes = [frame(FIN | TEXT, "one"), frame(FIN | TEXT, "two")].concat();
    check(&bytes[..bytes.len() - 1], &[text("one")], End::Unfinished);
}

#[test]
fn fragments_are_joined_around_control_frames() {
    let bytes = [
        frame(TEXT, "a"),
        frame(FIN | PING, "p"),
        frame(CONTINUATION, ""),
        frame(CONTINUATION, "b"),
        frame(FIN | PONG, ""),
        frame(FIN | CONTINUATION, "c"),
        frame(BINARY, [0xff]),
        frame(FIN | CONTINUATION, [0xfe]),
    ];
    check(&bytes.concat(), &[ping(b"p"), Incoming::Pong, text("abc"), binary(&[0xff, 0xfe])], End::Idle);
    check(&bytes[..5].concat(), &[ping(b"p"), Incoming::Pong], End::Unfinished);
}

#[test]
fn a_message_may_have_any_number_of_empty_fragments() {
    let bytes = [frame(TEXT, ""), frame(CONTINUATION, "").repeat(2000), frame(FIN | CONTINUATION, "")];
    check(&bytes.concat(), &[text("")], End::Idle);
}

#[test]
fn reserved_bits_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        refuse(&frame(FIN | bit | TEXT, "x"), Violation::ReservedBits);
    }
}

#[test]
fn reserved_opcodes_are_refused() {
    for opcode in (3..=7).chain(11..=15) {
        refuse(&frame(FIN | opcode, "x"), Violation::ReservedOpcode);
        refuse(&frame(opcode, "x"), Violation::ReservedOpcode);
    }
}

#[test]
fn control_frames_are_neither_fragmented_nor_long() {
    for opcode in [CLOSE, PING, PONG] {
        refuse(&frame(opcode, ""), Violation::FragmentedControl);
        refuse(&frame(FIN | opcode, [b'x'; 126]), Violation::LongControl);
        refuse(&header(FIN | opcode, true, Form::SixtyFour, 1 << 40), Violation::LongControl);
    }
    check(&frame(FIN | PING, [b'x'; 125]), &[ping(&[b'x'; 125])], End::Idle);
}

#[test]
fn the_limit_on_messages_is_not_one_on_control_frames() {
    check_within(3, &frame(FIN | PING, "longer"), &[ping(b"longer")], End::Idle);
}

#[test]
fn a_length_has_63_bits() {
    refuse(&header(FIN | BINARY, true, Form::SixtyFour, 1 << 63), Violation::LengthTopBit);
    refuse(&header(FIN | BINARY, true, Form::SixtyFour, u64::MAX), Violation::LengthTopBit);
}

#[test]
fn a_message_of_exactly_the_limit_passes_and_one_byte_more_fails_at_the_header() {
    check_within(200, &frame(FIN | BINARY, [1; 200]), &[binary(&[1; 200])], End::Idle);
    let failed = End::Failed(Violation::TooLarge);
    check_within(200, &header(FIN | BINARY, true, Form::Sixteen, 201), &[], failed);
    check_within(5, &header(FIN | TEXT, true, Form::Seven, 6), &[], failed);
    check_within(LIMIT, &header(FIN | BINARY, true, Form::SixtyFour, (1 << 63) - 1), &[], failed);

    let fragments = [frame(BINARY, [1; 60]), frame(CONTINUATION, [1; 40])].concat();
    let fits = [&fragments[..], &frame(FIN | CONTINUATION, [1; 100])].concat();
    check_within(200, &fits, &[binary(&[1; 200])], End::Idle);
    let exceeds = [&fragments[..], &header(CONTINUATION, true, Form::Seven, 101)].concat();
    check_within(200, &exceeds, &[], failed);
}

#[test]
fn what_came_before_a_violation_is_handed_over() {
    let bytes = [frame(FIN | TEXT, "one"), frame(FIN | PING, ""), unmasked(FIN | TEXT, b"two")].concat();
    check(&bytes, &[text("one"), ping(b"")], End::Failed(Violation::Unmasked));
}

#[test]
fn a_continuation_needs_a_start() {
    refuse(&frame(CONTINUATION, "x"), Violation::ContinuationWithoutStart);
    refuse(&frame(FIN | CONTINUATION, "x"), Violation::ContinuationWithoutStart);
    let after_the_end = [frame(TEXT, "a"), frame(FIN | CONTINUATION, "b"), frame(FIN | CONTINUATION, "c")].concat();
    check(&after_the_end, &[text("ab")], End::Failed(Violation::ContinuationWithoutStart));
}

#[test]
fn a_message_does_not_start_inside_another() {
    for second in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        refuse(&[frame(TEXT, "a"), frame(second, "b")].concat(), Violation::StartInsideMessage);
    }
}

#[test]
fn text_is_utf8() {
    for wrong in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok \xe2\x82"] {
        refuse(&frame(FIN | TEXT, wrong), Violation::Utf8);
        check(&frame(FIN | BINARY, wrong), &[binary(wrong)], End::Idle);
    }
}

#[test]
fn a_character_may_be_cut_between_fragments() {
    let word = "κόσμε 🦀 ﷺ";
    let mut bytes = frame(TEXT, "");
    for byte in word.as_bytes() {
        bytes.extend(frame(CONTINUATION, [*byte]));
    }
    bytes.extend(frame(FIN | CONTINUATION, ""));
    check(&bytes, &[text(word)], End::Idle);
}

#[test]
fn text_that_can_no_longer_become_utf8_fails_before_its_end() {
    refuse(&[frame(TEXT, "κόσμε"), frame(CONTINUATION, b"\xed\xa0\x80")].concat(), Violation::Utf8);
    refuse(&[frame(TEXT, b"\xe2\x82"), frame(CONTINUATION, b"\x28")].concat(), Violation::Utf8);
    refuse(&frame(TEXT, b"\xf5"), Violation::Utf8);
}

#[test]
fn close_may_carry_nothing_or_a_code_and_a_reason() {
    check(&frame(FIN | CLOSE, ""), &[Incoming::Close(None)], End::Closed);
    check(&close(1000, ""), &[Incoming::Close(Some((1000, String::new())))], End::Closed);
    check(&close(4999, "tschüß"), &[Incoming::Close(Some((4999, "tschüß".to_owned())))], End::Closed);
    let longest = "x".repeat(123);
    check(&close(1001, &longest), &[Incoming::Close(Some((1001, longest)))], End::Closed);
}

#[test]
fn half_a_close_code_is_refused() {
    refuse(&frame(FIN | CLOSE, [3]), Violation::ClosePayload);
}

#[test]
fn close_codes_are_those_an_endpoint_may_send() {
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        check(&close(code, ""), &[Incoming::Close(Some((code, String::new())))], End::Closed);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, u16::MAX] {
        refuse(&close(code, "reason"), Violation::CloseCode);
    }
}

#[test]
fn a_close_reason_is_utf8() {
    refuse(&close(1000, b"\xce\xba\xe1\xbd"), Violation::Utf8);
}

#[test]
fn nothing_is_decoded_after_close() {
    let closed = [Incoming::Close(Some((1000, String::new())))];
    check(&[close(1000, ""), frame(FIN | TEXT, "late")].concat(), &closed, End::Closed);
    check(&[close(1000, ""), vec![0xff; 100]].concat(), &closed, End::Closed);
    check(&[frame(TEXT, "unfinished"), close(1000, "")].concat(), &closed, End::Closed);
}

#[test]
fn every_violation_fits_a_close_frame() {
    let all = [
        Violation::ReservedBits,
        Violation::ReservedOpcode,
        Violation::Unmasked,
        Violation::FragmentedControl,
        Violation::LongControl,
        Violation::NonMinimalLength,
        Violation::LengthTopBit,
        Violation::ContinuationWithoutStart,
        Violation::StartInsideMessage,
        Violation::ClosePayload,
        Violation::CloseCode,
        Violation::Utf8,
        Violation::TooLarge,
    ];
    for violation in all {
        let (code, reason) = violation.close();
        assert!([1002, 1007, 1009].contains(&code) && reason.len() <= 123, "{violation:?}");
    }
}
