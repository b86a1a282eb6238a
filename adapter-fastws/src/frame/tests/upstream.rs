//! The known defects of fastwebsockets 0.10; none may pass through the decoder. Each test also shows the defect itself:
//! after an upgrade, the failing tests name the checks that are no longer needed.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Role, WebSocketError, WebSocketRead, after_handshake_split,
};
use tokio::io::{AsyncRead, ReadBuf};

use super::client::{BINARY, CLOSE, CONTINUATION, FIN, Form, PONG, TEXT, frame, frame_as, header, unmasked};
use super::{Decoder, End, LIMIT, Violation, check_within, drive, refuse, text};

/// A socket that gives one chunk a read, and is pending between the chunks and after the last.
struct Socket<'a> {
    chunks: Vec<&'a [u8]>,
    ready: bool,
    /// The most bytes that a read has offered room for.
    room: &'a Cell<usize>,
}

impl AsyncRead for Socket<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.room.set(self.room.get().max(buf.remaining()));
        self.ready = !self.ready;
        if !self.ready || self.chunks.is_empty() {
            return Poll::Pending;
        }
        buf.put_slice(self.chunks.remove(0));
        Poll::Ready(Ok(()))
    }
}

fn bare<'a>(chunks: &[&'a [u8]], room: &'a Cell<usize>) -> WebSocketRead<Socket<'a>> {
    let socket = Socket { chunks: chunks.to_vec(), ready: false, room };
    let (mut reader, _) = after_handshake_split(socket, tokio::io::sink(), Role::Server);
    reader.set_auto_close(false);
    reader.set_auto_pong(false);
    reader
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

type Read = Result<(OpCode, Vec<u8>), WebSocketError>;

fn owned(read: Poll<Result<Frame<'_>, WebSocketError>>) -> Poll<Read> {
    read.map_ok(|frame| (frame.opcode, frame.payload.to_vec()))
}

/// The next frame; the future is dropped if it is not there yet.
fn next(reader: &mut WebSocketRead<Socket<'_>>) -> Poll<Read> {
    owned(poll(reader.read_frame(&mut |_| ready(Ok::<(), Infallible>(())))))
}

/// The next message, assembled by fastwebsockets with its own limit.
fn assembled(limit: usize, bytes: &[u8]) -> Poll<Read> {
    let room = Cell::new(0);
    let mut reader = bare(&[bytes], &room);
    reader.set_max_message_size(limit);
    let mut reader = FragmentCollectorRead::new(reader);
    owned(poll(reader.read_frame(&mut |_| ready(Ok::<(), Infallible>(())))))
}

#[track_caller]
fn upstream_accepts(bytes: &[u8], opcode: OpCode, payload: &[u8]) {
    let read = assembled(LIMIT, bytes);
    let accepted = matches!(&read, Poll::Ready(Ok(read)) if read.0 == opcode && read.1 == payload);
    assert!(accepted, "fastwebsockets no longer has this defect: {read:?}");
}

#[test]
fn the_size_limit_is_on_the_message_and_not_on_each_frame() {
    let bytes = [frame(BINARY, [1; 10]), frame(FIN | CONTINUATION, [1; 10])].concat();
    let read = assembled(16, &bytes);
    assert!(matches!(&read, Poll::Ready(Ok((_, payload))) if payload.len() == 20), "upstream: {read:?}");
    check_within(16, &bytes, &[], End::Failed(Violation::TooLarge));
}

#[test]
fn a_frame_cut_anywhere_is_not_lost() {
    let message = "x".repeat(200);
    let bytes = frame(FIN | TEXT, &message);

    // Three bytes end inside the length: the parser has dropped two of them when its future is dropped.
    let (front, back) = bytes.split_at(3);
    let room = Cell::new(0);
    let mut reader = bare(&[front, back], &room);
    assert!(next(&mut reader).is_pending());
    let read = next(&mut reader);
    assert!(!matches!(&read, Poll::Ready(Ok((_, payload))) if payload == message.as_bytes()), "upstream: {read:?}");

    for cut in 0..=bytes.len() {
        let (front, back) = bytes.split_at(cut);
        assert_eq!(drive(LIMIT, [front, back], || false), (vec![text(&message)], End::Idle), "cut at {cut}");
    }
}

#[test]
fn unmasked_client_frames_are_refused() {
    upstream_accepts(&unmasked(FIN | TEXT, b"x"), OpCode::Text, b"x");
    for first in [FIN | TEXT, FIN | BINARY, TEXT, FIN | CLOSE, FIN | PONG] {
        refuse(&unmasked(first, b""), Violation::Unmasked);
        refuse(&unmasked(first, b"xyz"), Violation::Unmasked);
    }
}

#[test]
fn a_second_fragmented_start_does_not_discard_the_first() {
    let bytes = [frame(TEXT, "a"), frame(TEXT, "b"), frame(FIN | CONTINUATION, "c")].concat();
    upstream_accepts(&bytes, OpCode::Text, b"bc");
    refuse(&bytes, Violation::StartInsideMessage);
}

#[test]
fn truncated_utf8_at_the_end_of_a_fragmented_message_is_refused() {
    let bytes = [frame(TEXT, "a"), frame(FIN | CONTINUATION, b"b\xe2\x82")].concat();
    upstream_accepts(&bytes, OpCode::Text, b"ab");
    refuse(&bytes, Violation::Utf8);
}

#[test]
fn close_and_pong_over_125_bytes_are_refused() {
    let mut payload = 1000u16.to_be_bytes().to_vec();
    payload.resize(126, b'x');
    for (first, opcode) in [(FIN | CLOSE, OpCode::Close), (FIN | PONG, OpCode::Pong)] {
        let bytes = frame(first, &payload);
        upstream_accepts(&bytes, opcode, &payload);
        refuse(&bytes, Violation::LongControl);
    }
}

#[test]
fn a_declared_length_reserves_nothing() {
    const DECLARED: usize = 60 << 20;
    let mut bytes = header(FIN | BINARY, true, Form::SixtyFour, DECLARED as u64);
    bytes.extend([1, 2, 3, 4]);
    assert_eq!(bytes.len(), 14);

    let room = Cell::new(0);
    let mut reader = bare(&[&bytes], &room);
    assert!(next(&mut reader).is_pending());
    assert!(room.get() >= DECLARED, "fastwebsockets no longer has this defect: room for {} bytes", room.get());

    let mut decoder = Decoder::new(2 * DECLARED);
    decoder.decode(&bytes, |incoming| panic!("{incoming:?} came from nothing")).unwrap();
    assert!(!decoder.is_idle());
    assert!(decoder.held() <= 64, "{} bytes", decoder.held());
}

#[test]
fn non_minimal_lengths_are_refused() {
    for (form, len) in [(Form::Sixteen, 0), (Form::Sixteen, 125), (Form::SixtyFour, 3), (Form::SixtyFour, 1000)] {
        let payload = vec![b'x'; len];
        let bytes = frame_as(form, FIN | TEXT, &payload);
        upstream_accepts(&bytes, OpCode::Text, &payload);
        refuse(&bytes, Violation::NonMinimalLength);
    }
    refuse(&header(FIN | TEXT, true, Form::SixtyFour, 0xffff), Violation::NonMinimalLength);
}

#[test]
fn a_message_of_the_limit_is_not_too_large() {
    let bytes = frame(FIN | TEXT, "12345");
    let read = assembled(5, &bytes);
    assert!(matches!(read, Poll::Ready(Err(WebSocketError::FrameTooLarge))), "upstream: {read:?}");
    check_within(5, &bytes, &[text("12345")], End::Idle);
}
