//! The wire format of RFC 6455 as a server sees it: what clients send is decoded, what we send is encoded.
//!
//! fastwebsockets parses and unmasks, but trusts its peer in ways a server must not (`tests::upstream` holds the list). So each
//! frame passes three stages:
//!
//! 1. `guard` checks the header before fastwebsockets sees a byte of it, and waits until the frame is whole;
//! 2. `reader` lets `read_frame` run over the bytes in memory: as the frame is whole it ends in one poll, so that there is no
//!    read future to keep or to cancel, and between two calls no reader exists;
//! 3. `assembly` joins fragments, with the limit on the message and not on the frame.
//!
//! A reader lives for one call of [`Decoder::decode`] and reads ahead as far as its buffer takes, which makes one copy and a few
//! allocations for all the frames of a chunk. In ns a message on one core of a shared machine (release, the best of 15 rounds in
//! memory; from run to run up to 15 % apart):
//!
//! | | 38 bytes, 16 a chunk | 38 bytes, 1 a chunk | 1 KiB, 16 a chunk |
//! |---|---|---|---|
//! | this decoder | 84 | 128 | 122 |
//! | a call, and so a reader, for each frame | 134 | the same | 154 |
//! | fastwebsockets alone: reader kept, nothing checked | 64 | 69 | 106 |
//!
//! A kept reader would hold its 8 KiB buffer, and in time a read future, for each idle connection; that is worth the difference.

mod assembly;
mod decode;
mod encode;
mod guard;
mod incoming;
mod reader;
#[cfg(any(test, fuzzing))]
mod reference;
mod violation;

#[cfg(test)]
mod tests;

pub(crate) use decode::Decoder;
pub(crate) use encode::{close, ping, pong};
pub(crate) use incoming::Incoming;
#[cfg(fuzzing)]
pub use reference::fuzz;
