/// The rule that a client broke: its connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    ReservedBits,
    ReservedOpcode,
    Unmasked,
    FragmentedControl,
    LongControl,
    NonMinimalLength,
    LengthTopBit,
    ContinuationWithoutStart,
    StartInsideMessage,
    ClosePayload,
    CloseCode,
    Utf8,
    TooLarge,
}

impl Violation {
    /// The close code and the reason to send (RFC 6455 §7.4.1).
    pub(crate) const fn close(self) -> (u16, &'static str) {
        match self {
            Self::ReservedBits => (1002, "reserved bits set"),
            Self::ReservedOpcode => (1002, "reserved opcode"),
            Self::Unmasked => (1002, "frame not masked"),
            Self::FragmentedControl => (1002, "control frame fragmented"),
            Self::LongControl => (1002, "control frame over 125 bytes"),
            Self::NonMinimalLength => (1002, "length not in its shortest form"),
            Self::LengthTopBit => (1002, "length over 63 bits"),
            Self::ContinuationWithoutStart => (1002, "continuation without a start"),
            Self::StartInsideMessage => (1002, "message started inside another"),
            Self::ClosePayload => (1002, "close frame with half a code"),
            Self::CloseCode => (1002, "close code not allowed"),
            Self::Utf8 => (1007, "text is not utf-8"),
            Self::TooLarge => (1009, "message too large"),
        }
    }
}
