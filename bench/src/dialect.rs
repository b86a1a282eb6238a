//! The dialect of a peer: its path, its first messages, and the frames of a payload.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::wire::{self, Ring};

/// Messages in one turn of a ring; one connection has no more in flight.
pub(crate) const TURN: usize = 64;

/// The protocols that the peers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dialect {
    /// Bytes over TCP, without a handshake.
    Tcp,
    /// WebSocket messages as they are; a room is its path.
    Bare,
    /// Strait's plain protocol: `/echo`, and topics at `/fan`.
    Strait,
    /// Socket.IO over Engine.IO, WebSocket transport.
    SocketIo,
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Asks and is answered.
    Echo,
    /// Receives publications.
    Member,
    /// The same, with a session.
    Guest,
    /// Publishes, and is no member.
    Publisher,
}

/// One step before a connection is ready.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Write these bytes.
    Send(Vec<u8>),
    /// The upgrade's response must come.
    Upgraded,
    /// A text frame with this beginning must come.
    Text(String),
    /// A close frame must come.
    Closed,
    /// Exactly these bytes must come.
    Exactly(Vec<u8>),
}

impl Dialect {
    fn path(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::SocketIo, _) => "/socket.io/?EIO=4&transport=websocket",
            (_, Role::Echo) => "/echo",
            (Self::Bare, Role::Publisher) => "/publish",
            (Self::Strait, Role::Guest) => "/fan?guest=true",
            _ => "/fan",
        }
    }

    /// The steps before the first message.
    pub(crate) fn opening(self, role: Role, host: &str) -> Vec<Step> {
        if self == Self::Tcp {
            return Vec::new();
        }
        let mut steps = vec![Step::Send(wire::upgrade_request(self.path(role), host)), Step::Upgraded];
        let say = |text: &str| Step::Send(wire::client_frame(wire::TEXT, text.as_bytes(), 1));
        if self == Self::SocketIo {
            steps.extend([Step::Text("0{".into()), say("40"), Step::Text("40".into())]);
        }
        if matches!(role, Role::Member | Role::Guest) {
            match self {
                Self::Strait => steps.extend(subscription(0)),
                Self::SocketIo => {
                    steps.extend([say(r#"42["subscribe"]"#), Step::Text(r#"42["subscribed""#.into())]);
                }
                Self::Bare => steps.push(Step::Text("joined".into())),
                Self::Tcp => {}
            }
        }
        steps
    }

    /// As [`opening`](Self::opening) for a member, of several topics where there are such.
    pub(crate) fn member_of(self, topics: usize, host: &str) -> Vec<Step> {
        let mut steps = self.opening(Role::Member, host);
        steps.extend((1..topics).flat_map(subscription));
        steps
    }

    /// One message and its answer, so that the server's buffers for both exist.
    pub(crate) fn touch(self) -> Result<Vec<Step>> {
        let (ask, answer) = self.echo(32)?;
        let len = |ring: &Ring| usize::try_from(ring.frame()).expect("a frame is in memory");
        Ok(vec![Step::Send(ask.at(0, len(&ask)).to_vec()), Step::Exactly(answer.at(0, len(&answer)).to_vec())])
    }

    /// The close handshake, begun by the client; where a dialect has none, an echo shows that the server had accepted.
    pub(crate) fn closing(self) -> Result<Vec<Step>> {
        match self {
            Self::Tcp => self.touch(),
            _ => Ok(vec![Step::Send(wire::client_frame(wire::CLOSE, &1000_u16.to_be_bytes(), 2)), Step::Closed]),
        }
    }

    /// The messages to send and the answers to expect, for payloads of `size` bytes of JSON.
    pub(crate) fn echo(self, size: usize) -> Result<(Ring, Ring)> {
        self.rings(
            |seq| echo_payload(size, seq),
            |payload| match self {
                Self::SocketIo => format!(r#"42["echo",{payload}]"#),
                _ => payload.to_owned(),
            },
            |payload| match self {
                Self::SocketIo => format!(r#"42["echo",{payload}]"#),
                _ => payload.to_owned(),
            },
        )
    }

    /// The rings of the publisher's messages and of the events that every member must get. Events are of `size` bytes
    /// of JSON, spread over `topics` where the dialect has topics.
    pub(crate) fn publication(self, size: usize, topics: usize) -> Result<(Ring, Ring)> {
        let mut seq = 0;
        self.rings(
            |seq| event_payload(size, seq),
            |event| match self {
                Self::Strait => {
                    let topic = topic(seq * topics / TURN);
                    seq += 1;
                    format!(r#"{{"action":"publish","topic":"{topic}","data":{event}}}"#)
                }
                Self::SocketIo => format!(r#"42["publish",{event}]"#),
                _ => event.to_owned(),
            },
            |event| match self {
                Self::SocketIo => format!(r#"42["event",{event}]"#),
                _ => event.to_owned(),
            },
        )
    }

    /// The beginning of an answer to a publication, where there is one.
    pub(crate) fn publish_answer(self) -> Option<&'static str> {
        (self == Self::Strait).then_some(r#"{"action":"publish""#)
    }

    fn rings(
        self,
        payload: impl Fn(usize) -> Result<String>,
        mut ask: impl FnMut(&str) -> String,
        answer: impl Fn(&str) -> String,
    ) -> Result<(Ring, Ring)> {
        let (mut asks, mut answers) = (Vec::new(), Vec::new());
        for (seed, seq) in (0..).zip(0..TURN) {
            let payload = payload(seq)?;
            let answer = wire::server_frame(wire::TEXT, answer(&payload).as_bytes());
            asks.push(match self {
                Self::Tcp => answer.clone(),
                _ => wire::client_frame(wire::TEXT, ask(&payload).as_bytes(), seed),
            });
            answers.push(answer);
        }
        Ok((Ring::new(&asks)?, Ring::new(&answers)?))
    }
}

/// Strait's topics; their names have one length, as all frames of a ring have.
fn topic(number: usize) -> String {
    format!("fan:{number:06}")
}

/// The steps of a subscription to one of Strait's topics.
fn subscription(number: usize) -> [Step; 2] {
    let ask = format!(r#"{{"action":"subscribe","topic":"{}"}}"#, topic(number));
    [Step::Send(wire::client_frame(wire::TEXT, ask.as_bytes(), 1)), Step::Text(r#"{"action":"subscribe"}"#.into())]
}

/// The first number of each sequence, so that all numbers have ten digits.
const FIRST: usize = 1_000_000_000;

fn echo_payload(size: usize, seq: usize) -> Result<String> {
    let number = FIRST + seq;
    if size == 32 {
        return Ok(format!(r#"{{"action":"echo","n":{number}}}"#));
    }
    padded(format!(r#"{{"action":"echo","data":"{number}"#), size)
}

fn event_payload(size: usize, seq: usize) -> Result<String> {
    padded(format!(r#"{{"seq":{},"text":""#, FIRST + seq), size)
}

/// Fills the string member at the end of `open`, and closes it and the object.
fn padded(mut open: String, size: usize) -> Result<String> {
    let least = open.len() + 2;
    ensure!(size >= least, "a payload here takes at least {least} bytes, not {size}");
    let fill = size - least;
    write!(open, "{:x<fill$}\"}}", "")?;
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_size_asked_for_and_are_json() {
        for size in [32, 100, 1024] {
            let payload = echo_payload(size, 63).unwrap();
            assert_eq!(payload.len(), size);
            serde_json::from_str::<serde_json::Value>(&payload).unwrap();
        }
        let event = event_payload(100, 0).unwrap();
        assert_eq!(event.len(), 100);
        serde_json::from_str::<serde_json::Value>(&event).unwrap();
        assert!(echo_payload(20, 0).is_err());
    }

    #[test]
    fn every_dialect_can_ask_and_publish() {
        for dialect in Dialect::value_variants() {
            dialect.echo(1024).unwrap();
            dialect.publication(100, 1000).unwrap();
        }
    }
}
