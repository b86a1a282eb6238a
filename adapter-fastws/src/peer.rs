//! A connection as the rest of the node sees it: its outbox, and the flags that its task looks at when it is woken.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use strait_core::{Frame, FrameKind, Limits, Outlet, Topic};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

use crate::outbox::{Outbox, Policy, SLICES};

/// What the sweeper asks of a connection's task.
pub(crate) mod flag {
    /// Send a ping.
    pub(crate) const PING: u8 = 1;
    /// Nothing has come for too long.
    pub(crate) const SILENT: u8 = 2;
    /// The closing handshake has taken too long.
    pub(crate) const CLOSE_LATE: u8 = 4;
    /// A message has been under way for too long.
    pub(crate) const MESSAGE_LATE: u8 = 8;
    /// The node drains.
    pub(crate) const DRAIN: u8 = 16;
    /// The node ends.
    pub(crate) const STOP: u8 = 32;
}

/// Milliseconds since the process looked at the clock for the first time.
pub(crate) fn millis(at: Instant) -> u64 {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let origin = *ORIGIN.get_or_init(Instant::now);
    // 1 is the earliest, so that 0 can say never.
    u64::try_from(at.saturating_duration_since(origin).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// See the [module's documentation](self).
pub(crate) struct Peer {
    out: Mutex<Out>,
    waker: AtomicWaker,
    flags: AtomicU8,
    /// The number of the handler that runs; 0 while none does.
    handling: AtomicU32,
    holding: AtomicBool,
    /// When the last bytes came.
    seen: AtomicU64,
    pinged: AtomicU64,
    /// When the first bytes of an unfinished message came; 0 between messages.
    pub(crate) message_since: AtomicU64,
    /// When our close frame was queued; 0 before.
    pub(crate) closing_since: AtomicU64,
    /// No message is wanted for now, so that silence means nothing.
    pub(crate) paused: AtomicBool,
    times: Times,
    policy: Policy,
}

#[derive(Debug)]
struct Out {
    outbox: Outbox,
    /// The socket's writing half, where publishers may write to it.
    socket: Option<OwnedWriteHalf>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    ping: Duration,
    silent: Duration,
    closing: Duration,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

impl Peer {
    pub(crate) fn new(limits: &Limits, gaps: strait_core::Gaps) -> Self {
        Self {
            out: Mutex::new(Out { outbox: Outbox::new(), socket: None }),
            waker: AtomicWaker::new(),
            flags: AtomicU8::new(0),
            handling: AtomicU32::new(0),
            holding: AtomicBool::new(false),
            seen: AtomicU64::new(millis(Instant::now())),
            pinged: AtomicU64::new(0),
            message_since: AtomicU64::new(0),
            closing_since: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            times: Times { ping: limits.ping, silent: limits.silent, closing: limits.closing },
            policy: Policy { limit: limits.queue, slow: limits.slow_client, gaps },
        }
    }

    /// How finely the sweeper must look at this connection.
    pub(crate) fn tick(&self) -> Duration {
        self.times.ping.min(self.times.silent).min(self.times.closing) / 4
    }

    /// From here on publishers write to the socket themselves where it takes what they have.
    pub(crate) fn connect(&self, socket: OwnedWriteHalf) {
        self.out.lock().socket = Some(socket);
    }

    /// Nothing is written any more: the client sees the end of what we send.
    pub(crate) fn end_writing(&self) {
        self.out.lock().socket = None;
    }

    /// The socket is gone.
    pub(crate) fn disconnect(&self) {
        let mut out = self.out.lock();
        out.socket = None;
        out.outbox.discard();
    }

    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Sets flags and wakes the task.
    pub(crate) fn flag(&self, flags: u8) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
        self.waker.wake();
    }

    pub(crate) fn take_flags(&self) -> u8 {
        if self.flags.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.flags.swap(0, Ordering::AcqRel)
    }

    pub(crate) fn seen(&self, now: Instant) {
        self.seen.store(millis(now), Ordering::Relaxed);
    }

    /// The client reads, while nothing is read from it: its own message cannot go on meanwhile.
    pub(crate) fn seen_reading(&self, now: Instant) {
        self.seen_at(millis(now));
    }

    fn seen_at(&self, now: u64) {
        self.seen.store(now, Ordering::Relaxed);
        if self.message_since.load(Ordering::Relaxed) != 0 {
            self.message_since.store(now, Ordering::Relaxed);
        }
    }

    /// What the sweeper finds at `now`.
    pub(crate) fn sweep(&self, now: u64) {
        let passed = |since: u64, limit: Duration| now.saturating_sub(since) >= limit.as_millis() as u64;
        let closing = self.closing_since.load(Ordering::Relaxed);
        if closing != 0 {
            if passed(closing, self.times.closing) {
                self.flag(flag::CLOSE_LATE);
            }
            return;
        }
        if self.paused.load(Ordering::Relaxed) {
            return self.seen_at(now);
        }
        let message = self.message_since.load(Ordering::Relaxed);
        if message != 0 && passed(message, self.times.silent) {
            return self.flag(flag::MESSAGE_LATE);
        }
        let seen = self.seen.load(Ordering::Relaxed);
        if passed(seen, self.times.silent) {
            self.flag(flag::SILENT);
        } else if passed(seen.max(self.pinged.load(Ordering::Relaxed)), self.times.ping) {
            self.pinged.store(now, Ordering::Relaxed);
            self.flag(flag::PING);
        }
    }

    pub(crate) fn control(&self, frame: &Bytes) {
        self.out.lock().outbox.control(frame);
    }

    /// Queues the close frame; nothing follows it.
    pub(crate) fn close(&self, frame: &Bytes, now: Instant) {
        self.out.lock().outbox.close(frame);
        self.closing_since.store(millis(now), Ordering::Relaxed);
    }

    /// How much waits, in bytes.
    pub(crate) fn waiting(&self) -> usize {
        self.out.lock().outbox.waiting()
    }

    /// Whether this is as much as may wait: then the client is not read from.
    pub(crate) fn is_full_with(&self, waiting: usize) -> bool {
        waiting >= self.policy.limit
    }

    /// Whether more waits than may, and no policy helps.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.out.lock().outbox.is_too_slow()
    }

    /// Writes what waits, until all is written or the socket takes no more. `other` is the socket where publishers
    /// cannot write to it.
    pub(crate) fn poll_write<S>(&self, mut other: Option<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin + ?Sized,
    {
        let mut out = self.out.lock();
        let Out { outbox, socket } = &mut *out;
        while !outbox.is_empty() {
            let mut blocked = false;
            let written = outbox.write(|slices| {
                let polled = match (&mut other, &mut *socket) {
                    (Some(other), _) => Pin::new(&mut **other).poll_write_vectored(cx, slices),
                    // Tried without tokio's budget first: that this is used up does not make the socket full.
                    (None, Some(socket)) => match socket.try_write_vectored(slices) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            Pin::new(socket).poll_write_vectored(cx, slices)
                        }
                        result => Poll::Ready(result),
                    },
                    (None, None) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
                };
                match polled {
                    Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(result) => result,
                    Poll::Pending => {
                        blocked = true;
                        Ok(0)
                    }
                }
            });
            if let Err(error) = written {
                return Poll::Ready(Err(error));
            }
            outbox.blocked = blocked;
            if blocked {
                return Poll::Pending;
            }
        }
        outbox.shrink();
        match other {
            Some(other) => Pin::new(other).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Pushes events and, where the socket takes them, writes them at once.
    fn push(&self, topic: &Topic, frames: &[Frame], turn: Option<u32>) {
        if turn.is_some() {
            // Set before `handling` is read: either the handler's end sees this, or this sees the handler's end.
            self.holding.store(true, Ordering::SeqCst);
        }
        let mut out = self.out.lock();
        let Out { outbox, socket } = &mut *out;
        if outbox.holds() || turn.is_some_and(|turn| self.handling.load(Ordering::SeqCst) == turn) {
            frames.iter().for_each(|frame| outbox.hold(topic, frame, &self.policy));
            return;
        }
        for frames in frames.chunks(SLICES) {
            match socket {
                Some(socket) if outbox.is_empty() && !outbox.blocked => {
                    outbox.write_through(topic, frames, &self.policy, |slices| socket.try_write_vectored(slices));
                }
                _ => frames.iter().for_each(|frame| outbox.event(topic, frame.bytes(), &self.policy)),
            }
        }
        let wake = !outbox.is_empty() || outbox.is_too_slow();
        drop(out);
        if wake {
            self.waker.wake();
        }
    }
}

impl Outlet for Peer {
    fn handler_begins(&self, turn: u32) {
        self.handling.store(turn, Ordering::SeqCst);
    }

    fn handler_ended(&self) {
        self.handling.store(0, Ordering::SeqCst);
        if self.holding.swap(false, Ordering::SeqCst) {
            self.out.lock().outbox.release(&self.policy);
            self.waker.wake();
        }
    }

    fn reply(&self, kind: FrameKind, parts: &[&[u8]]) {
        self.out.lock().outbox.reply(kind, parts);
    }

    fn send(&self, frame: &Frame) {
        let mut out = self.out.lock();
        let Out { outbox, socket } = &mut *out;
        outbox.send(frame.bytes().clone(), &self.policy);
        if let Some(socket) = socket
            && !outbox.blocked
            && self.is_full_with(outbox.waiting())
        {
            // Whoever sends much at once must not be the reason why a client that reads is taken for a slow one.
            outbox.write_out(|slices| socket.try_write_vectored(slices));
        }
        drop(out);
        self.waker.wake();
    }

    fn events(&self, topic: &Topic, frames: &[Frame], turn: Option<u32>) {
        self.push(topic, frames, turn);
    }

    fn gap(&self, topic: &Topic) {
        self.out.lock().outbox.gap(topic, &self.policy);
        self.waker.wake();
    }

    fn wake(&self) {
        self.waker.wake();
    }
}
