//! What waits to be written to one client: bounded in bytes, written many frames at a time.

mod queue;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use strait_core::{Frame, FrameKind, Gaps, SlowClient, Topic, frame_header};

use queue::{Kind, LEAST, Queue};

/// How many slices go into one vectored write.
pub(crate) const SLICES: usize = 64;
/// How many times the limit a burst may be before the socket has been tried.
const BURST: usize = 4;
/// Small events are copied behind each other rather than written from a slice each.
const SMALL: usize = 512;
/// What the tail has room for from the first reply on, in bytes.
const TAIL: usize = 1024;

type Slices<'a> = SmallVec<[IoSlice<'a>; 8]>;

/// One client's outbox.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Queue,
    /// Replies behind the last piece, one after the other; small events too.
    tail: BytesMut,
    /// Whether there are events in the tail.
    tail_events: bool,
    /// Events that the running handler's own channel has published, and what came behind them; without a frame, a gap.
    held: Vec<(Topic, Option<Frame>)>,
    held_bytes: usize,
    state: State,
    /// The socket took no more the last time.
    pub(crate) blocked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// More waits than may, and no policy helps.
    TooSlow,
    /// The close frame is queued: nothing follows it.
    Closed,
}

/// How a client that does not keep up is treated.
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

    /// How much waits, in bytes.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.bytes() + self.tail.len()
    }

    /// What it counts against the limit: tiny events count as what they take here.
    fn cost(&self) -> usize {
        self.queue.cost() + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    pub(crate) fn is_too_slow(&self) -> bool {
        self.state == State::TooSlow
    }

    /// A reply: never dropped; who does not read replies is not read from either.
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

    /// A direct send: never dropped; a client for which too many wait is too slow. One that is longer than may wait still
    /// goes to a client that has read all before.
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

    /// Ping or pong; there is never more than a few of them.
    pub(crate) fn control(&mut self, bytes: &Bytes) {
        if self.state == State::Open {
            self.append(bytes);
        }
    }

    /// The close frame, after all that waits.
    pub(crate) fn close(&mut self, frame: Bytes) {
        if self.state != State::Closed {
            self.held.clear();
            if self.tail.is_empty() {
                // Nothing will follow that would need more room.
                self.tail = frame.into();
            } else {
                self.append(&frame);
            }
            self.state = State::Closed;
        }
    }

    /// The socket is gone: nothing that waits is of use, and nothing follows.
    pub(crate) fn discard(&mut self) {
        *self = Self { state: State::Closed, ..Self::new() };
    }

    /// An event that is held back until the handler has ended, or as much is held as may wait.
    pub(crate) fn hold(&mut self, topic: &Topic, frame: &Frame, policy: &Policy) {
        if self.state == State::Open {
            self.held.push((topic.clone(), Some(frame.clone())));
            self.held_bytes += frame.bytes().len().max(LEAST);
            if self.held_bytes > policy.limit {
                self.release(policy);
            }
        }
    }

    /// Tells of lost events behind those that are held back.
    pub(crate) fn hold_gap(&mut self, topic: &Topic) {
        let told = self.held.iter().rev().find(|(held, _)| held == topic).is_some_and(|(_, frame)| frame.is_none());
        if self.state == State::Open && !told {
            self.held.push((topic.clone(), None));
        }
    }

    /// Whether events are held back: later ones must not overtake them.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The handler has ended: what was held back goes.
    pub(crate) fn release(&mut self, policy: &Policy) {
        self.held_bytes = 0;
        for (topic, frame) in std::mem::take(&mut self.held) {
            match frame {
                Some(frame) => self.event(&topic, frame.bytes(), policy),
                None => self.gap(&topic, policy),
            }
        }
    }

    /// How much may wait. A client whose socket has not refused anything yet is not slow: its task has just not had its
    /// turn, and a burst may be longer.
    fn limit(&self, policy: &Policy) -> usize {
        if self.blocked { policy.limit } else { policy.limit.saturating_mul(BURST) }
    }

    /// Events that the socket may take at once.
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
        // What is wrong with the socket its task finds out.
        let mut taken = write(&slices).unwrap_or(0);
        for (at, frame) in frames.iter().enumerate() {
            let length = frame.bytes().len();
            if taken < length {
                self.blocked = true;
                let (begun, rest) = if taken > 0 { frames[at..].split_at(1) } else { (&[][..], &frames[at..]) };
                // What the client has begun to read must go on.
                begun.iter().for_each(|frame| self.push(frame.bytes().slice(taken..), Kind::Kept));
                rest.iter().for_each(|frame| self.event(topic, frame.bytes(), policy));
                return;
            }
            taken -= length;
        }
    }

    /// An event of a topic.
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
                    // Further than is needed now, so that not each event costs a look at all that waits.
                    let most = (limit - limit / 4).saturating_sub(bytes.len() + self.tail.len());
                    self.queue.drop_oldest(most, |topic| policy.notice(topic));
                }
            }
        }
        if self.cost() + bytes.len() > limit {
            metrics::counter!("strait_events_dropped_total").increment(1);
            return self.gap(topic, policy);
        }
        // Where no event is dropped, a small one need not be told from a reply.
        let kept = !self.blocked || policy.slow == SlowClient::Disconnect;
        if kept && bytes.len() <= SMALL {
            self.append(bytes);
            self.tail_events = true;
        } else {
            self.push(bytes.clone(), Kind::Event(topic.clone()));
        }
    }

    /// Tells of lost events behind what waits, once for a run of losses.
    pub(crate) fn gap(&mut self, topic: &Topic, policy: &Policy) {
        let told = !self.tail_events && self.queue.is_told(topic);
        if self.state == State::Open && !told {
            metrics::counter!("strait_gaps_total").increment(1);
            self.push(policy.notice(topic), Kind::Gap(topic.clone()));
        }
    }

    /// Room in the tail; at first for more than one, as growing costs more than memory that is given back once all is written.
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

    /// Writes what one vectored write takes; tells how much it was.
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

    /// Writes until nothing waits or the socket takes no more. What is wrong with it its task finds out.
    pub(crate) fn write_out(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) {
        while !self.is_empty() && !self.blocked {
            self.blocked = !matches!(self.write(&mut write), Ok(taken) if taken > 0);
        }
    }

    fn advance(&mut self, taken: usize) {
        self.tail.advance(self.queue.advance(taken));
        self.tail_events &= !self.tail.is_empty();
    }

    /// Gives the memory of an empty outbox back.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            // Whatever its capacity: what has been written of a full one leaves none, and still has all its memory.
            self.tail = BytesMut::new();
            self.queue.shrink();
            if self.held.is_empty() && self.held.capacity() > 0 {
                self.held = Vec::new();
            }
        }
    }
}
