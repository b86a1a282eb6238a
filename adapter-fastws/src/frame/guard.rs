use fastwebsockets::OpCode;

use super::violation::Violation;

/// The longest header of a client: two bytes, a 64-bit length, the mask.
pub(super) const MAX_HEADER: usize = 14;

/// A valid header of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: OpCode,
    /// Bytes of the header itself, mask included.
    pub(super) head: usize,
    /// Bytes of the payload.
    pub(super) len: usize,
}

impl Header {
    pub(super) fn frame_len(&self) -> usize {
        self.head.saturating_add(self.len)
    }
}

/// Checks the header at the start of `bytes` (RFC 6455 §5.2, §5.4, §5.5); `None` if its length has not arrived. The
/// mask may be missing.
///
/// `assembled` is the length so far of an unfinished fragmented message. A violation is reported as soon as its bytes
/// have arrived, and always before one that needs more bytes. So the verdict does not depend on the chunks.
#[inline]
pub(super) fn check(bytes: &[u8], assembled: Option<usize>, max_message: usize) -> Result<Option<Header>, Violation> {
    let &[first, second, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(Violation::ReservedBits);
    }
    let fin = first & 0x80 != 0;
    let opcode = OpCode::try_from(first & 0x0f).map_err(|_| Violation::ReservedOpcode)?;
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    let short = second & 0x7f;

    let limit = match opcode {
        OpCode::Close | OpCode::Ping | OpCode::Pong => {
            if !fin {
                return Err(Violation::FragmentedControl);
            }
            if short > 125 {
                return Err(Violation::LongControl);
            }
            125
        }
        OpCode::Text | OpCode::Binary if assembled.is_some() => {
            return Err(Violation::StartInsideMessage);
        }
        OpCode::Text | OpCode::Binary => max_message,
        OpCode::Continuation => {
            let assembled = assembled.ok_or(Violation::ContinuationWithoutStart)?;
            max_message.saturating_sub(assembled)
        }
    };

    let (extended, len) = match short {
        126 => {
            let Some(&length) = rest.first_chunk() else {
                return Ok(None);
            };
            let len = u64::from(u16::from_be_bytes(length));
            if len < 126 {
                return Err(Violation::NonMinimalLength);
            }
            (2, len)
        }
        127 => {
            let Some(&length) = rest.first_chunk() else {
                return Ok(None);
            };
            let len = u64::from_be_bytes(length);
            if len >> 63 != 0 {
                return Err(Violation::LengthTopBit);
            }
            if len <= u64::from(u16::MAX) {
                return Err(Violation::NonMinimalLength);
            }
            (8, len)
        }
        _ => (0, u64::from(short)),
    };
    let len = match usize::try_from(len) {
        Ok(len) if len <= limit => len,
        _ => return Err(Violation::TooLarge),
    };

    Ok(Some(Header { fin, opcode, head: 2 + extended + 4, len }))
}
