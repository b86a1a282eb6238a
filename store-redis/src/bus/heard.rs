use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use strait_core::store::Sink;
use strait_core::{Event, Position, Topic, in_full};
use tokio::runtime::Handle;

use super::listener::Link;

/// A topic of the node.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) topic: Topic,
    pub(crate) slot: u16,
    /// The runtime of the topic's listener.
    pub(crate) runtime: Handle,
    /// The number of the connection that last confirmed the subscription; 0 for none.
    pub(crate) on: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last event's position; `None` before the first event and the head.
    last: Option<Position>,
    /// The epoch before the last event's. Its events can only come late, on a connection that was replaced.
    left: Option<u64>,
    /// A publication of this process, beyond `last`, that Redis has acknowledged but that has not arrived yet.
    acknowledged: Option<Position>,
    /// The run of the server that last confirmed the subscription, see [`Link`].
    run: Option<u64>,
    /// Another run of a server has the topic now. It may lack the last events, even if the heads show no loss.
    doubted: bool,
}

/// The furthest known position of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Heard(Position),
    /// Acknowledged, but not received.
    Acknowledged(Position),
}

impl Known {
    pub(crate) fn position(&self) -> &Position {
        match self {
            Self::Heard(position) | Self::Acknowledged(position) => position,
        }
    }

    /// Whether the log may have lost the position. `head` was read later, so it cannot be behind the position
    /// otherwise.
    pub(crate) fn may_be_lost(&self, head: &Position) -> bool {
        let known = self.position();
        known.epoch == head.epoch
            && match self {
                Self::Heard(_) if head.offset > known.offset => false,
                _ => head != known,
            }
    }
}

impl Heard {
    pub(crate) fn new(topic: Topic, slot: u16, runtime: Handle) -> Self {
        Self { topic, slot, runtime, on: AtomicU64::new(0), state: Mutex::default() }
    }

    pub(crate) fn is_on(&self, connection: u64) -> bool {
        self.on.load(Ordering::Acquire) == connection
    }

    /// This connection has confirmed a subscription.
    pub(crate) fn subscribed(&self, link: &Link) {
        let mut state = self.state.lock();
        state.doubted |= state.run.is_some_and(|run| run != link.run);
        state.run = Some(link.run);
        drop(state);
        self.on.store(link.number, Ordering::Release);
    }

    /// Redis acknowledged a publication of this process.
    pub(crate) fn acknowledged(&self, position: Position) {
        let mut state = self.state.lock();
        let beyond = |known: &Option<Position>| {
            known.is_none_or(|known| known.epoch != position.epoch || known.offset < position.offset)
        };
        let replaced = state.last.is_some_and(|last| last.epoch == position.epoch && last.offset == position.offset)
            && state.last != Some(position);
        if (beyond(&state.last) || replaced) && beyond(&state.acknowledged) {
            state.acknowledged = Some(position);
        }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.state.lock().doubted
    }

    pub(crate) fn known(&self) -> Option<Known> {
        let state = self.state.lock();
        state.acknowledged.map(Known::Acknowledged).or(state.last.map(Known::Heard))
    }

    /// Takes new events; skips known ones, and reports a hole before an event as a gap first.
    pub(crate) fn events(&self, events: Vec<(Position, Bytes)>, sink: &dyn Sink) {
        let mut state = self.state.lock();
        let mut run = Vec::with_capacity(events.len());
        for (position, blob) in events {
            let follows = match &state.last {
                Some(before) if before.epoch == position.epoch && position.offset <= before.offset => {
                    // A repeated event, on another connection. With another check it shows that the log was rolled
                    // back.
                    if position.offset < before.offset || position.check == before.check {
                        continue;
                    }
                    false
                }
                Some(before) if before.epoch == position.epoch => position.offset == before.offset + 1,
                Some(_) if state.left == Some(position.epoch) => continue,
                Some(before) => {
                    state.left = Some(before.epoch);
                    false
                }
                None => true,
            };
            state.last = Some(position);
            let in_its_place = state
                .acknowledged
                .take_if(|acknowledged| acknowledged.epoch != position.epoch || acknowledged.offset <= position.offset);
            let replaced = in_its_place
                .is_some_and(|acknowledged| acknowledged.offset == position.offset && acknowledged != position);
            if !follows || replaced {
                self.hand_on(&mut run, sink);
                self.gap(sink);
            }
            if blob.is_empty() {
                // Only the log's new epoch is reported, see rolled_back.lua.
                continue;
            }
            match crate::event::decode(blob) {
                Ok(event) => run.push((position, Arc::new(event))),
                Err(error) => {
                    tracing::error!(error = %in_full(&error), "an event was not understood");
                    self.hand_on(&mut run, sink);
                    self.gap(sink);
                }
            }
        }
        self.hand_on(&mut run, sink);
    }

    fn hand_on(&self, run: &mut Vec<(Position, Arc<Event>)>, sink: &dyn Sink) {
        if !run.is_empty() {
            sink.events(&self.topic, run);
            run.clear();
        }
    }

    /// Takes the head, read after the subscription was confirmed.
    pub(crate) fn begin(&self, head: Position) {
        self.state.lock().last.get_or_insert(head);
    }

    /// Compares the head, read once all earlier publications must have arrived, with the received events; reports a gap
    /// if any are missing. `known` was read before the head.
    pub(crate) fn compare(&self, known: Option<&Known>, head: Position, sink: &dyn Sink) {
        let mut state = self.state.lock();
        let doubted = std::mem::take(&mut state.doubted);
        // After a loss the log has another epoch.
        state.acknowledged.take_if(|known| known.epoch != head.epoch || known.offset <= head.offset);
        let complete = match &state.last {
            None => true,
            Some(last) if last.epoch == head.epoch => last.offset >= head.offset,
            // The log began anew after the head was read: an event of the new epoch has already shown it.
            Some(_) => known.is_some_and(|known| known.position().epoch == head.epoch),
        };
        // A forgotten topic without an event since has lost nothing that this node could have received.
        if complete && !doubted {
            return;
        }
        if !complete {
            if state.last.is_some_and(|last| last.epoch != head.epoch) {
                state.left = None;
            }
            state.last = Some(head);
        }
        self.gap(sink);
    }

    fn gap(&self, sink: &dyn Sink) {
        metrics::counter!("strait_bus_gaps_total").increment(1);
        sink.gap(std::slice::from_ref(&self.topic));
    }
}

#[cfg(test)]
mod tests {
    use strait_core::testkit::Ears;
    use strait_core::{Payload, Topic};

    use super::*;

    fn at(epoch: u64, offset: u64, check: u32) -> Position {
        Position { epoch, offset, check }
    }

    fn topic() -> Topic {
        Topic::new("a").expect("it is a name")
    }

    fn events(positions: &[Position]) -> Vec<(Position, Bytes)> {
        let blob = Bytes::from(crate::event::encode(&Event::message(Payload::text("x"))));
        positions.iter().map(|position| (*position, blob.clone())).collect()
    }

    /// A topic with events up to offset 4.
    async fn heard() -> (Heard, Arc<Ears>) {
        let (heard, ears) = (Heard::new(topic(), 0, Handle::current()), Ears::new());
        heard.begin(at(1, 3, 3));
        heard.events(events(&[at(1, 4, 4)]), &*ears);
        (heard, ears)
    }

    #[tokio::test]
    async fn an_acknowledged_event_is_known_until_it_is_heard() {
        let (heard, ears) = heard().await;
        assert_eq!(heard.known(), Some(Known::Heard(at(1, 4, 4))));
        heard.acknowledged(at(1, 4, 4));
        assert_eq!(heard.known(), Some(Known::Heard(at(1, 4, 4))), "it was heard before");
        heard.acknowledged(at(1, 6, 6));
        heard.acknowledged(at(1, 5, 5));
        assert_eq!(heard.known(), Some(Known::Acknowledged(at(1, 6, 6))), "answers may overtake each other");
        heard.events(events(&[at(1, 5, 5), at(1, 6, 6)]), &*ears);
        assert_eq!(heard.known(), Some(Known::Heard(at(1, 6, 6))));
        assert!(!ears.has_gap(&topic()));
    }

    #[tokio::test]
    async fn another_event_in_the_place_of_an_acknowledged_one_is_a_gap() {
        let (heard, ears) = heard().await;
        heard.acknowledged(at(1, 5, 5));
        heard.events(events(&[at(1, 5, 55)]), &*ears);
        assert!(ears.has_gap(&topic()));
        assert_eq!(ears.events(&topic()).len(), 2);
    }

    #[tokio::test]
    async fn a_known_position_may_be_lost_if_the_head_is_before_it_or_another_one() {
        let (acknowledged, heard) = (Known::Acknowledged(at(1, 5, 5)), Known::Heard(at(1, 5, 5)));
        for (head, by_acknowledged, by_heard) in [
            (at(1, 4, 4), true, true),
            (at(1, 5, 55), true, true),
            (at(1, 5, 5), false, false),
            // An acknowledged event that was not received: only the log shows whether it still exists.
            (at(1, 6, 6), true, false),
            // The other epoch tells every subscriber.
            (at(2, 4, 4), false, false),
        ] {
            assert_eq!(acknowledged.may_be_lost(&head), by_acknowledged, "{head:?}");
            assert_eq!(heard.may_be_lost(&head), by_heard, "{head:?}");
        }
    }

    #[tokio::test]
    async fn events_of_an_epoch_that_was_left_do_not_come_again() {
        let (heard, ears) = heard().await;
        let known = heard.known();
        heard.events(events(&[at(2, 1, 1)]), &*ears);
        assert!(ears.has_gap(&topic()));
        let other = Ears::new();
        // An older connection repeats the events, and the head was read before the log began anew.
        heard.events(events(&[at(1, 4, 4), at(1, 5, 5)]), &*other);
        heard.compare(known.as_ref(), at(1, 5, 5), &*other);
        heard.events(events(&[at(2, 1, 1), at(2, 2, 2)]), &*other);
        let came: Vec<Position> = other.events(&topic()).iter().map(|(position, _)| *position).collect();
        assert_eq!(came, [at(2, 2, 2)]);
        assert!(!other.has_gap(&topic()));
        // After a reconnect the server may still have the old epoch.
        heard.compare(heard.known().as_ref(), at(1, 6, 6), &*other);
        assert!(other.has_gap(&topic()));
        heard.events(events(&[at(1, 7, 7)]), &*other);
        assert_eq!(other.events(&topic()).len(), 2);
    }

    #[tokio::test]
    async fn a_new_epoch_without_an_event_is_a_gap_and_the_next_event_follows() {
        let (heard, ears) = heard().await;
        heard.events(vec![(at(2, 3, 3), Bytes::new())], &*ears);
        assert!(ears.has_gap(&topic()));
        let other = Ears::new();
        heard.events(events(&[at(2, 4, 44)]), &*other);
        assert_eq!(other.events(&topic()).len(), 1);
        assert!(!other.has_gap(&topic()));
    }
}
