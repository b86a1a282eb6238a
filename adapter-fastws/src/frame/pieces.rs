use fastwebsockets::unmask;
use strait_core::Inbound;

use super::guard::{Header, MAX_HEADER};
use super::violation::Violation;

/// Bytes in two pieces: the rest of an earlier chunk, and the chunk.
#[derive(Clone, Copy)]
pub(super) struct Pieces<'a> {
    pub(super) carry: &'a [u8],
    pub(super) chunk: &'a [u8],
}

impl<'a> Pieces<'a> {
    pub(super) fn len(&self) -> usize {
        self.carry.len() + self.chunk.len()
    }

    /// At most a header's length of bytes from `at` on, joined in `scratch` if they lie in both pieces.
    #[inline]
    pub(super) fn peek(self, at: usize, scratch: &'a mut [u8; MAX_HEADER]) -> &'a [u8] {
        let Self { carry, chunk } = self;
        match carry.get(at..) {
            None | Some([]) => &chunk[at - carry.len()..],
            Some(front) if front.len() >= MAX_HEADER => front,
            Some(front) => {
                let back = &chunk[..chunk.len().min(MAX_HEADER - front.len())];
                let len = front.len() + back.len();
                scratch[..front.len()].copy_from_slice(front);
                scratch[front.len()..len].copy_from_slice(back);
                &scratch[..len]
            }
        }
    }

    /// The payload of the complete frame at `at`.
    pub(super) fn payload(self, at: usize, header: &Header, mask: [u8; 4]) -> Masked<'a> {
        let (from, to) = (at + header.head, at + header.frame_len());
        let Self { carry, chunk } = self;
        let edge = carry.len();
        let front = &carry[from.min(edge)..to.min(edge)];
        let back = &chunk[from.saturating_sub(edge)..to.saturating_sub(edge)];
        Masked { front, back, mask }
    }
}

/// A masked payload, in two pieces.
pub(super) struct Masked<'a> {
    front: &'a [u8],
    back: &'a [u8],
    mask: [u8; 4],
}

impl Masked<'_> {
    fn len(&self) -> usize {
        self.front.len() + self.back.len()
    }

    /// Appends the unmasked payload.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.extend_from_slice(self.front);
        bytes.extend_from_slice(self.back);
        unmask(&mut bytes[start..], self.mask);
    }

    /// The unmasked payload, in an allocation of its exact size: a handler may keep it.
    pub(super) fn unmasked(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.append_to(&mut bytes);
        bytes
    }

    /// The unmasked payload as text.
    pub(super) fn text(&self) -> Result<String, Violation> {
        let mut bytes = Inbound::buffer(self.len());
        self.append_to(&mut bytes);
        String::from_utf8(bytes).map_err(|_| Violation::Utf8)
    }
}
