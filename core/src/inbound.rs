//! A client's message, from the adapter to the arguments of a handler.

use std::mem;
use std::ops::Deref;

use bytes::Bytes;

use crate::machine::Weigh;
use crate::spare;

/// A message that arrived.
#[derive(Debug)]
pub struct Inbound {
    pub(crate) payload: Received,
    /// The message is beyond the rate limit: its turn brings an error.
    pub(crate) limited: bool,
}

/// The content of a message. Dropping a text gives its buffer to [`spare`].
#[derive(Debug)]
pub(crate) enum Received {
    Text(String),
    Binary(Bytes),
}

impl Inbound {
    /// Text, best in a [`buffer`](Self::buffer).
    #[must_use]
    pub fn text(payload: String) -> Self {
        Self { payload: Received::Text(payload), limited: false }
    }

    /// Bytes.
    #[must_use]
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self { payload: Received::Binary(payload.into()), limited: false }
    }

    /// Frees unused memory of a message that has to wait.
    pub(crate) fn shrink(&mut self) {
        if let Received::Text(text) = &mut self.payload {
            text.shrink_to_fit();
        }
    }

    /// An empty buffer for a text of `length` bytes. Mostly it is reused from earlier messages of this thread.
    #[must_use]
    pub fn buffer(length: usize) -> Vec<u8> {
        spare::take(length)
    }
}

impl Weigh for Inbound {
    fn weight(&self) -> usize {
        self.payload.len()
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Self::Text(text) = self {
            spare::give(mem::take(text).into_bytes());
        }
    }
}
