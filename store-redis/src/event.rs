//! Events and commands as bytes, in logs and on shard channels.

use std::fmt::Write;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use strait_core::store::{Command, Fence, PresenceEntry};
use strait_core::{ChannelId, Close, Event, EventKind, Format, Payload, Position, Publisher, UserId};

/// The bytes are no event or command of this version of Strait.
#[derive(Debug, thiserror::Error)]
#[error("what Redis holds is not of Strait's making, or of another version of it")]
pub(crate) struct Foreign;

/// Kind, format, publisher with turn, excluded channel, payload. A name has at most 255 bytes: one byte holds its
/// length, 0 for none.
pub(crate) fn encode(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(event.payload.bytes().len() + 96);
    bytes.put_u8(match event.kind {
        EventKind::Message => 0,
        EventKind::Join => 1,
        EventKind::Leave => 2,
    });
    bytes.put_u8(match event.payload.format() {
        Format::Json => 0,
        Format::Text => 1,
        Format::Binary => 2,
    });
    put_name(&mut bytes, event.publisher.as_ref().map_or("", |publisher| publisher.channel.as_str()));
    if let Some(publisher) = &event.publisher {
        bytes.put_u32(publisher.turn);
    }
    put_name(&mut bytes, event.exclude.as_ref().map_or("", ChannelId::as_str));
    bytes.put_slice(event.payload.bytes());
    bytes
}

pub(crate) fn decode(mut bytes: Bytes) -> Result<Event, Foreign> {
    let kind = match take_u8(&mut bytes)? {
        0 => EventKind::Message,
        1 => EventKind::Join,
        2 => EventKind::Leave,
        _ => return Err(Foreign),
    };
    let format = match take_u8(&mut bytes)? {
        0 => Format::Json,
        1 => Format::Text,
        2 => Format::Binary,
        _ => return Err(Foreign),
    };
    let publisher = match take_channel(&mut bytes)? {
        Some(channel) => Some(Publisher { channel, turn: bytes.try_get_u32().map_err(|_| Foreign)? }),
        None => None,
    };
    let exclude = take_channel(&mut bytes)?;
    let payload = Payload::from_parts(format, bytes).map_err(|_| Foreign)?;
    Ok(Event { kind, payload, publisher, exclude })
}

pub(crate) fn encode_command(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    let start = |bytes: &mut Vec<u8>, kind, channel: &ChannelId| {
        bytes.put_u8(kind);
        put_name(bytes, channel.as_str());
    };
    match command {
        Command::Deliver { channel, position, event } => {
            start(&mut bytes, 0, channel);
            bytes.put_u8(u8::from(position.is_some()));
            if let Some(position) = position {
                bytes.put_u64(position.epoch);
                bytes.put_u64(position.offset);
                bytes.put_u32(position.check);
            }
            bytes.extend(encode(event));
        }
        Command::Close { channel, close } => {
            start(&mut bytes, 1, channel);
            bytes.put_u16(close.code());
            bytes.put_slice(close.reason().as_bytes());
        }
        Command::Evict { fence } => {
            start(&mut bytes, 2, &fence.id);
            bytes.put_u64(fence.generation);
        }
    }
    bytes
}

pub(crate) fn decode_command(mut bytes: Bytes) -> Result<Command, Foreign> {
    let kind = take_u8(&mut bytes)?;
    let channel = take_channel(&mut bytes)?.ok_or(Foreign)?;
    match kind {
        0 => {
            let position = match take_u8(&mut bytes)? {
                0 => None,
                _ => Some(Position {
                    epoch: bytes.try_get_u64().map_err(|_| Foreign)?,
                    offset: bytes.try_get_u64().map_err(|_| Foreign)?,
                    check: bytes.try_get_u32().map_err(|_| Foreign)?,
                }),
            };
            Ok(Command::Deliver { channel, position, event: Arc::new(decode(bytes)?) })
        }
        1 => {
            let code = bytes.try_get_u16().map_err(|_| Foreign)?;
            let reason = std::str::from_utf8(&bytes).map_err(|_| Foreign)?.to_owned();
            Ok(Command::Close { channel, close: Close::new(code, reason).ok_or(Foreign)? })
        }
        2 => {
            let generation = bytes.try_get_u64().map_err(|_| Foreign)?;
            Ok(Command::Evict { fence: Fence { id: channel, generation } })
        }
        _ => Err(Foreign),
    }
}

/// The user, if there is one, then the data, if there are any.
pub(crate) fn encode_entry(entry: &PresenceEntry) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_name(&mut bytes, entry.user.as_ref().map_or("", UserId::as_str));
    if let Some(data) = &entry.data {
        bytes.put_u8(1);
        bytes.put_slice(data);
    }
    bytes
}

pub(crate) fn decode_entry(mut bytes: Bytes) -> Result<PresenceEntry, Foreign> {
    let user = match take_name(&mut bytes)?.as_str() {
        "" => None,
        user => Some(UserId::new(user).map_err(|_| Foreign)?),
    };
    let data = (!bytes.is_empty()).then(|| bytes.split_off(1));
    Ok(PresenceEntry { user, data })
}

/// The start of a shard channel's message, behind its first event's `epoch-offset-`. It holds the check of each event
/// or command, and the length of each but the last. A line feed and the events follow.
pub(crate) fn frame_start(parts: impl ExactSizeIterator<Item = (u32, usize)>) -> Vec<u8> {
    let (mut start, count) = (String::with_capacity(12), parts.len());
    for (n, (check, length)) in parts.enumerate() {
        let comma = if n == 0 { "" } else { "," };
        // Writing to a string never fails.
        let _ = write!(start, "{comma}{check}");
        if n + 1 < count {
            let _ = write!(start, ":{length}");
        }
    }
    start.into_bytes()
}

/// The events or commands of a shard channel's message, with their positions.
pub(crate) fn split_frame(frame: &Bytes) -> Result<Vec<(Position, Bytes)>, Foreign> {
    let end = frame.iter().position(|byte| *byte == b'\n').ok_or(Foreign)?;
    let start = std::str::from_utf8(&frame[..end]).map_err(|_| Foreign)?;
    let mut rest = frame.slice(end + 1..);
    let mut numbers = start.splitn(3, '-');
    let mut number = || numbers.next().ok_or(Foreign);
    let number_of = |text: &str| text.parse::<u64>().map_err(|_| Foreign);
    let (epoch, mut offset, checks) = (number_of(number()?)?, number_of(number()?)?, number()?);
    let mut parts = Vec::with_capacity(1);
    for part in checks.split(',') {
        let (check, blob) = match part.split_once(':') {
            Some((check, length)) => {
                let length = length.parse().ok().filter(|length| *length <= rest.len()).ok_or(Foreign)?;
                (check, rest.split_to(length))
            }
            // The last event takes the rest.
            None => (part, std::mem::take(&mut rest)),
        };
        parts.push((Position { epoch, offset, check: check.parse().map_err(|_| Foreign)? }, blob));
        offset = offset.checked_add(1).ok_or(Foreign)?;
    }
    if rest.is_empty() { Ok(parts) } else { Err(Foreign) }
}

/// `epoch-offset-check`.
pub(crate) fn parse_position(text: &str) -> Option<Position> {
    let mut parts = text.splitn(3, '-');
    Some(Position {
        epoch: parts.next()?.parse().ok()?,
        offset: parts.next()?.parse().ok()?,
        check: parts.next()?.parse().ok()?,
    })
}

pub(crate) fn position_text(position: &Position) -> String {
    format!("{}-{}-{}", position.epoch, position.offset, position.check)
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    // Names have at most 255 bytes.
    bytes.put_u8(name.len() as u8);
    bytes.put_slice(name.as_bytes());
}

fn take_u8(bytes: &mut Bytes) -> Result<u8, Foreign> {
    bytes.try_get_u8().map_err(|_| Foreign)
}

fn take_name(bytes: &mut Bytes) -> Result<String, Foreign> {
    let length = usize::from(take_u8(bytes)?);
    if bytes.len() < length {
        return Err(Foreign);
    }
    let name: BytesMut = bytes.split_to(length).into();
    String::from_utf8(name.into()).map_err(|_| Foreign)
}

fn take_channel(bytes: &mut Bytes) -> Result<Option<ChannelId>, Foreign> {
    match take_name(bytes)?.as_str() {
        "" => Ok(None),
        name => ChannelId::new(name).map(Some).map_err(|_| Foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelId {
        ChannelId::new(name).expect("valid")
    }

    fn events() -> Vec<Event> {
        let payloads = [
            Payload::text("é"),
            Payload::text(""),
            Payload::binary(vec![0, 255]),
            Payload::json(&[1]).expect("numbers serialise"),
        ];
        let callers = [None, Some(channel("x")), Some(channel(&"y".repeat(255)))];
        let mut events = Vec::new();
        for payload in payloads {
            for caller in &callers {
                let publisher = caller.clone().map(|channel| Publisher { channel, turn: u32::MAX });
                let (exclude, payload) = (caller.clone(), payload.clone());
                events.push(Event { kind: EventKind::Leave, payload, publisher, exclude });
            }
        }
        events
    }

    #[test]
    fn events_and_commands_come_back_as_they_were() {
        for event in events() {
            assert_eq!(decode(encode(&event).into()).expect("it is one"), event);
            let position = Some(Position { epoch: 1 << 52, offset: 3, check: 9 });
            let command = Command::Deliver { channel: channel("c"), position, event: Arc::new(event) };
            assert_eq!(decode_command(encode_command(&command).into()).expect("it is one"), command);
        }
    }

    #[test]
    fn a_message_holds_a_run_of_events() {
        let blobs = ["first", "", "1,2\n3:4-5"];
        for count in 1..=blobs.len() {
            let parts = blobs[..count].iter().enumerate().map(|(n, blob)| (n as u32 + 7, blob.len()));
            let mut frame = b"1-41-".to_vec();
            frame.extend(frame_start(parts));
            frame.push(b'\n');
            blobs[..count].iter().for_each(|blob| frame.extend(blob.as_bytes()));
            let split = split_frame(&frame.into()).expect("it is one");
            let expected = blobs[..count].iter().enumerate().map(|(n, blob)| {
                let position = Position { epoch: 1, offset: 41 + n as u64, check: n as u32 + 7 };
                (position, Bytes::from(*blob))
            });
            assert_eq!(split, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_cut_off_or_foreign_is_an_error_and_no_panic() {
        for event in events() {
            let whole = encode(&event);
            let start = whole.len() - event.payload.bytes().len();
            for end in 0..start {
                assert!(decode(Bytes::copy_from_slice(&whole[..end])).is_err(), "{event:?} cut at {end}");
            }
            let evict = Command::Evict { fence: Fence { id: channel("c"), generation: 7 } };
            let command = encode_command(&evict);
            for end in 0..command.len() {
                assert!(decode_command(Bytes::copy_from_slice(&command[..end])).is_err(), "cut at {end}");
            }
        }
        for foreign in
            [&b"\x09\x00\x00\x00"[..], b"\x00\x09\x00\x00", b"\x00\x00\x00\x00\xff", b"\x00\x00\x01\x00aaaa\x00"]
        {
            assert!(decode(Bytes::from_static(foreign)).is_err());
        }
        for foreign in ["", "1-2", "1-2-x", "1-2-99999999999", "-1-2-3"] {
            assert_eq!(parse_position(foreign), None);
        }
        for foreign in ["1-2-3", "1-2\n", "1-2-x\n", "1-2-3:4,5\nabc", "1-2-3:1\nab", "1-2-\n", "1-2-3:-1,4\na"] {
            assert!(split_frame(&Bytes::from_static(foreign.as_bytes())).is_err(), "{foreign:?}");
        }
    }
}
