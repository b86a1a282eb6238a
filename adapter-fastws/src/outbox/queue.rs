//! A client's queued frames in order, with an index of each topic's events and notices. The index finds an event to
//! drop at once, however long the queue is.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;

use bytes::Bytes;
use foldhash::fast::RandomState;
use strait_core::Topic;

/// An event or a notice counts at least this many bytes: its place in the queue takes about as much memory.
pub(super) const LEAST: usize = 48;
/// A shorter queue is never compacted: closing its holes is not worth the copy.
const FEW: usize = 32;

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A reply, a direct send or a control frame: never dropped.
    Kept,
    /// Replies and small events in one piece: never dropped. A notice before it does not cover losses after it.
    Mixed,
    /// An event: may be dropped.
    Event(Topic),
    /// A notice that stands for dropped events.
    Gap(Topic),
    /// The empty place of a dropped piece; never the first piece.
    Hole,
}

impl Kind {
    /// The bytes that a piece counts against the limit beyond its length.
    fn padding(&self, length: usize) -> usize {
        if matches!(self, Self::Event(_) | Self::Gap(_)) { LEAST.saturating_sub(length) } else { 0 }
    }
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) pieces: VecDeque<Piece>,
    /// Bytes of the first piece that the socket has taken.
    written: usize,
    /// Bytes left to write.
    bytes: usize,
    padding: usize,
    /// The number of the first piece; the pieces after it count up from there.
    base: u64,
    /// Created at the first event or notice.
    index: Option<Box<Index>>,
}

#[derive(Debug, Default)]
struct Index {
    topics: HashMap<Topic, Marks, RandomState>,
    /// Counts the mixed pieces that were pushed.
    era: u32,
    holes: usize,
    /// No piece with a lower number is an event that can be dropped.
    oldest: u64,
    /// Counts the pieces that a drop visited.
    #[cfg(test)]
    pub(super) looked_at: usize,
}

/// A topic's events and notices, in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Marks {
    all: VecDeque<Mark>,
    events: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    number: u64,
    gap: bool,
    /// Two marks of one era have no mixed piece between them.
    era: u32,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes left to write.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The queue's share of the client's limit, in bytes.
    pub(super) fn cost(&self) -> usize {
        self.bytes + self.padding
    }

    pub(super) fn push(&mut self, bytes: Bytes, kind: Kind) {
        let number = self.base + self.pieces.len() as u64;
        match &kind {
            Kind::Event(topic) => self.index.get_or_insert_default().mark(topic, number, false),
            Kind::Gap(topic) => self.index.get_or_insert_default().mark(topic, number, true),
            Kind::Mixed => {
                if let Some(index) = &mut self.index {
                    index.era = index.era.wrapping_add(1);
                }
            }
            Kind::Kept | Kind::Hole => {}
        }
        self.bytes += bytes.len();
        self.padding += kind.padding(bytes.len());
        self.pieces.push_back(Piece { bytes, kind });
    }

    /// Whether the last notice of a topic also covers an event that is lost now.
    pub(super) fn is_told(&self, topic: &Topic) -> bool {
        let Some(index) = &self.index else { return false };
        let last = index.topics.get(topic).and_then(|marks| marks.all.back());
        last.is_some_and(|last| last.gap && last.era == index.era)
    }

    /// Drops the topic's events, except one that the client has begun to read.
    pub(super) fn drop_topic(&mut self, topic: &Topic, notice: impl Fn(&Topic) -> Bytes) {
        let begun = self.begun();
        loop {
            let marks = self.index.as_ref().and_then(|index| index.topics.get(topic)).filter(|marks| marks.events > 0);
            let next = marks.and_then(|marks| marks.all.iter().find(|mark| !mark.gap && Some(mark.number) != begun));
            let Some(number) = next.map(|mark| mark.number) else { break };
            self.drop_event(topic, number, &notice);
        }
        self.close_holes();
    }

    /// Drops events, the oldest first, until the queue counts at most `most`. A notice takes the place of the first
    /// event of each run of losses.
    pub(super) fn drop_oldest(&mut self, most: usize, notice: impl Fn(&Topic) -> Bytes) {
        let begun = self.begun();
        while self.cost() > most {
            let Some(index) = &mut self.index else { break };
            let number = index.oldest.max(self.base);
            let Some(piece) = self.pieces.get((number - self.base) as usize) else { break };
            #[cfg(test)]
            {
                index.looked_at += 1;
            }
            index.oldest = number + 1;
            if let Kind::Event(topic) = &piece.kind
                && Some(number) != begun
            {
                let topic = topic.clone();
                self.drop_event(&topic, number, &notice);
            }
        }
        self.close_holes();
    }

    /// The number of the piece that the client has begun to read.
    fn begun(&self) -> Option<u64> {
        (self.written > 0).then_some(self.base)
    }

    fn drop_event(&mut self, topic: &Topic, number: u64, notice: impl Fn(&Topic) -> Bytes) {
        metrics::counter!("strait_events_dropped_total").increment(1);
        let Some(index) = &mut self.index else { return };
        #[cfg(test)]
        {
            index.looked_at += 1;
        }
        let Some(marks) = index.topics.get_mut(topic) else { return };
        let Ok(at) = marks.all.binary_search_by_key(&number, |mark| mark.number) else { return };
        marks.events -= 1;
        let era = marks.all[at].era;
        let stands_for = |mark: &Mark| mark.gap && mark.era == era;
        // A notice directly before this event already covers it.
        let told = at > 0 && stands_for(&marks.all[at - 1]);
        // The events between this one and the next notice have just been dropped, so the notice is no longer needed.
        let superfluous = marks.all.get(at + 1).filter(|next| stands_for(next)).map(|next| next.number);
        if superfluous.is_some() {
            marks.all.remove(at + 1);
        }
        if told {
            marks.all.remove(at);
        } else {
            marks.all[at].gap = true;
        }
        let holes = usize::from(told) + usize::from(superfluous.is_some());
        index.holes += holes;
        if let Some(superfluous) = superfluous {
            self.put(superfluous, Bytes::new(), Kind::Hole);
        }
        if told {
            self.put(number, Bytes::new(), Kind::Hole);
        } else {
            metrics::counter!("strait_gaps_total").increment(1);
            self.put(number, notice(topic), Kind::Gap(topic.clone()));
        }
    }

    /// Replaces a piece that the socket has not begun to take.
    fn put(&mut self, number: u64, bytes: Bytes, kind: Kind) {
        let piece = &mut self.pieces[(number - self.base) as usize];
        self.bytes = self.bytes + bytes.len() - piece.bytes.len();
        self.padding = self.padding + kind.padding(bytes.len()) - piece.kind.padding(piece.bytes.len());
        *piece = Piece { bytes, kind };
    }

    /// Removes the holes once they outnumber the other pieces: each hole then costs constant time.
    fn close_holes(&mut self) {
        while self.pieces.front().is_some_and(|first| first.kind == Kind::Hole) {
            self.pop();
        }
        let Some(index) = &mut self.index else { return };
        if index.holes * 2 <= self.pieces.len() || self.pieces.len() < FEW {
            return;
        }
        #[cfg(test)]
        {
            index.looked_at += self.pieces.len();
        }
        self.pieces.retain(|piece| piece.kind != Kind::Hole);
        index.number_anew(&self.pieces, self.base);
    }

    fn pop(&mut self) {
        let Some(piece) = self.pieces.pop_front() else { return };
        self.base += 1;
        self.padding -= piece.kind.padding(piece.bytes.len());
        match (&piece.kind, &mut self.index) {
            (Kind::Event(topic) | Kind::Gap(topic), Some(index)) => index.unmark_first(topic),
            (Kind::Hole, Some(index)) => index.holes -= 1,
            _ => {}
        }
    }

    /// The next bytes to write, as slices.
    pub(super) fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let waiting = self.pieces.iter().filter(|piece| piece.kind != Kind::Hole);
        let from = std::iter::once(self.written).chain(std::iter::repeat(0));
        waiting.zip(from).map(|(piece, from)| IoSlice::new(&piece.bytes[from..]))
    }

    /// Removes written bytes from the queue; returns how many of `taken` were beyond its end.
    pub(super) fn advance(&mut self, mut taken: usize) -> usize {
        while let Some(first) = self.pieces.front() {
            let rest = first.bytes.len() - self.written;
            if taken < rest {
                self.written += taken;
                self.bytes -= taken;
                return 0;
            }
            taken -= rest;
            self.bytes -= rest;
            self.written = 0;
            self.pop();
        }
        taken
    }

    /// Frees the memory of an empty queue.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && (self.pieces.capacity() > 0 || self.index.is_some()) {
            *self = Self::default();
        }
    }
}

impl Index {
    fn mark(&mut self, topic: &Topic, number: u64, gap: bool) {
        let mark = Mark { number, gap, era: self.era };
        let marks = match self.topics.get_mut(topic) {
            Some(marks) => marks,
            None => self.topics.entry(topic.clone()).or_default(),
        };
        marks.events += usize::from(!gap);
        marks.all.push_back(mark);
    }

    fn unmark_first(&mut self, topic: &Topic) {
        if let Some(marks) = self.topics.get_mut(topic) {
            if marks.all.pop_front().is_some_and(|mark| !mark.gap) {
                marks.events -= 1;
            }
            if marks.all.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    fn number_anew(&mut self, pieces: &VecDeque<Piece>, base: u64) {
        *self = Self {
            #[cfg(test)]
            looked_at: self.looked_at,
            ..Self::default()
        };
        for (piece, number) in pieces.iter().zip(base..) {
            match &piece.kind {
                Kind::Event(topic) => self.mark(topic, number, false),
                Kind::Gap(topic) => self.mark(topic, number, true),
                Kind::Mixed => self.era += 1,
                Kind::Kept | Kind::Hole => {}
            }
        }
    }
}

#[cfg(test)]
impl Queue {
    pub(super) fn looked_at(&self) -> usize {
        self.index.as_ref().map_or(0, |index| index.looked_at)
    }

    /// Checks that the byte counts are right and that the index equals a rebuilt one.
    pub(super) fn check(&self) {
        let sum: usize = self.pieces.iter().map(|piece| piece.bytes.len()).sum();
        assert_eq!(self.bytes, sum - self.written);
        let padding: usize = self.pieces.iter().map(|piece| piece.kind.padding(piece.bytes.len())).sum();
        assert_eq!(self.padding, padding);
        assert!(self.pieces.front().is_none_or(|first| first.kind != Kind::Hole));
        let Some(index) = &self.index else { return };
        let holes = self.pieces.iter().filter(|piece| piece.kind == Kind::Hole).count();
        assert_eq!(index.holes, holes);
        let mut anew = Index::default();
        anew.number_anew(&self.pieces, self.base);
        assert_eq!(index.topics.len(), anew.topics.len());
        for (topic, marks) in &index.topics {
            let eras = |marks: &Marks| marks.all.iter().map(|mark| mark.era).collect::<Vec<_>>();
            let (eras, expected) = (eras(marks), eras(&anew.topics[topic]));
            let between = |eras: &[u32]| eras.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
            assert_eq!(between(&eras), between(&expected), "{topic}");
            let plain = |marks: &Marks| marks.all.iter().map(|mark| (mark.number, mark.gap)).collect::<Vec<_>>();
            assert_eq!(plain(marks), plain(&anew.topics[topic]), "{topic}");
            assert_eq!(marks.events, anew.topics[topic].events, "{topic}");
        }
    }
}
