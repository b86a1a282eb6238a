//! Any sequence of events that a driver can produce, against a small model that knows the rules but not the machine.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn events() -> impl Strategy<Value = Event<u32>> {
    let close = any::<u8>().prop_map(|n| Close::normal(format!("close {n}")));
    prop_oneof![
        12 => any::<u32>().prop_map(Event::Received),
        8 => Just(Event::Ended),
        1 => close.clone().prop_map(Event::Refused),
        1 => close.clone().prop_map(Event::Close),
        1 => any::<bool>().prop_map(|leaves| Event::PeerClosed { leaves }),
        1 => Just(Event::Lost),
        1 => Just(Event::Resumed),
        1 => close.clone().prop_map(Event::Drain),
        2 => Just(Event::Suspend),
        3 => Just(Event::Unsuspend),
        1 => Just(Event::GraceEnded),
        1 => close.prop_map(Event::Displaced),
    ]
}

/// The view from outside: the events that came, and the effects that followed.
#[derive(Debug, Default)]
struct Model {
    resumable: bool,
    /// `on_connect` has ended.
    connected: bool,
    running: Option<Step<u32>>,
    waiting: VecDeque<u32>,
    /// The socket takes messages: neither side has closed it.
    up: bool,
    /// No message is handled any more.
    closed: bool,
    /// The client will not come back, or may not.
    leaves: bool,
    draining: Option<Close>,
    displaced: bool,
    detached: bool,
    suspended: bool,
    paused: bool,
    ever_suspended: bool,
    accepted: Vec<u32>,
    started: Vec<u32>,
    ends: usize,
    done: usize,
}

impl Model {
    fn new(resumable: bool) -> Self {
        Self { resumable, up: true, ..Self::default() }
    }

    /// The event as a driver would produce it; `None` if no driver would.
    fn possible(&self, event: Event<u32>) -> Option<Event<u32>> {
        Some(match event {
            Event::Ended | Event::Refused(_) if self.running.is_none() => return None,
            Event::Refused(_) if self.running != Some(Step::Connect) => Event::Ended,
            Event::Received(_) if self.detached => return None,
            Event::Received(weight) => Event::Received(weight % 1000 * 1000 + self.accepted.len() as u32),
            event => event,
        })
    }

    fn weight(&self) -> usize {
        self.waiting.iter().map(Weigh::weight).sum()
    }

    /// The backlog is at its limit.
    fn is_full(&self) -> bool {
        self.waiting.len() >= BACKLOG.messages || self.weight() >= BACKLOG.bytes
    }

    /// The backlog is at most half full.
    fn is_roomy(&self) -> bool {
        self.waiting.len() * 2 <= BACKLOG.messages && self.weight() * 2 <= BACKLOG.bytes
    }

    /// Applies the event; returns the close that must follow, and whether a pause must.
    fn before(&mut self, event: &Event<u32>) -> (Option<Close>, bool) {
        let (mut close, mut pause) = (None, false);
        match event {
            Event::Received(message) => {
                if self.up && !self.closed && self.draining.is_none() {
                    self.accepted.push(*message);
                    self.waiting.push_back(*message);
                    pause = !self.paused && (self.running.is_some() || self.suspended) && self.is_full();
                }
            }
            Event::Ended | Event::Refused(_) => {
                self.connected |= self.running == Some(Step::Connect);
                self.running = None;
            }
            Event::PeerClosed { leaves } => {
                self.leaves |= leaves;
                self.up = false;
            }
            Event::Lost => self.up = false,
            Event::Resumed if self.detached => {
                (self.detached, self.up, self.leaves) = (false, true, false);
            }
            Event::Drain(close) => self.draining = Some(close.clone()),
            Event::Suspend => (self.suspended, self.ever_suspended) = (true, true),
            Event::Unsuspend => self.suspended = false,
            Event::GraceEnded => self.leaves |= self.detached,
            Event::Displaced(_) => self.displaced = true,
            Event::Opened | Event::Resumed | Event::Close(_) => {}
        }
        if let Event::Close(given) | Event::Refused(given) | Event::Displaced(given) = event
            && !self.closed
        {
            close = self.up.then(|| given.clone());
            self.is_closed();
        }
        (close, pause)
    }

    /// Waiting and later messages are not handled any more.
    fn is_closed(&mut self) {
        (self.closed, self.up, self.detached) = (true, false, false);
        self.waiting.clear();
    }

    fn follow(&mut self, effects: &Effects<u32>, mut close: Option<Close>, pause: bool) -> Result<(), TestCaseError> {
        let (mut paused, mut resumed) = (false, false);
        for effect in effects {
            prop_assert_eq!(self.done, 0, "nothing comes after the end");
            match effect {
                Effect::Run(step) => {
                    prop_assert_eq!(&self.running, &None, "one handler at a time");
                    match step {
                        Step::Connect => prop_assert!(!self.connected),
                        Step::Message(message) => {
                            prop_assert!(self.connected, "no message before on_connect has ended");
                            prop_assert!(!self.closed && !self.displaced, "no message after a close");
                            prop_assert!(!self.suspended, "no message without a lease");
                            prop_assert_eq!(Some(*message), self.waiting.pop_front(), "in arrival order, each once");
                            self.started.push(*message);
                        }
                        Step::End => {
                            prop_assert!(self.connected, "on_disconnect comes after on_connect");
                            self.ends += 1;
                            self.is_closed();
                        }
                    }
                    self.running = Some(step.clone());
                }
                Effect::Close(given) => {
                    let expected = close.take().or_else(|| self.drained());
                    prop_assert_eq!(Some(given), expected.as_ref(), "a close for a reason, once");
                }
                Effect::Pause => paused = true,
                Effect::Resume => resumed = true,
                Effect::Detach => {
                    prop_assert!(self.resumable && !self.leaves && !self.closed && !self.up);
                    prop_assert!(self.running.is_none() && (self.waiting.is_empty() || self.suspended));
                    self.detached = true;
                }
                Effect::Done => self.done += 1,
            }
        }
        // A drain of a connection that is down closes nothing, but still ends the channel.
        let missing = close.or_else(|| self.drained());
        prop_assert_eq!(missing, None, "the socket is closed at once");
        prop_assert_eq!(paused, pause, "reading pauses when as much waits as may, and only then");
        self.paused |= paused;
        let message = effects.iter().any(|effect| matches!(effect, Effect::Run(Step::Message(_))));
        prop_assert_eq!(resumed, self.paused && message && self.is_roomy(), "reading goes on at half, and only then");
        self.paused &= !resumed;
        Ok(())
    }

    /// The close of a drain that waits for nothing more.
    fn drained(&mut self) -> Option<Close> {
        let idle = self.connected && self.running.is_none() && self.waiting.is_empty();
        if !idle || !self.up || self.closed || self.detached {
            return None;
        }
        let close = self.draining.take()?;
        self.up = false;
        self.closed = !self.resumable;
        Some(close)
    }

    /// The invariants between any two events.
    fn at_rest(&self, machine: &Machine<u32>) -> Result<(), TestCaseError> {
        if self.done > 0 {
            return Ok(());
        }
        prop_assert_eq!(machine.is_running(), self.running.is_some());
        prop_assert_eq!(machine.reads(), self.up && !self.paused && self.draining.is_none());
        if self.connected && self.running.is_none() {
            prop_assert!(!self.closed, "what is closed has ended, or ends");
            prop_assert!(self.waiting.is_empty() || self.suspended || self.detached, "a message waits for a reason");
            prop_assert!(!self.up || self.suspended || machine.reads(), "whoever waits for the client reads from it");
            prop_assert!(self.up || self.detached, "without a socket a channel is detached or ends");
        }
        prop_assert!(self.paused || !self.is_full() || !self.up || !self.connected, "more waits than may");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The invariants of the channel's life, for any order of events that a driver can produce.
    #[test]
    fn invariants_hold_for_any_sequence(resumable: bool, events in prop::collection::vec(events(), 0..60)) {
        let (mut machine, mut model) = (Machine::new(resumable), Model::new(resumable));
        // A driver that stops early still lets the channel end: the tail closes the link and ends the running step.
        let tail = [Event::Unsuspend, Event::Lost, Event::GraceEnded].into_iter();
        let tail = tail.chain(std::iter::repeat_n(Event::Ended, 80)).chain([Event::GraceEnded, Event::Ended]);
        for event in std::iter::once(Event::Opened).chain(events).chain(tail) {
            let Some(event) = model.possible(event) else { continue };
            if model.done > 0 {
                break;
            }
            let (close, pause) = model.before(&event);
            let effects = take(&mut machine, event);
            model.follow(&effects, close, pause)?;
            model.at_rest(&machine)?;
        }
        prop_assert_eq!(model.done, 1, "every channel comes to its end: {:?}", machine);
        prop_assert_eq!(model.ends, usize::from(!model.displaced || model.ends > 0));
        if model.accepted.len() > model.started.len() {
            prop_assert!(model.started == model.accepted[..model.started.len()]);
            prop_assert!(model.closed || model.ever_suspended, "what has arrived is handled, unless it is closed");
        }
    }
}
