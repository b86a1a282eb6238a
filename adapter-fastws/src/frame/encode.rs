//! Control frames as a server sends them: whole and unmasked (RFC 6455 §5.5).

use bytes::{BufMut, Bytes, BytesMut};
use fastwebsockets::OpCode;

/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;

fn control(opcode: OpCode, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= MAX_CONTROL);
    let mut frame = BytesMut::with_capacity(2 + length);
    frame.put_u8(0x80 | opcode as u8);
    frame.put_u8(length as u8);
    parts.iter().for_each(|part| frame.put_slice(part));
    frame.freeze()
}

/// Asks whether the client is there.
pub(crate) fn ping() -> Bytes {
    Bytes::from_static(&[0x89, 0])
}

/// Answers a ping with its payload, at most 125 bytes.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    control(OpCode::Pong, &[payload])
}

/// A close frame; without a code its payload is empty. A reason that is too long is cut between two characters.
pub(crate) fn close(code: Option<u16>, reason: &str) -> Bytes {
    match code {
        Some(code) => {
            let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL - 2)];
            control(OpCode::Close, &[&code.to_be_bytes(), reason.as_bytes()])
        }
        None => control(OpCode::Close, &[]),
    }
}
