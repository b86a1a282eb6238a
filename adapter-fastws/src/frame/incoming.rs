use bytes::BytesMut;

/// What a client sent, whole and checked. Each payload has an allocation of its own, so that a handler may keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Valid UTF-8.
    Text(BytesMut),
    Binary(BytesMut),
    /// At most 125 bytes, to be sent back in a pong.
    Ping(BytesMut),
    Pong,
    /// A part of a message that goes on. It is kept; the taker hears of it so that parts cost their sender's turn as much
    /// as messages do.
    Fragment,
    /// The client's code and reason, if it gave any. Nothing is decoded after it.
    Close(Option<(u16, String)>),
}
