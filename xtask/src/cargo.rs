//! The cargo that runs this program, and the workspace it is for.

use std::{env, ffi::OsString, path::Path, process::Command};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Runs in the workspace's root, wherever xtask was called from: cargo then uses the default members, not the crate of
/// the current folder (tests run in their crate's folder).
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    command
}
