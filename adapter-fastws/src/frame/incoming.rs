/// A client's message or control frame, complete and checked. Each payload has an allocation of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    Text(String),
    Binary(Vec<u8>),
    /// At most 125 bytes, to be sent back in a pong.
    Ping(Vec<u8>),
    Pong,
    /// An unfinished message's fragment, with its length. The decoder keeps it; `take` gets it so that fragments use up
    /// the sender's turn as messages do.
    Fragment(usize),
    /// The client's code and reason, if it gave any. Nothing is decoded after it.
    Close(Option<(u16, String)>),
}
