use bytes::BytesMut;

/// A payload below this many bytes is worth a copy when it is going to be kept.
const SMALL: usize = 4096;

/// What a client sent, whole and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Valid UTF-8.
    Text(BytesMut),
    Binary(BytesMut),
    /// At most 125 bytes, to be sent back in a pong.
    Ping(BytesMut),
    Pong,
    /// A part of a message that goes on, of so many bytes. It is kept; the taker hears of it so that parts cost their
    /// sender's turn as much as messages do.
    Fragment(usize),
    /// The client's code and reason, if it gave any. Nothing is decoded after it.
    Close(Option<(u16, String)>),
}

impl Incoming {
    /// Gives the payload an allocation of its own if it is small.
    ///
    /// The payloads of one chunk share the reader's buffer of 8 KiB or more, and each keeps all of it alive. That is right for a
    /// message handled at once; whoever queues one calls this first, as only they know that it will wait.
    pub(crate) fn detached(self) -> Self {
        let own = |payload: BytesMut| match payload.len() {
            0..SMALL => BytesMut::from(&payload[..]),
            _ => payload,
        };
        match self {
            Self::Text(payload) => Self::Text(own(payload)),
            Self::Binary(payload) => Self::Binary(own(payload)),
            Self::Ping(payload) => Self::Ping(own(payload)),
            Self::Pong | Self::Fragment(_) | Self::Close(_) => self,
        }
    }
}
