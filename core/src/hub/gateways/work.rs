//! Work that one invocation begins and a later one continues.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::event::{Event, Format, Payload, Position};
use crate::name::{ChannelId, Topic};

/// Unfinished work at the end of an invocation's time. Hand it to `Invocation::go_on` of a later one.
///
/// It serialises, and holds payloads: treat it like messages.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Work(pub(crate) Todo);

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Todo::Spread(_) => "Work(spread)",
            Todo::Relay { .. } => "Work(relay)",
            Todo::Gap { .. } => "Work(gap)",
            Todo::Held { .. } => "Work(held)",
        })
    }
}

/// Hands work to a later invocation: by invoking the function itself, by a queue…
#[async_trait]
pub trait Continuation: fmt::Debug + Send + Sync + 'static {
    /// Takes the work over: a later invocation calls `Invocation::go_on` with it, at least once.
    ///
    /// # Errors
    /// It could not be handed over, and will not be done.
    async fn hand_over(&self, work: Work) -> Result<(), Error>;
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "todo")]
pub(crate) enum Todo {
    /// Events for the rest of a topic's members.
    Spread(Spread),
    /// A retained topic's events, from its cursor.
    Relay { topic: Topic },
    /// A gap notice.
    Gap { channel: ChannelId, topic: Topic },
    /// Messages that `on_connect` has sent.
    Held { channel: ChannelId },
}

/// Events that some of a topic's members have yet to get.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) topic: Topic,
    pub(crate) events: Vec<Passing>,
    /// Members that come before those of the cursor.
    pub(crate) rest: Vec<Rest>,
    pub(crate) cursor: Next,
    /// Whether a member that misses an event gets a gap notice.
    pub(crate) retained: bool,
    /// The number of handovers so far.
    pub(crate) handed: u32,
}

impl Spread {
    pub(crate) fn new(topic: Topic, events: Vec<Passing>, retained: bool) -> Self {
        Self { topic, events, rest: Vec::new(), cursor: Next::First, retained, handed: 0 }
    }
}

/// The next page of members.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Next {
    First,
    After(String),
    None,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Rest {
    pub(crate) channel: ChannelId,
    pub(crate) joined: Position,
}

/// An event with its position.
#[derive(Clone)]
pub(crate) struct Passing {
    pub(crate) position: Position,
    pub(crate) event: Arc<Event>,
}

#[derive(Serialize, Deserialize)]
struct StoredPassing {
    position: Position,
    format: Format,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude: Option<ChannelId>,
}

impl Serialize for Passing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let payload = &self.event.payload;
        let stored = StoredPassing {
            position: self.position,
            format: payload.format(),
            body: BASE64_STANDARD.encode(payload.bytes()),
            exclude: self.event.exclude.clone(),
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Passing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let StoredPassing { position, format, body, exclude } = StoredPassing::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(body).map_err(D::Error::custom)?;
        let payload = Payload::from_parts(format, bytes.into()).map_err(D::Error::custom)?;
        Ok(Self { position, event: Arc::new(Event { exclude, ..Event::message(payload) }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_comes_back_as_it_was_handed_over() {
        let channel = ChannelId::unique();
        let position = Position { epoch: 1, offset: 2, check: 3 };
        let event = Event { exclude: Some(channel.clone()), ..Event::message(Payload::binary(&b"\x00\xff"[..])) };
        let spread = Spread {
            topic: Topic::new("a").expect("a name"),
            events: vec![Passing { position, event: Arc::new(event.clone()) }],
            rest: vec![Rest { channel, joined: position }],
            cursor: Next::After("17".to_owned()),
            retained: true,
            handed: 1,
        };
        let json = serde_json::to_string(&Work(Todo::Spread(spread))).expect("serialises");
        let Work(Todo::Spread(back)) = serde_json::from_str(&json).expect("deserialises") else { panic!("{json}") };
        assert_eq!((back.events[0].position, &*back.events[0].event), (position, &event));
        assert!(back.cursor == Next::After("17".to_owned()) && back.rest.len() == 1 && back.retained);
    }
}
