use std::ops::ControlFlow;

use bytes::{Buf, BytesMut};
use fastwebsockets::OpCode;

use super::assembly::Assembly;
use super::guard::{self, MAX_HEADER};
use super::incoming::Incoming;
use super::pieces::Pieces;
use super::violation::Violation;

/// Decodes a client's bytes. It does no I/O, and needs no heap between messages.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The beginning of a frame; after a break, all bytes that are not decoded yet.
    carry: BytesMut,
    assembly: Option<Box<Assembly>>,
    max_message: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All complete frames are decoded.
    Drained,
    /// `take` has broken off.
    Stopped,
    /// A close frame or a violation has ended the stream.
    Ended,
}

impl Decoder {
    /// `max_message` limits the payload of a message in bytes, all fragments together.
    pub(crate) fn new(max_message: usize) -> Self {
        Self { carry: BytesMut::new(), assembly: None, max_message, phase: Phase::Drained }
    }

    /// Decodes the complete frames and hands them to `take`, in order.
    ///
    /// When `take` breaks, the rest is copied and kept; `decode(&[], …)` goes on from there. After a close frame or a
    /// violation the decoder drops all further bytes.
    ///
    /// # Errors
    ///
    /// The client's violation. All messages before it have been handed over.
    pub(crate) fn decode(
        &mut self,
        chunk: &[u8],
        take: impl FnMut(Incoming) -> ControlFlow<()>,
    ) -> Result<(), Violation> {
        if self.phase == Phase::Ended {
            return Ok(());
        }
        let mut consumed = 0;
        let bytes = Pieces { carry: &self.carry, chunk };
        let result = run(bytes, &mut consumed, &mut self.assembly, self.max_message, take);
        self.phase = *result.as_ref().unwrap_or(&Phase::Ended);
        match self.phase {
            Phase::Drained => self.keep_partial(consumed, chunk),
            Phase::Stopped => self.keep_rest(consumed, chunk),
            Phase::Ended => {
                self.carry = BytesMut::new();
                self.assembly = None;
            }
        }
        result.map(drop)
    }

    /// Whether the decoder is between two messages and holds no byte of the next one.
    pub(crate) fn is_idle(&self) -> bool {
        self.carry.is_empty() && self.assembly.is_none()
    }

    /// Whether a fragmented message has begun and not ended.
    pub(crate) fn is_within_message(&self) -> bool {
        self.assembly.is_some()
    }

    /// Whether `take` has broken off and bytes are left.
    pub(crate) fn has_pending(&self) -> bool {
        self.phase == Phase::Stopped && !self.carry.is_empty()
    }

    /// Bytes of heap for unfinished messages.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let assembly = self.assembly.as_ref().map_or(0, |assembly| size_of::<Assembly>() + assembly.capacity());
        self.carry.capacity() + assembly
    }

    /// Keeps the beginning of a frame. If frames went before it, it gets an allocation of its exact size: the client
    /// decides how long it stays.
    fn keep_partial(&mut self, consumed: usize, chunk: &[u8]) {
        if consumed == 0 {
            self.carry.extend_from_slice(chunk);
        } else if let Some(chunk) = consumed.checked_sub(self.carry.len()).map(|skipped| &chunk[skipped..]) {
            self.carry = BytesMut::from(chunk);
        } else {
            let mut carry = BytesMut::with_capacity(self.carry.len() - consumed + chunk.len());
            carry.extend_from_slice(&self.carry[consumed..]);
            carry.extend_from_slice(chunk);
            self.carry = carry;
        }
    }

    /// Keeps the bytes that are not decoded, in place where possible: `take` may want one message at a time.
    fn keep_rest(&mut self, consumed: usize, chunk: &[u8]) {
        if let Some(skipped) = consumed.checked_sub(self.carry.len()) {
            self.carry = BytesMut::from(&chunk[skipped..]);
        } else {
            self.carry.advance(consumed);
            self.carry.extend_from_slice(chunk);
        }
    }
}

/// Counts the bytes of decoded frames in `consumed`.
fn run(
    bytes: Pieces<'_>,
    consumed: &mut usize,
    assembly: &mut Option<Box<Assembly>>,
    max_message: usize,
    mut take: impl FnMut(Incoming) -> ControlFlow<()>,
) -> Result<Phase, Violation> {
    loop {
        let mut scratch = [0; MAX_HEADER];
        let front = bytes.peek(*consumed, &mut scratch);
        let header = guard::check(front, assembly.as_ref().map(|a| a.len()), max_message)?;
        let Some(header) = header.filter(|header| header.frame_len() <= bytes.len() - *consumed) else {
            return Ok(Phase::Drained);
        };
        let mask = front[..header.head].last_chunk().expect("a header ends with the mask, and the frame is whole");
        let payload = bytes.payload(*consumed, &header, *mask);
        *consumed += header.frame_len();

        let incoming = match header.opcode {
            OpCode::Text if header.fin => Incoming::Text(payload.text()?),
            OpCode::Binary if header.fin => Incoming::Binary(payload.unmasked()),
            OpCode::Text | OpCode::Binary => {
                assembly.insert(Box::new(Assembly::new(header.opcode == OpCode::Text))).push(&payload)?;
                Incoming::Fragment(header.len)
            }
            OpCode::Continuation => {
                let mut message = assembly.take().ok_or(Violation::ContinuationWithoutStart)?;
                message.push(&payload)?;
                if header.fin {
                    message.finish()?
                } else {
                    *assembly = Some(message);
                    Incoming::Fragment(header.len)
                }
            }
            OpCode::Ping => Incoming::Ping(payload.unmasked()),
            OpCode::Pong => Incoming::Pong,
            OpCode::Close => {
                let close = close(&payload.unmasked())?;
                // The stream ends here, so a break of `take` changes nothing.
                let _ = take(Incoming::Close(close));
                return Ok(Phase::Ended);
            }
        };
        if take(incoming).is_break() {
            return Ok(Phase::Stopped);
        }
    }
}

/// Checks the payload of a close frame (RFC 6455 §5.5.1, §7.4).
fn close(payload: &[u8]) -> Result<Option<(u16, String)>, Violation> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::ClosePayload) };
    };
    let code = u16::from_be_bytes(code);
    // 1004–1006 and 1015 are never sent; 1012–1014 came into the IANA registry after the RFC.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    Ok(Some((code, reason.to_owned())))
}
