//! Messages on their way to clients, encoded once for all of them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::event::{Format, Payload};

/// The kind of a message (RFC 6455 §5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
}

/// The longest header of a server's frame, in bytes.
pub const MAX_HEADER: usize = 10;

/// Writes the header of one whole, unmasked frame (RFC 6455 §5.2), and returns its length, 2 to [`MAX_HEADER`] bytes.
#[must_use]
pub fn frame_header(kind: FrameKind, length: usize) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    header[0] = match kind {
        FrameKind::Text => 0x81,
        FrameKind::Binary => 0x82,
    };
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => {
            header[1] = short;
            (header, 2)
        }
        (_, Ok(medium)) => {
            header[1] = 126;
            header[2..4].copy_from_slice(&medium.to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            (header, 10)
        }
    }
}

/// A message in the form that every node's socket writes: one unmasked frame. Gateways get only the payload.
///
/// Clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    header: u8,
}

impl Frame {
    /// Encodes a message of several parts.
    #[must_use]
    pub fn new(kind: FrameKind, parts: &[&[u8]]) -> Self {
        let length = parts.iter().map(|part| part.len()).sum();
        let (header, header_length) = frame_header(kind, length);
        let mut bytes = BytesMut::with_capacity(header_length + length);
        bytes.put_slice(&header[..header_length]);
        for part in parts {
            bytes.put_slice(part);
        }
        Self { bytes: bytes.freeze(), header: header[1].min(127) }
    }

    /// Encodes a payload.
    #[must_use]
    pub fn of(payload: &Payload) -> Self {
        let kind = match payload.format() {
            Format::Json | Format::Text => FrameKind::Text,
            Format::Binary => FrameKind::Binary,
        };
        Self::new(kind, &[payload.bytes()])
    }

    /// Header and payload.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The payload alone.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        let header = match self.header {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        self.bytes.slice(header..)
    }

    /// Whether it is text or bytes.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        if self.bytes[0] == 0x81 { FrameKind::Text } else { FrameKind::Binary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let payload = vec![b'x'; length];
            let frame = Frame::new(FrameKind::Binary, &[&payload]);
            assert_eq!(frame.bytes().len(), header + length);
            assert_eq!(frame.payload(), payload);
            assert_eq!(frame.kind(), FrameKind::Binary);
        }
        assert_eq!(&Frame::new(FrameKind::Text, &[b"a", b"bc"]).bytes()[..], b"\x81\x03abc");
    }
}
