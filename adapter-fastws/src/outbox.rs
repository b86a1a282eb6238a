//! The frames that wait to be written to one client: bounded in bytes, written many at a time.

mod queue;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use strait_core::{Frame, FrameKind, Gaps, SlowClient, Topic, frame_header};

use queue::{Kind, LEAST, Queue};

/// The slices of one vectored write.
pub(crate) const SLICES: usize = 64;
/// Until the socket refuses bytes, a burst may be this many times the limit.
const BURST: usize = 4;
/// An event up to this size is copied behind the last one: a slice of its own would cost more.
const SMALL: usize = 512;
/// The first reply reserves this many bytes for the tail.
const TAIL: usize = 1024;

type Slices<'a> = SmallVec<[IoSlice<'a>; 8]>;

/// One client's outbox.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Queue,
    /// Replies and small events behind the last piece of the queue, one after the other.
    tail: BytesMut,
    /// Whether the tail holds events.
    tail_events: bool,
    /// Events that the running handler's own channel has published, and later events. `None` stands for a gap.
    held: Vec<(Topic, Option<Frame>)>,
    held_bytes: usize,
    state: State,
    /// The last write filled the socket.
    pub(crate) blocked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The outbox is over its limit, and the policy allows no drop.
    TooSlow,
    /// The close frame is queued: nothing follows it.
    Closed,
}

/// The treatment of a client that does not keep up.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) limit: usize,
    pub(crate) slow: SlowClient,
    pub(crate) gaps: Gaps,
}

impl Policy {
    fn notice(&self, topic: &Topic) -> Bytes {
        self.gaps.frame(topic).bytes().clone()
    }
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            queue: Queue::default(),
            tail: BytesMut::new(),
            tail_events: false,
            held: Vec::new(),
            held_bytes: 0,
            state: State::Open,
            blocked: false,
        }
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.bytes() + self.tail.len()
    }

    /// The outbox's share of the limit: a tiny event counts as the memory that it takes.
    fn cost(&self) -> usize {
        self.queue.cost() + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    pub(crate) fn is_too_slow(&self) -> bool {
        self.state == State::TooSlow
    }

    /// Queues a reply. Replies are never dropped: the node stops reading from a client that does not read them.
    pub(crate) fn reply(&mut self, kind: FrameKind, parts: &[&[u8]]) {
        if self.state == State::Closed {
            return;
        }
        let length = parts.iter().map(|part| part.len()).sum();
        let (header, header_length) = frame_header(kind, length);
        self.make_room(header_length + length);
        self.tail.extend_from_slice(&header[..header_length]);
        parts.iter().for_each(|part| self.tail.extend_from_slice(part));
    }

    /// Queues a direct send. Sends are never dropped: a client with too many of them is too slow. A send longer than
    /// the limit still goes to a client with an empty outbox.
    pub(crate) fn send(&mut self, bytes: Bytes, policy: &Policy) {
        if self.state == State::Closed {
            return;
        }
        let cost = self.cost();
        if cost > 0 && cost + bytes.len() > self.limit(policy).saturating_mul(2) {
            self.state = State::TooSlow;
            return;
        }
        if bytes.len() <= SMALL {
            self.append(&bytes);
        } else {
            self.push(bytes, Kind::Kept);
        }
    }

    /// Queues a ping or a pong; there are never more than a few.
    pub(crate) fn control(&mut self, bytes: &Bytes) {
        if self.state == State::Open {
            self.append(bytes);
        }
    }

    /// Queues the close frame behind everything that waits.
    pub(crate) fn close(&mut self, frame: Bytes) {
        if self.state != State::Closed {
            self.held.clear();
            if self.tail.is_empty() {
                // Nothing follows the close frame, so the tail needs no spare room.
                self.tail = frame.into();
            } else {
                self.append(&frame);
            }
            self.state = State::Closed;
        }
    }

    /// The socket is gone: drops everything that waits, and everything that is queued later.
    pub(crate) fn discard(&mut self) {
        *self = Self { state: State::Closed, ..Self::new() };
    }

    /// Holds an event back until the handler ends or the held events exceed the limit.
    pub(crate) fn hold(&mut self, topic: &Topic, frame: &Frame, policy: &Policy) {
        if self.state == State::Open {
            self.held.push((topic.clone(), Some(frame.clone())));
            self.held_bytes += frame.bytes().len().max(LEAST);
            if self.held_bytes > policy.limit {
                self.release(policy);
            }
        }
    }

    /// Queues a notice of lost events behind the events that are held back.
    pub(crate) fn hold_gap(&mut self, topic: &Topic) {
        let told = self.held.iter().rev().find(|(held, _)| held == topic).is_some_and(|(_, frame)| frame.is_none());
        if self.state == State::Open && !told {
            self.held.push((topic.clone(), None));
        }
    }

    /// Whether events are held back: later events must not overtake them.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The handler has ended: sends the events that were held back.
    pub(crate) fn release(&mut self, policy: &Policy) {
        self.held_bytes = 0;
        for (topic, frame) in std::mem::take(&mut self.held) {
            match frame {
                Some(frame) => self.event(&topic, frame.bytes(), policy),
                None => self.gap(&topic, policy),
            }
        }
    }

    /// The limit in bytes. Until the socket refuses bytes, the client is not slow: its task only waits for its turn. So
    /// a burst may be longer.
    fn limit(&self, policy: &Policy) -> usize {
        if self.blocked { policy.limit } else { policy.limit.saturating_mul(BURST) }
    }

    /// Writes events to the socket at once, as far as it takes them, and queues the rest.
    pub(crate) fn write_through(
        &mut self,
        topic: &Topic,
        frames: &[Frame],
        policy: &Policy,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) {
        debug_assert!(self.is_empty() && frames.len() <= SLICES);
        if self.state != State::Open {
            return;
        }
        let slices: Slices<'_> = frames.iter().map(|frame| IoSlice::new(frame.bytes())).collect();
        // The connection's task will meet the socket's error and handle it.
        let mut taken = write(&slices).unwrap_or(0);
        for (at, frame) in frames.iter().enumerate() {
            let length = frame.bytes().len();
            if taken < length {
                self.blocked = true;
                let (begun, rest) = if taken > 0 { frames[at..].split_at(1) } else { (&[][..], &frames[at..]) };
                // The client has read the beginning of this frame, so its rest must follow.
                begun.iter().for_each(|frame| self.push(frame.bytes().slice(taken..), Kind::Kept));
                rest.iter().for_each(|frame| self.event(topic, frame.bytes(), policy));
                return;
            }
            taken -= length;
        }
    }

    /// Queues an event of a topic.
    pub(crate) fn event(&mut self, topic: &Topic, bytes: &Bytes, policy: &Policy) {
        if self.state != State::Open {
            return;
        }
        if self.blocked && policy.slow == SlowClient::LatestPerTopic {
            self.queue.drop_topic(topic, |topic| policy.notice(topic));
        }
        let limit = self.limit(policy);
        if self.cost() + bytes.len() > limit {
            match policy.slow {
                SlowClient::Disconnect => {
                    self.state = State::TooSlow;
                    return;
                }
                SlowClient::DropOldest | SlowClient::LatestPerTopic => {
                    // Drops a quarter of the limit more than is needed: otherwise each event would search the queue.
                    let most = (limit - limit / 4).saturating_sub(bytes.len() + self.tail.len());
                    self.queue.drop_oldest(most, |topic| policy.notice(topic));
                }
            }
        }
        if self.cost() + bytes.len() > limit {
            metrics::counter!("strait_events_dropped_total").increment(1);
            return self.gap(topic, policy);
        }
        // A small event may join the tail if no policy will drop it there.
        let kept = !self.blocked || policy.slow == SlowClient::Disconnect;
        if kept && bytes.len() <= SMALL {
            self.append(bytes);
            self.tail_events = true;
        } else {
            self.push(bytes.clone(), Kind::Event(topic.clone()));
        }
    }

    /// Queues a notice of lost events, one for each run of losses.
    pub(crate) fn gap(&mut self, topic: &Topic, policy: &Policy) {
        let told = !self.tail_events && self.queue.is_told(topic);
        if self.state == State::Open && !told {
            metrics::counter!("strait_gaps_total").increment(1);
            self.push(policy.notice(topic), Kind::Gap(topic.clone()));
        }
    }

    /// Reserves room in the tail. The first reservation is larger: growing costs more than memory that is freed after
    /// the write.
    fn make_room(&mut self, length: usize) {
        let room = if self.tail.capacity() == 0 { length.max(TAIL) } else { length };
        self.tail.reserve(room);
    }

    fn append(&mut self, bytes: &Bytes) {
        self.make_room(bytes.len());
        self.tail.extend_from_slice(bytes);
    }

    fn push(&mut self, bytes: Bytes, kind: Kind) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            let kind = if std::mem::take(&mut self.tail_events) { Kind::Mixed } else { Kind::Kept };
            self.queue.push(tail, kind);
        }
        self.queue.push(bytes, kind);
    }

    /// Makes one vectored write; returns the bytes that the socket took.
    pub(crate) fn write(&mut self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut slices: Slices<'_> = self.queue.slices().take(SLICES).collect();
        if slices.len() < SLICES && !self.tail.is_empty() {
            slices.push(IoSlice::new(&self.tail));
        }
        let taken = write(&slices)?;
        drop(slices);
        self.advance(taken);
        Ok(taken)
    }

    /// Writes until the outbox is empty or the socket takes no more. The connection's task handles the socket's errors.
    pub(crate) fn write_out(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) {
        while !self.is_empty() && !self.blocked {
            self.blocked = !matches!(self.write(&mut write), Ok(taken) if taken > 0);
        }
    }

    fn advance(&mut self, taken: usize) {
        self.tail.advance(self.queue.advance(taken));
        self.tail_events &= !self.tail.is_empty();
    }

    /// Frees the memory of an empty outbox.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            // Not only if it has capacity: a full buffer that was written has none left, yet keeps its memory.
            self.tail = BytesMut::new();
            self.queue.shrink();
            if self.held.is_empty() && self.held.capacity() > 0 {
                self.held = Vec::new();
            }
        }
    }
}
