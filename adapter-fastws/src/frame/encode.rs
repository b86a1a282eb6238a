use bytes::{BufMut, Bytes, BytesMut};
use fastwebsockets::OpCode;

/// The longest header of a server: two bytes and a 64-bit length; it does not mask.
const MAX_SERVER_HEADER: usize = 10;

/// The most a control frame carries (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;

/// The header of an unfragmented frame of `len` bytes, and how much of the array it takes.
pub(crate) fn encode_header(opcode: OpCode, len: usize) -> ([u8; MAX_SERVER_HEADER], usize) {
    let mut header = [0; MAX_SERVER_HEADER];
    header[0] = 0x80 | opcode as u8;
    let size = if len <= MAX_CONTROL {
        header[1] = len as u8;
        2
    } else if let Ok(len) = u16::try_from(len) {
        header[1] = 126;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        4
    } else {
        header[1] = 127;
        header[2..].copy_from_slice(&(len as u64).to_be_bytes());
        10
    };
    (header, size)
}

/// The payload of a close frame. A reason that does not fit is cut between two characters.
pub(crate) fn close_payload(code: u16, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL - 2)];
    let mut payload = BytesMut::with_capacity(2 + reason.len());
    payload.put_u16(code);
    payload.put_slice(reason.as_bytes());
    payload.freeze()
}
