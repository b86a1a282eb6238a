//! Frames and handshakes as bytes (RFC 6455 §4, §5.2): encoded once, before the clock runs.

use anyhow::{Context, Result, bail, ensure};

/// The opcode of a text frame.
pub(crate) const TEXT: u8 = 1;
/// The opcode of a close frame.
pub(crate) const CLOSE: u8 = 8;
/// The opcode of a ping.
pub(crate) const PING: u8 = 9;
/// The opcode of a pong.
pub(crate) const PONG: u8 = 10;

/// The example of a key and its answer in RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn header(opcode: u8, masked: bool, len: usize) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut head = vec![0x80 | opcode];
    if let Ok(short @ 0..126) = u8::try_from(len) {
        head.push(mask_bit | short);
    } else if let Ok(medium) = u16::try_from(len) {
        head.push(mask_bit | 126);
        head.extend_from_slice(&medium.to_be_bytes());
    } else {
        head.push(mask_bit | 127);
        head.extend_from_slice(&(len as u64).to_be_bytes());
    }
    head
}

/// A whole frame as a server sends it.
pub(crate) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, false, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// A whole frame as a client sends it, masked by a key made from `seed`.
pub(crate) fn client_frame(opcode: u8, payload: &[u8], seed: u32) -> Vec<u8> {
    let key = seed.wrapping_mul(2_654_435_761).wrapping_add(0x5bd1_e995).to_be_bytes();
    let mut frame = header(opcode, true, payload.len());
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// One frame of a server, borrowed from the bytes read.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// Its opcode.
    pub(crate) opcode: u8,
    /// Its payload.
    pub(crate) payload: &'a [u8],
    /// Bytes of header and payload together.
    pub(crate) len: usize,
}

/// Parses the frame that `bytes` begins with; `None` while it is not whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    ensure!(first & 0xf0 == 0x80, "the server sent a fragment or reserved bits: {first:#04x}");
    ensure!(second & 0x80 == 0, "the server masked a frame");
    let (head, len) = match second & 0x7f {
        126 => match rest {
            [a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(len) => (10, usize::try_from(u64::from_be_bytes(*len))?),
            None => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    Ok(bytes.get(head..head + len).map(|payload| Frame { opcode: first & 0x0f, payload, len: head + len }))
}

/// The frame that answers a ping, RFC 6455's or Engine.IO's.
pub(crate) fn pong(frame: &Frame<'_>) -> Option<Vec<u8>> {
    match (frame.opcode, frame.payload) {
        (PING, payload) => Some(client_frame(PONG, payload, 3)),
        (TEXT, b"2") => Some(client_frame(TEXT, b"3", 3)),
        _ => None,
    }
}

/// The upgrade request for `path`.
pub(crate) fn upgrade_request(path: &str, host: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Length of the response head once it is whole; anything but an accepted upgrade is an error.
pub(crate) fn upgraded(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("a response head is not text")?;
    if !head.starts_with("HTTP/1.1 101") || !head.contains(ACCEPT) {
        bail!("the server refused the upgrade: {head}");
    }
    Ok(Some(end + 4))
}

/// Distinct frames of one length, in turn and for ever: the bytes to send, or to expect, are a stretch of it.
#[derive(Debug)]
pub(crate) struct Ring {
    twice: Vec<u8>,
    period: usize,
    frame: usize,
}

impl Ring {
    /// Takes frames that must all be of one length.
    pub(crate) fn new(frames: &[Vec<u8>]) -> Result<Self> {
        let frame = frames.first().context("a ring needs a frame")?.len();
        ensure!(frames.iter().all(|each| each.len() == frame), "frames of a ring differ in length");
        let once = frames.concat();
        Ok(Self { period: once.len(), twice: [once.clone(), once].concat(), frame })
    }

    /// Bytes of one frame.
    pub(crate) fn frame(&self) -> u64 {
        self.frame as u64
    }

    /// The bytes at `offset` of the endless stream: at most `len`, at least half a turn of the ring.
    pub(crate) fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = usize::try_from(offset % self.period as u64).expect("below the period, a usize");
        &self.twice[start..self.twice.len().min(start + len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_parsed_as_encoded() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![7; len];
            let frame = server_frame(TEXT, &payload);
            let parsed = parse(&frame).unwrap().unwrap();
            assert_eq!((parsed.opcode, parsed.payload, parsed.len), (TEXT, &payload[..], frame.len()));
            assert!(parse(&frame[..frame.len() - 1]).unwrap().is_none());
        }
    }

    #[test]
    fn masked_frames_unmask_to_their_payload() {
        let frame = client_frame(TEXT, b"{\"action\":\"echo\"}", 9);
        let key = &frame[2..6];
        let clear: Vec<u8> = frame[6..].iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(clear, b"{\"action\":\"echo\"}");
        assert_ne!(&frame[6..], &clear[..]);
    }

    #[test]
    fn a_ring_has_no_end() {
        let ring = Ring::new(&[b"ab".to_vec(), b"cd".to_vec()]).unwrap();
        assert_eq!(ring.at(0, 4), b"abcd");
        assert_eq!(ring.at(7, 3), b"dab");
        assert_eq!(ring.at(6, 9), b"cdabcd"[..6].as_ref());
    }
}
