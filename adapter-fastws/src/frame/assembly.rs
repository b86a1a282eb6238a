use std::str;

use super::incoming::Incoming;
use super::pieces::Masked;
use super::violation::Violation;

/// The fragments of an unfinished message, joined.
#[derive(Debug)]
pub(super) struct Assembly {
    text: bool,
    data: Vec<u8>,
    /// The length of the text that is known to be UTF-8; at most the beginning of one character follows.
    valid: usize,
}

impl Assembly {
    pub(super) fn new(text: bool) -> Self {
        Self { text, data: Vec::new(), valid: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.data.capacity()
    }

    /// Appends a fragment; text that can no longer become UTF-8 fails at once (RFC 6455 §8.1).
    pub(super) fn push(&mut self, fragment: &Masked<'_>) -> Result<(), Violation> {
        fragment.append_to(&mut self.data);
        if self.text {
            match str::from_utf8(&self.data[self.valid..]) {
                Ok(_) => self.valid = self.data.len(),
                Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
                Err(_) => return Err(Violation::Utf8),
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Incoming, Violation> {
        if self.text {
            String::from_utf8(self.data).map(Incoming::Text).map_err(|_| Violation::Utf8)
        } else {
            Ok(Incoming::Binary(self.data))
        }
    }
}
