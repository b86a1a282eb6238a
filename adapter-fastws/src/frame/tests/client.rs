//! Encodes frames as a client does, rightly or wrongly.

const MASK: [u8; 4] = [0x12, 0x93, 0xa7, 0x4c];

pub(super) const FIN: u8 = 0x80;
pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;

/// How a length is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Seven,
    Sixteen,
    SixtyFour,
}

impl Form {
    pub(super) fn shortest(len: usize) -> Self {
        match len {
            0..=125 => Self::Seven,
            126..=0xffff => Self::Sixteen,
            _ => Self::SixtyFour,
        }
    }
}

/// A header that announces `len` bytes, the mask not included.
pub(super) fn header(first: u8, masked: bool, form: Form, len: u64) -> Vec<u8> {
    let flag = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match form {
        Form::Seven => bytes.push(flag | (len as u8 & 0x7f)),
        Form::Sixteen => {
            bytes.push(flag | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        Form::SixtyFour => {
            bytes.push(flag | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes
}

pub(super) fn masked(mask: [u8; 4], payload: &[u8]) -> impl Iterator<Item = u8> {
    mask.into_iter().chain(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask))
}

/// A masked frame with its length in the given form.
pub(super) fn frame_as(form: Form, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, true, form, payload.len() as u64);
    bytes.extend(masked(MASK, payload));
    bytes
}

/// A well-formed frame; `first` is its first byte, FIN and opcode.
pub(super) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    frame_as(Form::shortest(payload.len()), first, payload)
}

pub(super) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, false, Form::shortest(payload.len()), payload.len() as u64);
    bytes.extend(payload);
    bytes
}

/// A close frame with any code.
pub(super) fn close(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.as_ref());
    frame(FIN | CLOSE, payload)
}
