/// What a client sent, whole and checked. Each payload has an allocation of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    Text(String),
    Binary(Vec<u8>),
    /// At most 125 bytes, to be sent back in a pong.
    Ping(Vec<u8>),
    Pong,
    /// A part of a message that goes on, of so many bytes. It is kept; the taker hears of it so that parts cost their
    /// sender's turn as much as messages do.
    Fragment(usize),
    /// The client's code and reason, if it gave any. Nothing is decoded after it.
    Close(Option<(u16, String)>),
}
