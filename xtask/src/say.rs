//! Output for the user.

use std::{
    fmt::Display,
    io::{Write, stdout},
};

/// Prints a line, also from a `Drop` after its reader has gone: `println!` would panic there, and so end the clean-up
/// half-way.
pub(crate) fn say(line: impl Display) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
