use fastwebsockets::OpCode;

use super::super::{close_payload, encode_header};

#[track_caller]
fn check(opcode: OpCode, len: usize, expected: &[u8]) {
    let (header, size) = encode_header(opcode, len);
    assert_eq!(&header[..size], expected);
}

#[test]
fn a_length_takes_its_shortest_form() {
    check(OpCode::Text, 0, &[0x81, 0]);
    check(OpCode::Binary, 125, &[0x82, 125]);
    check(OpCode::Text, 126, &[0x81, 126, 0, 126]);
    check(OpCode::Text, 0xffff, &[0x81, 126, 0xff, 0xff]);
    check(OpCode::Text, 0x1_0000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    check(OpCode::Close, 2, &[0x88, 2]);
    check(OpCode::Ping, 0, &[0x89, 0]);
    check(OpCode::Pong, 125, &[0x8a, 125]);
}

#[test]
fn a_close_payload_is_code_and_reason() {
    assert_eq!(&close_payload(1000, "")[..], [0x03, 0xe8]);
    assert_eq!(&close_payload(1012, "drain")[..], *b"\x03\xf4drain");
}

#[test]
fn a_long_reason_is_cut_between_two_characters() {
    assert_eq!(close_payload(1008, &"x".repeat(200)).len(), 125);
    // 61 characters of two bytes are 122; the 62nd would end at 124.
    let payload = close_payload(1008, &"ü".repeat(100));
    assert_eq!(std::str::from_utf8(&payload[2..]).unwrap(), "ü".repeat(61));
}
