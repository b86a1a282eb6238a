//! Any input, with any behaviour of the socket: see [`Model::check_all`].

use proptest::prelude::*;

use super::*;

const TOPICS: [&str; 3] = ["a", "b", "c"];
const LIMIT: usize = 2_000;

#[derive(Debug, Clone)]
enum Step {
    Reply(usize),
    Send(usize),
    Control,
    /// Events of one topic, and the bytes that a direct write of them takes.
    Events(usize, Vec<usize>, usize),
    Hold(usize, usize),
    Release,
    Gap(usize),
    /// The bytes that the socket takes.
    Write(usize),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0..40_usize, 100..1_000_usize];
    let topic = 0..TOPICS.len();
    prop_oneof![
        3 => length.clone().prop_map(Step::Reply),
        2 => length.clone().prop_map(Step::Send),
        1 => Just(Step::Control),
        9 => (topic.clone(), prop::collection::vec(length.clone(), 1..4), 0..3_000_usize)
            .prop_map(|(topic, lengths, taken)| Step::Events(topic, lengths, taken)),
        2 => (topic.clone(), length).prop_map(|(topic, length)| Step::Hold(topic, length)),
        2 => Just(Step::Release),
        1 => topic.prop_map(Step::Gap),
        6 => prop_oneof![0..20_usize, 0..3_000_usize].prop_map(Step::Write),
    ]
}

/// An outbox, and all frames put into it, by number.
struct Model {
    outbox: Outbox,
    policy: Policy,
    out: Vec<u8>,
    next: usize,
    /// The frames that must come out.
    kept: Vec<usize>,
    /// The events that may be dropped: topic and number.
    events: Vec<(usize, usize)>,
    held: Vec<(usize, usize)>,
    /// The topics for which a gap was put in.
    gaps: [bool; TOPICS.len()],
}

fn numbered(number: usize, length: usize) -> String {
    format!("{number}:{}", "x".repeat(length))
}

impl Model {
    fn new(slow: SlowClient) -> Self {
        Self {
            outbox: Outbox::new(),
            policy: policy(slow, LIMIT),
            out: Vec::new(),
            next: 0,
            kept: Vec::new(),
            events: Vec::new(),
            held: Vec::new(),
            gaps: [false; TOPICS.len()],
        }
    }

    fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn open(&self) -> bool {
        self.outbox.state == State::Open
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Reply(length) => {
                let number = self.number();
                if self.outbox.state != State::Closed {
                    self.kept.push(number);
                }
                self.outbox.say(&numbered(number, length));
            }
            Step::Send(length) => {
                let (number, before) = (self.number(), self.outbox.waiting());
                self.outbox.send(text(&numbered(number, length)).bytes().clone(), &self.policy);
                if self.outbox.waiting() > before {
                    self.kept.push(number);
                }
            }
            Step::Control => {
                let number = self.number();
                if self.open() {
                    self.kept.push(number);
                }
                self.outbox.control(&frame::pong(number.to_string().as_bytes()));
            }
            Step::Events(topic, lengths, taken) => self.events(topic, &lengths, taken),
            Step::Hold(topic, length) => {
                let number = self.number();
                if self.open() {
                    self.held.push((topic, number));
                }
                self.outbox.hold(&super::topic(TOPICS[topic]), &text(&numbered(number, length)), &self.policy);
                self.note_released();
            }
            Step::Release => {
                self.outbox.release(&self.policy);
                self.note_released();
            }
            Step::Gap(topic) => {
                self.gaps[topic] = true;
                self.outbox.gap(&super::topic(TOPICS[topic]), &self.policy);
            }
            Step::Write(most) => {
                let mut out = std::mem::take(&mut self.out);
                self.outbox.take(most, &mut out);
                self.out = out;
            }
            Step::Close => self.outbox.close(frame::close(Some(1000), "")),
        }
        self.outbox.check();
    }

    /// The outbox has released the held events, even if it then dropped some.
    fn note_released(&mut self) {
        if !self.outbox.holds() {
            self.events.append(&mut self.held);
        }
    }

    fn events(&mut self, topic: usize, lengths: &[usize], most: usize) {
        let name = super::topic(TOPICS[topic]);
        let frames: Vec<Frame> = lengths
            .iter()
            .map(|length| {
                let number = self.number();
                self.events.push((topic, number));
                text(&numbered(number, *length))
            })
            .collect();
        let Self { outbox, policy, out, .. } = self;
        if outbox.holds() {
            // As on a node, they must not overtake the held events.
            let numbers = self.events.split_off(self.events.len() - lengths.len());
            self.held.extend(numbers);
            frames.iter().for_each(|frame| self.outbox.hold(&name, frame, &self.policy));
            return self.note_released();
        }
        if outbox.is_empty() && !outbox.blocked {
            outbox.write_through(&name, &frames, policy, |slices| {
                let all = joined(slices);
                let taken = all.len().min(most);
                out.extend(&all[..taken]);
                Ok(taken)
            });
        } else {
            let most = outbox.waiting().max(outbox.limit(policy));
            for frame in &frames {
                outbox.event(&name, frame.bytes(), policy);
            }
            let notices = TOPICS.len() * (GAP_A.len() + 2);
            assert!(outbox.waiting() <= most + notices, "events go beyond the limit");
        }
    }

    /// Frames come out whole and in order; no kept frame is missing. A notice stands exactly where events of its topic
    /// are missing.
    fn check_all(mut self) {
        let open = self.open();
        let mut out = std::mem::take(&mut self.out);
        self.outbox.take_all(&mut out);
        let mut came = Vec::new();
        let mut notices = Vec::new();
        for (at, text) in read(&out).into_iter().enumerate() {
            if let Some(topic) = TOPICS.iter().position(|name| text == format!(r#"{{"gap":{{"topic":"{name}"}}}}"#)) {
                notices.push((topic, at));
            } else if text != "close" {
                let number = text.strip_prefix("pong ").or_else(|| text.split(':').next()).expect("a number");
                came.push((number.parse::<usize>().expect("a number"), at));
            }
        }
        let place = |number: usize| came.iter().find(|(came, _)| *came == number).map(|(_, at)| *at);
        let missing: Vec<_> = self.kept.iter().filter(|number| place(**number).is_none()).collect();
        assert!(missing.is_empty(), "kept, and missing: {missing:?}");
        for (topic, name) in TOPICS.iter().enumerate() {
            let events: Vec<usize> = self.events.iter().filter(|event| event.0 == topic).map(|event| event.1).collect();
            let places: Vec<Option<usize>> = events.iter().map(|number| place(*number)).collect();
            let found: Vec<usize> = places.iter().flatten().copied().collect();
            assert!(found.is_sorted(), "{name} is out of order");
            let told = |from: usize, to: usize| notices.iter().any(|(of, at)| *of == topic && *at >= from && *at < to);
            let (mut from, mut lost) = (0, false);
            for place in places.iter().copied().chain(open.then_some(Some(usize::MAX))) {
                match place {
                    None => lost = true,
                    Some(place) => {
                        assert!(!lost || told(from, place), "events of {name} are missing, and nobody is told");
                        assert!(lost || self.gaps[topic] || !told(from, place), "{name}: nothing is missing there");
                        (from, lost) = (place, false);
                    }
                }
            }
        }
        let mut kept: Vec<_> = self.kept.iter().map(|number| place(*number)).collect();
        kept.dedup();
        assert!(kept.is_sorted() && kept.len() == self.kept.len(), "kept, and out of order");
        assert!(!self.outbox.holds() || open);
        assert_eq!(self.outbox.waiting(), 0);
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_untold_torn_or_out_of_order(
        slow in prop_oneof![
            Just(SlowClient::Disconnect), Just(SlowClient::DropOldest), Just(SlowClient::LatestPerTopic)
        ],
        steps in prop::collection::vec(step(), 1..60),
        closes in any::<bool>(),
    ) {
        let mut model = Model::new(slow);
        steps.into_iter().for_each(|step| model.take(step));
        if closes {
            model.take(Step::Close);
            model.take(Step::Reply(1));
        } else {
            model.take(Step::Release);
        }
        model.check_all();
    }
}
