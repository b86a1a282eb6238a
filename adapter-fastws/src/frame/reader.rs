use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use fastwebsockets::{Payload, Role, WebSocketError, WebSocketRead, after_handshake_split};
use tokio::io::{AsyncRead, ReadBuf};

use super::guard::Header;
use super::violation::Violation;

/// Bytes that lie in two pieces: what an earlier chunk left over, and the chunk.
#[derive(Clone, Copy)]
pub(super) struct Pieces<'a> {
    pub(super) carry: &'a [u8],
    pub(super) chunk: &'a [u8],
}

impl Pieces<'_> {
    pub(super) fn len(&self) -> usize {
        self.carry.len() + self.chunk.len()
    }
}

/// Never pending, as all that will ever come is there.
impl AsyncRead for Pieces<'_> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { carry, chunk } = self.get_mut();
        for piece in [carry, chunk] {
            let (now, later) = piece.split_at(piece.len().min(buf.remaining()));
            buf.put_slice(now);
            *piece = later;
        }
        Poll::Ready(Ok(()))
    }
}

/// fastwebsockets over bytes in memory. It reads ahead of the frame that is asked for; what it read and did not parse goes with it
/// when it is dropped, so the caller keeps its own account of what is consumed.
pub(super) struct Reader<'a>(WebSocketRead<Pieces<'a>>);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: Pieces<'a>) -> Self {
        let (mut reader, _) = after_handshake_split(bytes, tokio::io::sink(), Role::Server);
        reader.set_auto_close(false);
        reader.set_auto_pong(false);
        // The guard has checked the length, and the parser's own limit refuses a message of exactly that size.
        reader.set_max_message_size(usize::MAX);
        Self(reader)
    }

    /// The unmasked payload of the next frame, which must be whole and be the one that `header` was read from. The parser has
    /// checked the UTF-8 of an unfragmented text.
    #[inline]
    pub(super) fn read(&mut self, header: &Header) -> Result<BytesMut, Violation> {
        let mut nothing_to_send = |_| ready(Ok::<(), Infallible>(()));
        let frame = pin!(self.0.read_frame(&mut nothing_to_send));
        let frame = match frame.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(frame)) => frame,
            Poll::Ready(Err(WebSocketError::InvalidUTF8)) => return Err(Violation::Utf8),
            Poll::Ready(Err(_)) | Poll::Pending => return Err(Violation::Parser),
        };
        if (frame.fin, frame.opcode, frame.payload.len()) != (header.fin, header.opcode, header.len) {
            return Err(Violation::Parser);
        }
        Ok(match frame.payload {
            Payload::Bytes(payload) => payload,
            other => BytesMut::from(&other[..]),
        })
    }
}
