//! What one node hears of, and how far it has heard.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use strait_core::store::Sink;
use strait_core::{Event, Position, Topic};

/// The place of a node on the bus; a node that lost it gets another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) number: i64,
    pub(super) id: String,
    /// The database's life in which it was given.
    pub(super) life: String,
}

#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) registration: Registration,
    /// The database has crashed, and members of topics without a log have not been told yet.
    pub(super) has_crashed: bool,
    numbers: HashMap<Topic, i64>,
    topics: HashMap<i64, Heard>,
    /// Counts the calls that change what is heard: of two that say something of one topic the later one holds.
    asked: i64,
    /// How many calls are under way. While there are any, events of topics that are not known yet are kept, and topics
    /// whose end a call has asked for.
    changing: usize,
    early: HashMap<i64, Vec<(Position, Arc<Event>)>>,
    ended: HashMap<Topic, i64>,
    /// Numbers of topics that the database has interest in, though nobody wants them: a call came late or failed, say.
    unwanted: HashSet<i64>,
}

#[derive(Debug)]
struct Heard {
    topic: Topic,
    last: Position,
    /// The last call that asked for it.
    asked: i64,
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

    /// Whether it hears a topic, or may be about to.
    pub(super) fn may_hear(&self, topic: &Topic) -> bool {
        self.changing > 0 || self.numbers.contains_key(topic)
    }

    /// All topics, and how far each has been heard.
    pub(super) fn all(&self) -> Vec<(Topic, Position)> {
        self.topics.values().map(|heard| (heard.topic.clone(), heard.last)).collect()
    }

    /// The number of a call.
    pub(super) fn ask(&mut self) -> i64 {
        self.asked += 1;
        self.asked
    }

    /// A call is about to change what is heard. Answers its number.
    pub(super) fn about_to_change(&mut self) -> i64 {
        self.changing += 1;
        self.ask()
    }

    /// As often as [`about_to_change`](Self::about_to_change), whatever came of it.
    pub(super) fn changed(&mut self) {
        self.changing -= 1;
        if self.changing == 0 {
            self.early.clear();
            self.ended.clear();
        }
    }

    /// Begins hearing, with what came early. Who hears already goes on where it is.
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

    /// Ends hearing. The topic is unwanted until the database [has ended](Self::has_ended) it too. Answers its number, if
    /// it was heard.
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

    /// Topics that nobody wants, and the last call that could have asked for them; nothing while one may change what is
    /// wanted.
    pub(super) fn unwanted(&mut self) -> Option<(Vec<i64>, i64)> {
        if self.changing > 0 {
            return None;
        }
        self.unwanted.retain(|number| !self.topics.contains_key(number));
        let unwanted: Vec<_> = self.unwanted.iter().copied().collect();
        (!unwanted.is_empty()).then_some((unwanted, self.asked))
    }

    /// Takes an event, unless it has been heard before. Tells of a gap where one is missing.
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

    /// An event that cannot be read is one that its topic misses; the others are not concerned.
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

    /// Topics go by other numbers: they were forgotten, and made anew. One may have got the number that another one had.
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

    /// In whatever order their answers come.
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
