//! The topics of one node, and its position in each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use strait_core::store::Sink;
use strait_core::{Event, Position, Topic};

/// A node's place on the bus; a node that lost its place gets another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) number: i64,
    pub(super) id: String,
    /// The life of the database that gave the place.
    pub(super) life: String,
}

#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) registration: Registration,
    /// The database has crashed, and members of topics without a log have no notice of it yet.
    pub(super) has_crashed: bool,
    numbers: HashMap<Topic, i64>,
    topics: HashMap<i64, Heard>,
    /// Numbers the calls that change the topics: for each topic the later call wins.
    asked: i64,
    /// The number of pending calls. Meanwhile the node keeps events of unknown topics, and the topics that a call has
    /// asked to end.
    changing: usize,
    early: HashMap<i64, Vec<(Position, Arc<Event>)>>,
    ended: HashMap<Topic, i64>,
    /// Numbers of unwanted topics in which the database still has interest, for example after a late or failed call.
    unwanted: HashSet<i64>,
}

#[derive(Debug)]
struct Heard {
    topic: Topic,
    last: Position,
    /// The number of the last call that asked for the topic.
    asked: i64,
}

/// A topic's number and head at the beginning.
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
            has_crashed: false,
            numbers: HashMap::new(),
            topics: HashMap::new(),
            asked: 0,
            changing: 0,
            early: HashMap::new(),
            ended: HashMap::new(),
            unwanted: HashSet::new(),
        }
    }

    /// Whether the node hears a topic, or a pending call may add it.
    pub(super) fn may_hear(&self, topic: &Topic) -> bool {
        self.changing > 0 || self.numbers.contains_key(topic)
    }

    /// All topics with the node's positions.
    pub(super) fn all(&self) -> Vec<(Topic, Position)> {
        self.topics.values().map(|heard| (heard.topic.clone(), heard.last)).collect()
    }

    /// Returns the next call's number.
    pub(super) fn ask(&mut self) -> i64 {
        self.asked += 1;
        self.asked
    }

    /// Begins a call that changes the topics. Returns its number.
    pub(super) fn about_to_change(&mut self) -> i64 {
        self.changing += 1;
        self.ask()
    }

    /// Ends a call; once for each [`about_to_change`](Self::about_to_change), even after a failure.
    pub(super) fn changed(&mut self) {
        self.changing -= 1;
        if self.changing == 0 {
            self.early.clear();
            self.ended.clear();
        }
    }

    /// Begins a topic, with its early events. A topic that the node hears already keeps its position.
    pub(super) fn begin(&mut self, start: Start, asked: i64) {
        let Start { topic, number, head } = start;
        if self.ended.get(&topic).is_some_and(|later| *later > asked) {
            return;
        }
        if let Some(heard) = self.topics.get_mut(&number) {
            heard.asked = heard.asked.max(asked);
            return;
        }
        self.forget(&topic);
        self.numbers.insert(topic.clone(), number);
        self.topics.insert(number, Heard { topic, last: head, asked });
        for (position, event) in self.early.remove(&number).unwrap_or_default() {
            if position.epoch != head.epoch || position.offset > head.offset {
                self.event(number, position, event);
            }
        }
    }

    /// Ends a topic, which stays unwanted until the database [has ended](Self::has_ended) it too. Returns its number if
    /// the node heard it.
    pub(super) fn end(&mut self, topic: &Topic, asked: i64) -> Option<i64> {
        let heard = self.numbers.get(topic).and_then(|number| self.topics.get(number));
        if heard.is_some_and(|heard| heard.asked > asked) {
            return None;
        }
        let ended = self.ended.entry(topic.clone()).or_insert(asked);
        *ended = asked.max(*ended);
        let number = self.forget(topic)?;
        self.unwanted.insert(number);
        Some(number)
    }

    pub(super) fn has_ended(&mut self, numbers: &[i64]) {
        self.unwanted.retain(|number| !numbers.contains(number));
    }

    fn forget(&mut self, topic: &Topic) -> Option<i64> {
        let number = self.numbers.remove(topic)?;
        self.topics.remove(&number);
        Some(number)
    }

    /// The unwanted topics, and the last call that could have asked for them; `None` while a call is pending.
    pub(super) fn unwanted(&mut self) -> Option<(Vec<i64>, i64)> {
        if self.changing > 0 {
            return None;
        }
        self.unwanted.retain(|number| !self.topics.contains_key(number));
        let unwanted: Vec<_> = self.unwanted.iter().copied().collect();
        (!unwanted.is_empty()).then_some((unwanted, self.asked))
    }

    /// Takes a new event. Reports a gap if one is missing before it.
    pub(super) fn event(&mut self, number: i64, position: Position, event: Arc<Event>) {
        let Some(heard) = self.topics.get_mut(&number) else {
            if self.changing > 0 {
                self.early.entry(number).or_default().push((position, event));
            } else {
                self.unwanted.insert(number);
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

    /// An event that cannot be read is a gap in its topic; other topics go on.
    pub(super) fn unreadable(&mut self, number: i64, position: Position, error: &sqlx::Error) {
        let Some(heard) = self.topics.get_mut(&number) else { return };
        if position.epoch == heard.last.epoch && position.offset <= heard.last.offset {
            return;
        }
        tracing::error!(topic = %heard.topic, error = %error, "an event cannot be read, its topic has a gap");
        metrics::counter!("strait_bus_gaps_total").increment(1);
        heard.last = position;
        self.sink.gap(std::slice::from_ref(&heard.topic));
    }

    /// The topic's number and the node's position in it, if the node hears it.
    pub(super) fn last(&self, topic: &Topic) -> Option<(i64, Position)> {
        let number = self.numbers.get(topic)?;
        Some((*number, self.topics.get(number)?.last))
    }

    /// Events before `head` were lost: the topic goes on from there.
    pub(super) fn skip_to(&mut self, topic: &Topic, head: Position) {
        let heard = self.numbers.get(topic).and_then(|number| self.topics.get_mut(number));
        if let Some(heard) = heard {
            heard.last = head;
            metrics::counter!("strait_bus_gaps_total").increment(1);
            self.sink.gap(std::slice::from_ref(topic));
        }
    }

    /// Topics have new numbers: the database has forgotten and recreated them. A number may have belonged to another
    /// topic.
    pub(super) fn renumber<'a>(&mut self, starts: impl Iterator<Item = &'a Start>) {
        let mut moved = Vec::new();
        for start in starts {
            if let Some(before) = self.numbers.get_mut(&start.topic)
                && *before != start.number
                && let Some(heard) = self.topics.remove(before)
            {
                *before = start.number;
                moved.push((start.number, heard));
            }
        }
        self.topics.extend(moved);
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
        let registration = Registration { number: 1, id: "n".to_owned(), life: "l".to_owned() };
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
        let asked = hearing.about_to_change();
        assert!(hearing.may_hear(&topic), "the database may know already: who publishes wakes this node");
        for offset in 3..6 {
            hearing.event(7, at(1, offset), event());
        }
        hearing.begin(Start { topic: topic.clone(), number: 7, head: at(1, 3) }, asked);
        hearing.changed();
        hearing.event(7, at(1, 6), event());
        assert_eq!(heard(&ears, &topic), [4, 5, 6]);
        assert!(!ears.has_gap(&topic));
        hearing.event(8, at(1, 1), event());
        assert!(hearing.early.is_empty());
    }

    #[test]
    fn what_comes_twice_is_heard_once_and_a_hole_is_told_of() {
        let (ears, mut hearing, topic) = hearing();
        hearing.begin(Start { topic: topic.clone(), number: 7, head: at(1, 3) }, 1);
        for offset in [4, 4, 3, 5] {
            hearing.event(7, at(1, offset), event());
        }
        assert!(!ears.has_gap(&topic));
        hearing.event(7, at(1, 7), event());
        assert!(ears.has_gap(&topic));
        hearing.event(7, at(2, 1), event());
        assert_eq!(heard(&ears, &topic), [4, 5, 7, 1]);
    }

    /// The answers may come in any order.
    #[test]
    fn of_two_calls_at_once_the_later_one_holds() {
        for answered_in_turn in [true, false] {
            for ends_at_last in [true, false] {
                let (_, mut hearing, topic) = hearing();
                let before = hearing.about_to_change();
                hearing.begin(Start { topic: topic.clone(), number: 7, head: at(1, 3) }, before);
                hearing.changed();
                let (first, second) = (hearing.about_to_change(), hearing.about_to_change());
                let mut calls = [(first, !ends_at_last), (second, ends_at_last)];
                if !answered_in_turn {
                    calls.reverse();
                }
                for (asked, ends) in calls {
                    if ends {
                        hearing.end(&topic, asked);
                    } else {
                        hearing.begin(Start { topic: topic.clone(), number: 7, head: at(1, 3) }, asked);
                    }
                    hearing.changed();
                }
                assert_eq!(hearing.last(&topic).is_none(), ends_at_last, "answered in turn: {answered_in_turn}");
                assert!(hearing.ended.is_empty());
            }
        }
    }

    #[test]
    fn topics_may_swap_their_numbers() {
        let (ears, mut hearing, a) = hearing();
        let b = Topic::new("b").unwrap();
        let start = |topic: &Topic, number| Start { topic: topic.clone(), number, head: at(1, 3) };
        for (topic, number) in [(&a, 1), (&b, 2)] {
            hearing.begin(start(topic, number), 1);
        }
        hearing.renumber([start(&a, 2), start(&b, 1)].iter());
        hearing.event(1, at(1, 4), event());
        assert_eq!((heard(&ears, &a), heard(&ears, &b)), (vec![], vec![4]));
        assert_eq!((hearing.last(&a), hearing.last(&b)), (Some((2, at(1, 3))), Some((1, at(1, 4)))));
    }

    #[test]
    fn what_comes_and_nobody_wants_is_told_of_once_no_call_is_under_way() {
        let (_, mut hearing, topic) = hearing();
        hearing.event(7, at(1, 1), event());
        let asked = hearing.about_to_change();
        assert_eq!(hearing.unwanted(), None);
        hearing.begin(Start { topic, number: 7, head: at(1, 1) }, asked);
        hearing.changed();
        hearing.event(8, at(1, 1), event());
        assert_eq!(hearing.unwanted(), Some((vec![8], asked)));
        hearing.has_ended(&[8]);
        assert_eq!(hearing.unwanted(), None);
    }
}
