//! The task of one connection: it reads messages, runs handlers and writes their answers.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use strait_core::{Close, Conversation, Driven, Inbound};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::chatter::Chatter;
use crate::frame::{self, Decoder, Incoming};
use crate::peer::{Peer, flag, millis};
use crate::registry::Registered;

/// Bytes of one read, into a buffer that all connections of a thread share.
const CHUNK: usize = 32 * 1024;
/// After this many messages the task yields to other connections…
const MESSAGES_A_TURN: usize = 64;
/// …and this many bytes count as one message, even if they end none…
const BYTES_A_MESSAGE: usize = 512;
/// …or once this many bytes of replies wait to be written.
const REPLIES_A_TURN: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Any socket except a plain TCP one.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A socket after its handshake's answer.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Other(Box<dyn Stream>),
}

/// The connection reads from this socket. It also writes to it, unless publishers hold the writing half.
pub(crate) enum Socket {
    Tcp(OwnedReadHalf),
    Other(Box<dyn Stream>),
    /// Before the handshake's answer, or after the connection's end.
    Gone,
}

/// The state of the closing handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    /// Our close frame is queued; the node waits for the peer's answer, or its end.
    Closing,
    /// Both sides have sent a close frame, or the peer alone has: the node writes the outbox, then drops the socket.
    Leaving,
    Down,
}

/// One connection, until its channel has ended and its socket is gone.
pub(crate) struct Connection {
    socket: Socket,
    /// Bytes that followed the handshake's request.
    early: Box<[u8]>,
    peer: Arc<Peer>,
    decoder: Decoder,
    conversation: Conversation,
    chatter: Chatter,
    link: Link,
    /// The client broke the protocol: the node can no longer decode its answer to our close, only see its end.
    failed: bool,
    ended: bool,
    /// Counts the connection until this field is dropped.
    registered: Registered,
}

impl Connection {
    /// A connection before its handshake's answer.
    pub(crate) fn new(peer: Arc<Peer>, conversation: Conversation, max_message: usize, registered: Registered) -> Self {
        Self {
            socket: Socket::Gone,
            early: Box::default(),
            peer,
            decoder: Decoder::new(max_message),
            conversation,
            chatter: Chatter::default(),
            link: Link::Open,
            failed: false,
            ended: false,
            registered,
        }
    }

    /// The handshake is answered. `early` holds the bytes that followed its request.
    pub(crate) fn connect(&mut self, wire: Wire, early: &[u8]) {
        self.early = early.into();
        self.socket = match wire {
            Wire::Tcp(socket) => {
                let (read, write) = socket.into_split();
                self.peer.connect(write);
                Socket::Tcp(read)
            }
            Wire::Other(other) => Socket::Other(other),
        };
    }

    /// The answer to the handshake never reached the client: removes the stored channel.
    pub(crate) async fn abandon(self) {
        let Self { conversation, registered, .. } = self;
        conversation.abandon().await;
        drop(registered);
    }

    /// Runs `on_connect`. Call it once, before anything else.
    pub(crate) fn open(&mut self, cx: &mut Context<'_>) {
        self.peer.register(cx);
        self.conversation.opened(cx);
    }

    /// Ends a connection after a panic in its task: sends a close frame if possible, drops the socket, ends the
    /// channel.
    pub(crate) async fn fail(self, panic: Box<dyn Any + Send>) {
        let Self { mut socket, peer, conversation, link, registered, .. } = self;
        // The broken state may make this panic as well.
        let told = catch_unwind(AssertUnwindSafe(|| {
            if link == Link::Open {
                peer.close(frame::close(Some(1011), "something went wrong on the server"), Instant::now());
            }
            let other = match &mut socket {
                Socket::Other(stream) => Some(&mut **stream),
                Socket::Tcp(_) | Socket::Gone => None,
            };
            drop(peer.poll_write(other, &mut Context::from_waker(Waker::noop())));
        }));
        if told.is_err() {
            tracing::debug!("a client could not be told that its connection failed");
        }
        drop(socket);
        peer.disconnect();
        conversation.end_after_panic(panic).await;
        drop(registered);
    }

    fn look_at_flags(&mut self, cx: &mut Context<'_>) {
        let flags = self.peer.take_flags();
        if flags == 0 {
            return;
        }
        if flags & flag::PING != 0 {
            self.peer.control(&frame::ping());
        }
        if flags & flag::SILENT != 0 {
            self.conversation.silent(cx);
        }
        if flags & flag::MESSAGE_LATE != 0 {
            self.conversation.close(Close::policy("a message took too long"), cx);
        }
        if flags & flag::DRAIN != 0 {
            self.conversation.drain(Close::restart("the server restarts, connect again"));
        }
        if flags & flag::CLOSE_LATE != 0 {
            self.drop_socket(cx);
        }
        if flags & flag::STOP != 0 {
            self.drop_socket(cx);
            self.ended = true;
        }
    }

    /// Runs handlers and carries out closes until the conversation is pending.
    fn converse(&mut self, cx: &mut Context<'_>) {
        if self.link == Link::Open && self.peer.is_too_slow() {
            self.conversation.close(Close::policy("you read too slowly"), cx);
        }
        while !self.ended {
            match self.conversation.poll(cx) {
                Poll::Ready(Driven::Close(close)) if self.link == Link::Open => {
                    self.peer.close(frame::close(Some(close.code()), close.reason()), Instant::now());
                    self.link = Link::Closing;
                }
                Poll::Ready(Driven::Close(_)) => {}
                Poll::Ready(Driven::Done) => self.ended = true,
                Poll::Pending => return,
            }
        }
    }

    /// Whether the node reads now: the channel wants messages, or the node waits for the peer's close.
    fn wants_to_read(&self) -> bool {
        match self.link {
            Link::Open => self.conversation.reads() && !self.peer.is_full_with(self.peer.waiting()),
            Link::Closing => true,
            Link::Leaving | Link::Down => false,
        }
    }

    /// Reads and handles messages until the socket is empty, or other connections must get their turn.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut budget = MESSAGES_A_TURN;
        let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; CHUNK].into());
        let result = loop {
            if !self.wants_to_read() || self.chatter.poll_rest(cx).is_pending() {
                break Poll::Pending;
            }
            if budget == 0 {
                go_on_later(cx);
                break Poll::Pending;
            }
            if self.decoder.has_pending() {
                self.take(&[], &mut budget, cx);
                continue;
            }
            if !self.early.is_empty() {
                let early = std::mem::take(&mut self.early);
                self.take(&early, &mut budget, cx);
                continue;
            }
            match self.socket.poll_read(&mut scratch, cx) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => break Poll::Ready(()),
                Poll::Ready(Ok(read)) => self.take(&scratch[..read], &mut budget, cx),
            }
        };
        SCRATCH.set(Some(scratch));
        result
    }

    /// Decodes a chunk and hands its complete messages to the conversation.
    fn take(&mut self, chunk: &[u8], budget: &mut usize, cx: &mut Context<'_>) {
        let now = Instant::now();
        self.peer.seen(now);
        let Self { decoder, conversation, chatter, peer, link, .. } = self;
        if *link != Link::Open || self.failed {
            chatter.add_waste(chunk.len(), now);
        }
        let (mut close, mut ended_one) = (None, false);
        let result = decoder.decode(chunk, |incoming| {
            *budget = budget.saturating_sub(1);
            let mut message = None;
            // After our close frame only the peer's close frame matters.
            match incoming {
                Incoming::Close(given) => close = Some(given),
                _ if *link != Link::Open => {}
                Incoming::Ping(payload) => {
                    peer.control(&frame::pong(&payload));
                    chatter.add(now);
                }
                Incoming::Pong => chatter.add(now),
                Incoming::Fragment(length) => chatter.add_part(length, now),
                Incoming::Text(payload) => message = Some(Inbound::text(payload)),
                Incoming::Binary(payload) => message = Some(Inbound::binary(payload)),
            }
            if let Some(message) = message {
                ended_one = true;
                conversation.receive(message, now, cx);
                if conversation.is_limited(now) {
                    chatter.add(now);
                }
            }
            let waiting = peer.waiting();
            if waiting >= REPLIES_A_TURN {
                *budget = 0;
            }
            let is_open = *link == Link::Open;
            let no_more = is_open && (!conversation.reads() || peer.is_full_with(waiting));
            if *budget == 0 || chatter.is_too_much() || no_more {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        *budget = budget.saturating_sub(chunk.len() / BYTES_A_MESSAGE);
        // A complete message that waits for its turn is no longer under way.
        let under_way = decoder.is_within_message() || !(decoder.is_idle() || decoder.has_pending());
        let since = if under_way { millis(now) } else { 0 };
        if since == 0 || ended_one || peer.message_since.load(Ordering::Relaxed) == 0 {
            peer.message_since.store(since, Ordering::Relaxed);
        }
        if let Some(given) = close {
            self.closed_by_peer(given.as_ref().map(|(code, _)| *code), cx);
        } else if let Err(violation) = result {
            self.failed = true;
            let (code, reason) = violation.close();
            self.conversation.close(Close::new(code, reason).unwrap_or_else(|| Close::protocol(reason)), cx);
        }
        self.converse(cx);
    }

    fn closed_by_peer(&mut self, code: Option<u16>, cx: &mut Context<'_>) {
        if self.link == Link::Open {
            self.peer.close(frame::close(code, ""), Instant::now());
        }
        self.link = Link::Leaving;
        self.conversation.peer_closed(cx);
    }

    fn drop_socket(&mut self, cx: &mut Context<'_>) {
        if self.link != Link::Down {
            let was_open = self.link == Link::Open;
            self.link = Link::Down;
            self.socket = Socket::Gone;
            self.peer.disconnect();
            if was_open {
                self.conversation.lost(cx);
            }
        }
    }

    /// Writes the outbox; drops the socket once both sides are closed and the outbox is empty.
    fn write(&mut self, cx: &mut Context<'_>) {
        if self.link == Link::Down {
            return;
        }
        let other = match &mut self.socket {
            Socket::Other(stream) => Some(&mut **stream),
            Socket::Tcp(_) | Socket::Gone => None,
        };
        match self.peer.poll_write(other, cx) {
            Poll::Ready(Ok(())) if self.link == Link::Leaving => {
                // TLS sends its own end. The peer's close is already answered, so the node waits for nothing else.
                if let Socket::Other(stream) = &mut self.socket
                    && Pin::new(stream).poll_shutdown(cx).is_pending()
                {
                    return;
                }
                self.drop_socket(cx);
            }
            Poll::Ready(Ok(())) if self.link == Link::Closing && self.failed => {
                // RFC 6455 §7.1.7: after our close frame our side ends. The node reads and drops bytes until the
                // client's side ends too: a reset would make the client lose the close frame.
                match &mut self.socket {
                    Socket::Other(stream) => drop(Pin::new(stream).poll_shutdown(cx)),
                    Socket::Tcp(_) => self.peer.end_writing(),
                    Socket::Gone => {}
                }
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(_)) => self.drop_socket(cx),
        }
    }
}

/// Wakes the task after all other ready tasks, and after tasks with newly ready sockets. A plain wake-up
/// would starve them: the runtime polls the sockets only once in some sixty tasks.
fn go_on_later(cx: &mut Context<'_>) {
    // The first poll of `yield_now` is always pending, and leaves the waker with the runtime.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.peer.register(cx);
        this.look_at_flags(cx);
        this.converse(cx);
        if this.read(cx).is_ready() {
            this.drop_socket(cx);
            this.converse(cx);
        }
        this.peer.paused.store(this.link == Link::Open && !this.conversation.reads(), Ordering::Relaxed);
        let before = if this.link == Link::Open { this.peer.waiting() } else { 0 };
        this.write(cx);
        if this.peer.is_full_with(before) {
            let after = this.peer.waiting();
            if after < before {
                // The node does not read from this client now, so that progress here is its only sign of life.
                this.peer.seen_reading(Instant::now());
            }
            if !this.peer.is_full_with(after) {
                // There is room again: read on.
                go_on_later(cx);
            }
        }
        if this.link == Link::Down {
            this.converse(cx);
            if this.ended {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl Socket {
    fn poll_read(&mut self, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(scratch);
        match self {
            Self::Tcp(socket) => ready!(Pin::new(socket).poll_read(cx, &mut buffer))?,
            Self::Other(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buffer))?,
            Self::Gone => {}
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }
}
