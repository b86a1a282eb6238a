//! Channels at a gateway: invocations of one application, alone and together with nodes.

mod costs;
mod fake;
mod fanout;
mod handshakes;
mod janitor;
mod messages;
mod mixed;
mod ordering;
mod relays;
