use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::trial::eventually;
use crate::event::{Event, Position};
use crate::name::Topic;
use crate::store::{Command, Sink};

/// A [`Sink`] that records its events and commands.
#[derive(Debug, Default)]
pub struct Ears(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    events: Vec<(Topic, Position, Arc<Event>)>,
    commands: Vec<Command>,
    gaps: Vec<Topic>,
}

impl Ears {
    /// A sink without events.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The events of a topic, in the order of their arrival.
    #[must_use]
    pub fn events(&self, topic: &Topic) -> Vec<(Position, Arc<Event>)> {
        let heard = self.0.lock();
        let of_topic = heard.events.iter().filter(|(of, ..)| of == topic);
        of_topic.map(|(_, position, event)| (*position, Arc::clone(event))).collect()
    }

    /// The commands, in the order of their arrival.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.0.lock().commands.clone()
    }

    /// Whether a topic may have lost events.
    #[must_use]
    pub fn has_gap(&self, topic: &Topic) -> bool {
        self.0.lock().gaps.contains(topic)
    }

    /// Waits until `count` events of a topic have arrived, and returns all of them.
    ///
    /// # Panics
    /// If they do not arrive within ten seconds; the message lists the events that arrived instead.
    pub async fn hear(&self, topic: &Topic, count: usize) -> Vec<(Position, Arc<Event>)> {
        let heard = async || Some(self.events(topic)).filter(|events| events.len() >= count);
        let instead = fmt::from_fn(|f| {
            write!(f, "{count} events on {topic}; came {:?}, gaps on {:?}", self.events(topic), self.0.lock().gaps)
        });
        eventually(instead, heard).await
    }

    /// Waits until `count` commands have arrived, and returns all of them.
    ///
    /// # Panics
    /// If they do not arrive within ten seconds.
    pub async fn obey(&self, count: usize) -> Vec<Command> {
        let heard = async || Some(self.commands()).filter(|commands| commands.len() >= count);
        eventually(format!("{count} commands"), heard).await
    }
}

impl Sink for Ears {
    fn events(&self, topic: &Topic, events: &[(Position, Arc<Event>)]) {
        let mut heard = self.0.lock();
        heard.events.extend(events.iter().map(|(position, event)| (topic.clone(), *position, Arc::clone(event))));
    }

    fn command(&self, command: Command) {
        self.0.lock().commands.push(command);
    }

    fn gap(&self, topics: &[Topic]) {
        self.0.lock().gaps.extend_from_slice(topics);
    }
}
