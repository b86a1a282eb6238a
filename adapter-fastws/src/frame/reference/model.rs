//! RFC 6455 on a server, over a whole stream at once: easy to compare with the RFC's text rather than fast.

use super::super::Incoming;

/// The state of a stream after its last byte; a failure with its close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::frame) enum Verdict {
    Idle,
    Unfinished,
    Closed,
    Failed(u16),
}

struct Message {
    text: bool,
    data: Vec<u8>,
}

pub(super) fn decode(bytes: &[u8], max_message: usize) -> (Vec<Incoming>, Verdict) {
    let mut items = Vec::new();
    let verdict = read(bytes, max_message as u64, &mut items).unwrap_or_else(Verdict::Failed);
    (items, verdict)
}

fn read(bytes: &[u8], max_message: u64, items: &mut Vec<Incoming>) -> Result<Verdict, u16> {
    let mut rest = bytes;
    let mut message: Option<Message> = None;
    loop {
        if rest.is_empty() && message.is_none() {
            return Ok(Verdict::Idle);
        }
        if rest.len() < 2 {
            return Ok(Verdict::Unfinished);
        }

        // §5.2, the first two bytes.
        let fin = rest[0] & 0b1000_0000 != 0;
        let reserved = rest[0] & 0b0111_0000;
        let opcode = rest[0] & 0b0000_1111;
        let mask_bit = rest[1] & 0b1000_0000 != 0;
        let length_code = rest[1] & 0b0111_1111;
        let control = opcode >= 8;
        if reserved != 0 || !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10) || !mask_bit {
            return Err(1002);
        }
        // §5.5: control frames are short and whole.
        if control && (!fin || length_code > 125) {
            return Err(1002);
        }
        // §5.4: a continuation belongs to a message, and a message starts outside of one.
        if !control && (opcode == 0) != message.is_some() {
            return Err(1002);
        }

        // §5.2, the length.
        let (length_bytes, least) = match length_code {
            126 => (2, 126),
            127 => (8, 65_536),
            _ => (0, 0),
        };
        if rest.len() < 2 + length_bytes {
            return Ok(Verdict::Unfinished);
        }
        let mut length = u64::from(length_code);
        if length_bytes > 0 {
            length = rest[2..2 + length_bytes].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        }
        if length < least || length > i64::MAX as u64 {
            return Err(1002);
        }
        let before = message.as_ref().map_or(0, |message| message.data.len() as u64);
        if !control && before + length > max_message {
            return Err(1009);
        }

        // §5.3, the mask and the payload.
        let start = 2 + length_bytes + 4;
        if (rest.len() as u64) < start as u64 + length {
            return Ok(Verdict::Unfinished);
        }
        let (frame, after) = rest.split_at(start + length as usize);
        rest = after;
        let (mask, masked) = (&frame[start - 4..start], &frame[start..]);
        let payload: Vec<u8> = masked.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();

        match opcode {
            8 => {
                items.push(Incoming::Close(close(&payload)?));
                return Ok(Verdict::Closed);
            }
            9 => items.push(Incoming::Ping(payload)),
            10 => items.push(Incoming::Pong),
            _ => {
                let mut joined = message.take().unwrap_or(Message { text: opcode == 1, data: Vec::new() });
                joined.data.extend(payload);
                if joined.text && !could_be_utf8(&joined.data, fin) {
                    return Err(1007);
                }
                match (fin, joined.text) {
                    (false, _) => message = Some(joined),
                    (true, true) => items.push(Incoming::Text(String::from_utf8(joined.data).map_err(|_| 1007_u16)?)),
                    (true, false) => items.push(Incoming::Binary(joined.data)),
                }
            }
        }
    }
}

/// §8.1. Text before the message's end may stop inside a character.
fn could_be_utf8(data: &[u8], at_its_end: bool) -> bool {
    match std::str::from_utf8(data) {
        Ok(_) => true,
        Err(error) => !at_its_end && error.error_len().is_none(),
    }
}

/// §5.5.1 and §7.4, with the codes that IANA has registered since.
fn close(payload: &[u8]) -> Result<Option<(u16, String)>, u16> {
    if payload.is_empty() {
        return Ok(None);
    }
    if payload.len() == 1 {
        return Err(1002);
    }
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    let registered = (1000..=1014).contains(&code) && ![1004, 1005, 1006].contains(&code);
    if !registered && !(3000..5000).contains(&code) {
        return Err(1002);
    }
    let reason = String::from_utf8(payload[2..].to_vec()).map_err(|_| 1007u16)?;
    Ok(Some((code, reason)))
}
