//! The wire format of RFC 6455 on a server: decodes the frames of clients, encodes our own.
//!
//! fastwebsockets parses and unmasks frames, but its reader trusts its peer in ways that a server must not
//! (`tests::upstream` lists them). A check before its reader would have parsed the header already. So the decoder uses
//! only its opcodes and its unmasking, and each frame passes three stages:
//!
//! 1. `guard` checks the header, and waits until the frame is complete;
//! 2. `pieces` copies the payload out of the chunk, a text into a reused buffer, and unmasks it there;
//! 3. `assembly` joins fragments, and limits the message rather than the frame.
//!
//! The instructions for a message of 32 bytes, compared with `read_frame` over the same bytes in memory. `read_frame`
//! runs behind the same guard, with a new reader for each chunk. A kept reader would hold an 8 KiB buffer, and in time
//! a read future, for each idle connection.
//!
//! | | 16 a chunk | 1 a chunk |
//! |---|---|---|
//! | this decoder | 375 | 472 |
//! | guard and `read_frame`, and a copy for a taker that keeps the message | 743 | 1440 |

mod assembly;
mod decode;
mod encode;
mod guard;
mod incoming;
mod pieces;
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
