//! The wire format of RFC 6455 as a server sees it: what clients send is decoded, what we send is encoded.
//!
//! fastwebsockets parses and unmasks, but its reader trusts its peer in ways a server must not (`tests::upstream` holds the
//! list), and a check before it has parsed the header by the time the reader would. So of fastwebsockets the opcodes and the
//! unmasking are used, and each frame passes three stages:
//!
//! 1. `guard` checks the header, and waits until the frame is whole;
//! 2. `pieces` copies the payload out of the chunk, a text into a buffer that earlier ones have used, and unmasks it there;
//! 3. `assembly` joins fragments, with the limit on the message and not on the frame.
//!
//! In instructions a message of 32 bytes, beside `read_frame` over the same bytes in memory, behind the same guard and with a reader for each
//! chunk (a kept one would hold its 8 KiB buffer, and in time a read future, for each idle connection):
//!
//! | | 16 a chunk | 1 a chunk |
//! |---|---|---|
//! | this decoder | 375 | 472 |
//! | guard and `read_frame`, and a copy for who keeps the message | 743 | 1440 |

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
