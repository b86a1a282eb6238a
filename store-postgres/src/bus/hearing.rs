//! What one node hears of, and how far it has heard.

use std::collections::HashMap;
use std::sync::Arc;

use strait_core::store::Sink;
use strait_core::{Event, Position, Topic};

/// The place of a node on the bus; a node that lost it gets another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) number: i64,
    pub(super) id: String,
}

#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) registration: Registration,
    numbers: HashMap<Topic, i64>,
    topics: HashMap<i64, Heard>,
    /// How many calls are about to begin hearing. While there are any, events of topics that are not known yet are kept.
    beginning: usize,
    early: HashMap<i64, Vec<(Position, Arc<Event>)>>,
}

#[derive(Debug)]
struct Heard {
    topic: Topic,
    last: Position,
}

/// Where a topic begins to be heard.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) topic: Topic,
    pub(super) number: i64,
    pub(super) head: Position,
}

impl Hearing {
    pub(super) fn new(sink: Arc<dyn Sink>, registration: Registration) -> Self {
        Self {
            sink,
            registration,
            numbers: HashMap::new(),
            topics: HashMap::new(),
            beginning: 0,
            early: HashMap::new(),
        }
    }

    /// Whether it hears a topic, or may be about to.
    pub(super) fn may_hear(&self, topic: &Topic) -> bool {
        self.beginning > 0 || self.numbers.contains_key(topic)
    }

    /// All topics, and how far each has been heard.
    pub(super) fn all(&self) -> Vec<(Topic, Position)> {
        self.topics.values().map(|heard| (heard.topic.clone(), heard.last)).collect()
    }

    pub(super) fn about_to_begin(&mut self) {
        self.beginning += 1;
    }

    /// As often as [`about_to_begin`](Self::about_to_begin), whatever came of it.
    pub(super) fn begun(&mut self) {
        self.beginning -= 1;
        if self.beginning == 0 {
            self.early.clear();
        }
    }

    /// Begins hearing, with what came early. Who hears already goes on where it is.
    pub(super) fn begin(&mut self, start: Start) {
        let Start { topic, number, head } = start;
        if self.numbers.get(&topic) == Some(&number) {
            return;
        }
        self.end(&topic);
        self.numbers.insert(topic.clone(), number);
        self.topics.insert(number, Heard { topic, last: head });
        for (position, event) in self.early.remove(&number).unwrap_or_default() {
            if position.epoch != head.epoch || position.offset > head.offset {
                self.event(number, position, event);
            }
        }
    }

    pub(super) fn end(&mut self, topic: &Topic) {
        if let Some(number) = self.numbers.remove(topic) {
            self.topics.remove(&number);
        }
    }

    /// Takes an event, unless it has been heard before. Tells of a gap where one is missing.
    pub(super) fn event(&mut self, number: i64, position: Position, event: Arc<Event>) {
        let Some(heard) = self.topics.get_mut(&number) else {
            if self.beginning > 0 {
                self.early.entry(number).or_default().push((position, event));
            }
            return;
        };
        let follows = position.epoch == heard.last.epoch;
        if follows && position.offset <= heard.last.offset {
            return;
        }
        if !follows || position.offset > heard.last.offset + 1 {
            metrics::counter!("strait_bus_gaps_total").increment(1);
            self.sink.gap(std::slice::from_ref(&heard.topic));
        }
        heard.last = position;
        self.sink.events(&heard.topic, &[(position, event)]);
    }

    /// How far a topic has been heard, if it is.
    pub(super) fn last(&self, topic: &Topic) -> Option<(i64, Position)> {
        let number = self.numbers.get(topic)?;
        Some((*number, self.topics.get(number)?.last))
    }

    /// Something was lost before a place: from there it goes on.
    pub(super) fn skip_to(&mut self, topic: &Topic, head: Position) {
        let heard = self.numbers.get(topic).and_then(|number| self.topics.get_mut(number));
        if let Some(heard) = heard {
            heard.last = head;
            metrics::counter!("strait_bus_gaps_total").increment(1);
            self.sink.gap(std::slice::from_ref(topic));
        }
    }

    /// The topic goes by another number: it was forgotten, and made anew.
    pub(super) fn renumber(&mut self, topic: &Topic, number: i64) {
        if let Some(before) = self.numbers.get_mut(topic)
            && *before != number
            && let Some(heard) = self.topics.remove(before)
        {
            *before = number;
            self.topics.insert(number, heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use strait_core::Payload;
    use strait_core::testkit::Ears;

    use super::*;

    fn at(epoch: u64, offset: u64) -> Position {
        Position { epoch, offset, check: 1 }
    }

    fn hearing() -> (Arc<Ears>, Hearing, Topic) {
        let ears = Ears::new();
        let registration = Registration { number: 1, id: "n".to_owned() };
        (ears.clone(), Hearing::new(ears, registration), Topic::new("a").unwrap())
    }

    fn event() -> Arc<Event> {
        Arc::new(Event::message(Payload::text("x")))
    }

    fn heard(ears: &Ears, topic: &Topic) -> Vec<u64> {
        ears.events(topic).iter().map(|(position, _)| position.offset).collect()
    }

    #[test]
    fn what_came_before_its_interest_was_known_is_not_lost() {
        let (ears, mut hearing, topic) = hearing();
        assert!(!hearing.may_hear(&topic));
        hearing.about_to_begin();
        assert!(hearing.may_hear(&topic), "the database may know already: who publishes wakes this node");
        for offset in 3..6 {
            hearing.event(7, at(1, offset), event());
        }
        hearing.begin(Start { topic: topic.clone(), number: 7, head: at(1, 3) });
        hearing.begun();
        hearing.event(7, at(1, 6), event());
        assert_eq!(heard(&ears, &topic), [4, 5, 6]);
        assert!(!ears.has_gap(&topic));
        hearing.event(8, at(1, 1), event());
        assert!(hearing.early.is_empty());
    }

    #[test]
    fn what_comes_twice_is_heard_once_and_a_hole_is_told_of() {
        let (ears, mut hearing, topic) = hearing();
        hearing.begin(Start { topic: topic.clone(), number: 7, head: at(1, 3) });
        for offset in [4, 4, 3, 5] {
            hearing.event(7, at(1, offset), event());
        }
        assert!(!ears.has_gap(&topic));
        hearing.event(7, at(1, 7), event());
        assert!(ears.has_gap(&topic));
        hearing.event(7, at(2, 1), event());
        assert_eq!(heard(&ears, &topic), [4, 5, 7, 1]);
    }
}
