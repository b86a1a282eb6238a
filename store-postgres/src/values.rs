//! Converts between the core's types and Postgres's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{Decode, Postgres, Row, Type};
use strait_core::store::{Fence, Location, Record, RecordPhase, StoredSession, Versioned};
use strait_core::{ChannelId, ConnectionId, Event, EventKind, Format, NodeId, Payload, Position, Publisher, UserId};

use crate::database::Values;

/// The longest duration, a hundred years in milliseconds; longer ones are cut to it.
const LONGEST: i64 = 100 * 365 * 24 * 3600 * 1000;

pub(crate) type Read<T> = Result<T, sqlx::Error>;

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST))
}

/// Converts a number; the database has no entry for one beyond its range.
pub(crate) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, column: &str) -> Read<T> {
    row.try_get(column)
}

/// A value in the database that the core refuses.
pub(crate) fn corrupt(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(source.into())
}

pub(crate) fn unsigned(row: &PgRow, column: &str) -> Read<u64> {
    u64::try_from(get::<i64>(row, column)?).map_err(corrupt)
}

pub(crate) fn name<N: TryFrom<String, Error: std::error::Error + Send + Sync + 'static>>(name: String) -> Read<N> {
    N::try_from(name).map_err(corrupt)
}

pub(crate) fn time(row: &PgRow, column: &str) -> Read<SystemTime> {
    Ok(SystemTime::UNIX_EPOCH + Duration::from_micros(unsigned(row, column)?))
}

fn bytes(row: &PgRow, column: &str) -> Read<Option<Bytes>> {
    Ok(get::<Option<Vec<u8>>>(row, column)?.map(Bytes::from))
}

pub(crate) fn position(row: &PgRow, epoch: &str, offset: &str, check: &str) -> Read<Position> {
    let check = u32::try_from(get::<i64>(row, check)?).map_err(corrupt)?;
    Ok(Position { epoch: unsigned(row, epoch)?, offset: unsigned(row, offset)?, check })
}

/// Whether it is at a gateway, the gateway's or the node's name, the connection.
pub(crate) fn parts(location: &Location) -> (bool, &str, &str) {
    match location {
        Location::Node { node, connection } => (false, node.as_str(), connection.as_str()),
        Location::Gateway { endpoint, connection } => (true, endpoint, connection.as_str()),
    }
}

pub(crate) fn location(gateway: bool, place: String, connection: String) -> Read<Location> {
    let connection: ConnectionId = name(connection)?;
    Ok(match gateway {
        true => Location::Gateway { endpoint: Arc::from(place), connection },
        false => Location::Node { node: name::<NodeId>(place)?, connection },
    })
}

pub(crate) fn record(row: &PgRow) -> Read<Record> {
    let phase = match get::<i16>(row, "phase")? {
        0 => RecordPhase::Opening,
        1 => RecordPhase::Open,
        2 => RecordPhase::Detached { until: time(row, "due")? },
        3 => RecordPhase::Dead,
        other => return Err(corrupt(format!("there is no phase {other}"))),
    };
    let session = match get::<Option<String>>(row, "user_id")? {
        Some(user) => {
            let value = bytes(row, "user_value")?.unwrap_or_default();
            Some(StoredSession { user: name::<UserId>(user)?, value })
        }
        None => None,
    };
    let grace = match get::<Option<i64>>(row, "grace")? {
        Some(grace) => Some(Duration::from_millis(u64::try_from(grace).map_err(corrupt)?)),
        None => None,
    };
    Ok(Record {
        id: name::<ChannelId>(get(row, "id")?)?,
        endpoint: Arc::from(get::<String>(row, "endpoint")?),
        generation: unsigned(row, "generation")?,
        phase,
        location: location(get(row, "at_gateway")?, get(row, "place")?, get(row, "connection")?)?,
        opening: bytes(row, "opening")?.unwrap_or_default(),
        state: Versioned { version: unsigned(row, "state_version")?, value: bytes(row, "state")? },
        session: Versioned { version: unsigned(row, "session_version")?, value: session },
        grace,
        opened_at: time(row, "opened_at")?,
    })
}

/// Ids and generations, each as an array.
pub(crate) fn fences<'a>(fences: impl Iterator<Item = &'a Fence>) -> (Vec<&'a str>, Vec<i64>) {
    fences.map(|fence| (fence.id.as_str(), number(fence.generation))).unzip()
}

/// Events, column by column.
#[derive(Default)]
pub(crate) struct EventColumns<'a> {
    kinds: Vec<i16>,
    formats: Vec<i16>,
    payloads: Vec<&'a [u8]>,
    publishers: Vec<Option<&'a str>>,
    turns: Vec<Option<i64>>,
    excludes: Vec<Option<&'a str>>,
}

impl<'a> EventColumns<'a> {
    pub(crate) fn push(&mut self, event: &'a Event) {
        self.kinds.push(match event.kind {
            EventKind::Message => 0,
            EventKind::Join => 1,
            EventKind::Leave => 2,
        });
        self.formats.push(format(event.payload.format()));
        self.payloads.push(event.payload.bytes());
        self.publishers.push(event.publisher.as_ref().map(|publisher| publisher.channel.as_str()));
        self.turns.push(event.publisher.as_ref().map(|publisher| i64::from(publisher.turn)));
        self.excludes.push(event.exclude.as_ref().map(ChannelId::as_str));
    }

    /// As six arrays: kinds, formats, payloads, publishers, turns, excludes.
    pub(crate) fn bind(self, values: Values) -> Values {
        let values = values.with(self.kinds).with(self.formats).with(self.payloads);
        values.with(self.publishers).with(self.turns).with(self.excludes)
    }
}

pub(crate) fn format(format: Format) -> i16 {
    match format {
        Format::Json => 0,
        Format::Text => 1,
        Format::Binary => 2,
    }
}

/// An event in columns with this prefix.
pub(crate) fn event(row: &PgRow, prefix: &str) -> Read<Event> {
    let column = |name: &str| format!("{prefix}{name}");
    let kind = match get::<i16>(row, &column("kind"))? {
        0 => EventKind::Message,
        1 => EventKind::Join,
        2 => EventKind::Leave,
        other => return Err(corrupt(format!("there is no kind of event {other}"))),
    };
    event_of_kind(row, kind, column)
}

pub(crate) fn event_of_kind(row: &PgRow, kind: EventKind, column: impl Fn(&str) -> String) -> Read<Event> {
    let format = match get::<i16>(row, &column("format"))? {
        0 => Format::Json,
        1 => Format::Text,
        2 => Format::Binary,
        other => return Err(corrupt(format!("there is no format {other}"))),
    };
    let payload = bytes(row, &column("payload"))?.unwrap_or_default();
    let channel = |name_of: &str| -> Read<Option<ChannelId>> {
        get::<Option<String>>(row, &column(name_of))?.map(name).transpose()
    };
    let publisher = match channel("publisher")? {
        Some(channel) => {
            let turn = u32::try_from(get::<i64>(row, &column("turn"))?).map_err(corrupt)?;
            Some(Publisher { channel, turn })
        }
        None => None,
    };
    Ok(Event {
        kind,
        payload: Payload::from_parts(format, payload).map_err(corrupt)?,
        publisher,
        exclude: channel("exclude")?,
    })
}
