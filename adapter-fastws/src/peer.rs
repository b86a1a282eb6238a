//! The shared part of a connection: its outbox, and flags for its task.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use strait_core::{Frame, FrameKind, Limits, Outlet, Topic};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

use crate::outbox::{Outbox, Policy, SLICES};

/// The sweeper's requests to a connection's task.
pub(crate) mod flag {
    /// Send a ping.
    pub(crate) const PING: u8 = 1;
    /// The client has been silent for too long.
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

/// Milliseconds since the process first read the clock.
pub(crate) fn millis(at: Instant) -> u64 {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let origin = *ORIGIN.get_or_init(Instant::now);
    // Not `as_millis`: its 128-bit division would cost every message.
    let passed = at.saturating_duration_since(origin);
    // Never 0: 0 stands for "never".
    passed.as_secs() * 1_000 + u64::from(passed.subsec_millis()) + 1
}

/// A bit beside the number of a running handler: the outbox holds back events that the handler published.
const HOLDING: u64 = 1 << 32;

/// See the [module's documentation](self).
pub(crate) struct Peer {
    out: Mutex<Out>,
    waker: AtomicWaker,
    flags: AtomicU8,
    /// The number of the running handler, or 0, and the bit [`HOLDING`].
    handling: AtomicU64,
    /// The outbox's size, and whether it is too large. Atomics: the task reads them after each message, without the
    /// lock.
    waiting: AtomicUsize,
    too_slow: AtomicBool,
    /// The time of the last bytes from the client.
    seen: AtomicU64,
    pinged: AtomicU64,
    /// The time of the first bytes of an unfinished message; 0 between messages.
    pub(crate) message_since: AtomicU64,
    /// The time at which our close frame was queued; 0 before.
    pub(crate) closing_since: AtomicU64,
    /// The node does not read from the client now, so that silence means nothing.
    pub(crate) paused: AtomicBool,
    times: Times,
    policy: Policy,
}

#[derive(Debug)]
struct Out {
    outbox: Outbox,
    /// The socket's writing half, if publishers may write to it.
    socket: Option<OwnedWriteHalf>,
}

/// The locked outbox; the unlock updates the peer's atomics.
struct Locked<'a> {
    out: MutexGuard<'a, Out>,
    peer: &'a Peer,
}

impl Deref for Locked<'_> {
    type Target = Out;

    fn deref(&self) -> &Out {
        &self.out
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Out {
        &mut self.out
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // The guard is dropped after these stores, so that their order is that of the locks.
        self.peer.waiting.store(self.out.outbox.waiting(), Ordering::Relaxed);
        self.peer.too_slow.store(self.out.outbox.is_too_slow(), Ordering::Relaxed);
    }
}

/// Time limits in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    ping: u32,
    silent: u32,
    closing: u32,
}

impl Times {
    fn of(limits: &Limits) -> Self {
        // A `u32` holds seven weeks; its maximum stands for "never".
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Self { ping: millis(limits.ping), silent: millis(limits.silent), closing: millis(limits.closing) }
    }
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
            handling: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            too_slow: AtomicBool::new(false),
            seen: AtomicU64::new(millis(Instant::now())),
            pinged: AtomicU64::new(0),
            message_since: AtomicU64::new(0),
            closing_since: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            times: Times::of(limits),
            policy: Policy { limit: limits.queue, slow: limits.slow_client, gaps },
        }
    }

    fn lock(&self) -> Locked<'_> {
        Locked { out: self.out.lock(), peer: self }
    }

    /// The interval at which the sweeper must visit this connection.
    pub(crate) fn tick(&self) -> Duration {
        let Times { ping, silent, closing } = self.times;
        Duration::from_millis(ping.min(silent).min(closing).into()) / 4
    }

    /// From now on publishers write to the socket themselves, as far as it takes their events.
    pub(crate) fn connect(&self, socket: OwnedWriteHalf) {
        self.lock().socket = Some(socket);
    }

    /// Ends our side: the client sees the end of the stream.
    pub(crate) fn end_writing(&self) {
        self.lock().socket = None;
    }

    /// The socket is gone: drops the writing half and the outbox.
    pub(crate) fn disconnect(&self) {
        let mut out = self.lock();
        // The reading half is gone too, which closes the socket: a shutdown of this half would waste a system call.
        if let Some(socket) = out.socket.take() {
            socket.forget();
        }
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

    /// The client reads while the node reads nothing from it: its unfinished message gets more time.
    pub(crate) fn seen_reading(&self, now: Instant) {
        self.seen_at(millis(now));
    }

    fn seen_at(&self, now: u64) {
        self.seen.store(now, Ordering::Relaxed);
        if self.message_since.load(Ordering::Relaxed) != 0 {
            self.message_since.store(now, Ordering::Relaxed);
        }
    }

    /// Checks the time limits at `now`; returns whether one has passed and the task was woken.
    pub(crate) fn sweep(&self, now: u64) -> bool {
        let found = self.due(now);
        found.into_iter().for_each(|flags| self.flag(flags));
        found.is_some()
    }

    fn due(&self, now: u64) -> Option<u8> {
        let passed = |since: u64, limit: u32| limit != u32::MAX && now.saturating_sub(since) >= limit.into();
        let closing = self.closing_since.load(Ordering::Relaxed);
        if closing != 0 {
            return passed(closing, self.times.closing).then_some(flag::CLOSE_LATE);
        }
        if self.paused.load(Ordering::Relaxed) {
            self.seen_at(now);
            return None;
        }
        let message = self.message_since.load(Ordering::Relaxed);
        if message != 0 && passed(message, self.times.silent) {
            return Some(flag::MESSAGE_LATE);
        }
        let seen = self.seen.load(Ordering::Relaxed);
        if passed(seen, self.times.silent) {
            return Some(flag::SILENT);
        }
        let ping = passed(seen.max(self.pinged.load(Ordering::Relaxed)), self.times.ping);
        if ping {
            self.pinged.store(now, Ordering::Relaxed);
        }
        ping.then_some(flag::PING)
    }

    pub(crate) fn control(&self, frame: &Bytes) {
        self.lock().outbox.control(frame);
    }

    /// Queues the close frame; nothing follows it.
    pub(crate) fn close(&self, frame: Bytes, now: Instant) {
        self.lock().outbox.close(frame);
        self.closing_since.store(millis(now), Ordering::Relaxed);
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether this many bytes reach the limit: the node then stops reading from the client.
    pub(crate) fn is_full_with(&self, waiting: usize) -> bool {
        waiting >= self.policy.limit
    }

    /// Whether the outbox is over its limit and the policy allows no drop.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.too_slow.load(Ordering::Relaxed)
    }

    /// Writes the outbox until it is empty or the socket takes no more. `other` is a socket that publishers cannot
    /// write to.
    pub(crate) fn poll_write<S>(&self, mut other: Option<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin + ?Sized,
    {
        let mut out = self.lock();
        let Out { outbox, socket } = &mut *out;
        while !outbox.is_empty() {
            let mut blocked = false;
            let written = outbox.write(|slices| {
                let polled = match (&mut other, &mut *socket) {
                    (Some(other), _) => Pin::new(&mut **other).poll_write_vectored(cx, slices),
                    // Try without tokio's budget first: a used-up budget does not make the socket full.
                    (None, Some(socket)) => match try_write(socket, slices) {
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

    /// Whether handler `turn` still runs, so that its events are held back; its end will then release them.
    fn holds_for(&self, turn: u32) -> bool {
        let running = u64::from(turn);
        let note = || self.handling.compare_exchange(running, running | HOLDING, Ordering::AcqRel, Ordering::Acquire);
        turn != 0 && note().unwrap_or_else(|found| found & !HOLDING) == running
    }

    /// Queues events or, if the socket takes them, writes them at once.
    fn push(&self, topic: &Topic, frames: &[Frame], turn: Option<u32>) {
        let mut out = self.lock();
        let Out { outbox, socket } = &mut *out;
        if outbox.holds() || turn.is_some_and(|turn| self.holds_for(turn)) {
            // `hold` releases the events once they exceed the limit.
            frames.iter().for_each(|frame| outbox.hold(topic, frame, &self.policy));
        } else {
            for frames in frames.chunks(SLICES) {
                match socket {
                    Some(socket) if outbox.is_empty() && !outbox.blocked => {
                        outbox.write_through(topic, frames, &self.policy, |slices| try_write(socket, slices));
                    }
                    _ => frames.iter().for_each(|frame| outbox.event(topic, frame.bytes(), &self.policy)),
                }
            }
        }
        let wake = !outbox.is_empty() || outbox.is_too_slow();
        drop(out);
        if wake {
            self.waker.wake();
        }
    }
}

/// Writes the bytes that the socket takes now. A single slice has a faster system call.
fn try_write(socket: &OwnedWriteHalf, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [one] => socket.try_write(one),
        many => socket.try_write_vectored(many),
    }
}

impl Outlet for Peer {
    fn handler_begins(&self, turn: u32) {
        self.handling.store(turn.into(), Ordering::Release);
    }

    fn handler_ended(&self) {
        if self.handling.swap(0, Ordering::AcqRel) & HOLDING != 0 {
            self.lock().outbox.release(&self.policy);
            self.waker.wake();
        }
    }

    fn reply(&self, kind: FrameKind, parts: &[&[u8]]) {
        self.lock().outbox.reply(kind, parts);
    }

    fn send(&self, frame: &Frame) {
        let mut out = self.lock();
        let Out { outbox, socket } = &mut *out;
        outbox.send(frame.bytes().clone(), &self.policy);
        if let Some(socket) = socket
            && !outbox.blocked
            && self.is_full_with(outbox.waiting())
        {
            // A large burst of sends must not make a client that reads look slow.
            outbox.write_out(|slices| try_write(socket, slices));
        }
        drop(out);
        self.waker.wake();
    }

    fn events(&self, topic: &Topic, frames: &[Frame], turn: Option<u32>) {
        self.push(topic, frames, turn);
    }

    fn gap(&self, topic: &Topic) {
        let mut out = self.lock();
        if out.outbox.holds() {
            return out.outbox.hold_gap(topic);
        }
        out.outbox.gap(topic, &self.policy);
        drop(out);
        self.waker.wake();
    }

    fn wake(&self) {
        self.waker.wake();
    }
}
