//! Commands as rows of a node's mailbox.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use strait_core::store::{Command, Fence};
use strait_core::{ChannelId, Close, Event, EventKind, Payload, Position, in_full};

use crate::database::Values;
use crate::values::{EventColumns, Read, corrupt, event_of_kind, get};

/// The content of a command beside the event of a direct send.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Note {
    Deliver { channel: ChannelId, position: Option<Position>, kind: EventKind },
    Close { channel: ChannelId, close: Close },
    Evict { channel: ChannelId, generation: u64 },
}

/// The most commands that wait for a node: far more than one poll takes out.
pub(super) const MOST: i64 = 10_000;

pub(super) struct Mail<'a> {
    notes: Vec<String>,
    events: Vec<Option<&'a Event>>,
}

impl<'a> Mail<'a> {
    pub(super) fn new(commands: &'a [Command]) -> Result<Self, serde_json::Error> {
        let mut mail = Self { notes: Vec::new(), events: Vec::new() };
        for command in commands {
            let (note, event) = match command {
                Command::Deliver { channel, position, event } => {
                    let note = Note::Deliver { channel: channel.clone(), position: *position, kind: event.kind };
                    (note, Some(&**event))
                }
                Command::Close { channel, close } => {
                    (Note::Close { channel: channel.clone(), close: close.clone() }, None)
                }
                Command::Evict { fence } => {
                    (Note::Evict { channel: fence.id.clone(), generation: fence.generation }, None)
                }
            };
            mail.notes.push(serde_json::to_string(&note)?);
            mail.events.push(event);
        }
        Ok(mail)
    }

    pub(super) fn bind(&self, values: Values) -> Values {
        let nothing = Event::message(Payload::text(""));
        let mut columns = EventColumns::default();
        self.events.iter().for_each(|event| columns.push(event.unwrap_or(&nothing)));
        columns.bind(values.with(&self.notes))
    }
}

/// A row of a mailbox; without a command if it cannot be parsed.
pub(super) struct Item {
    pub(super) seq: i64,
    pub(super) command: Option<Command>,
}

/// Parses a row, if it is one of a mailbox.
pub(super) fn item(row: &PgRow) -> Read<Option<Item>> {
    let Some(note) = get::<Option<&str>>(row, "note")? else { return Ok(None) };
    let command = command(row, note).inspect_err(|error| {
        // It must not block the rows after it.
        tracing::error!(error = %in_full(error), "a command was not understood");
    });
    Ok(Some(Item { seq: get(row, "seq")?, command: command.ok() }))
}

fn command(row: &PgRow, note: &str) -> Read<Command> {
    Ok(match serde_json::from_str(note).map_err(corrupt)? {
        Note::Deliver { channel, position, kind } => {
            let event = Arc::new(event_of_kind(row, kind, str::to_owned)?);
            Command::Deliver { channel, position, event }
        }
        Note::Close { channel, close } => Command::Close { channel, close },
        Note::Evict { channel, generation } => Command::Evict { fence: Fence { id: channel, generation } },
    })
}
