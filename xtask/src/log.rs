//! The logs of programs.

use std::{
    fs,
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

/// To a file, not a pipe: a server with a killed reader must not block or die before it is stopped in good order.
pub(crate) fn write_to(command: &mut Command, log: &Path) -> anyhow::Result<()> {
    let file = File::create(log).context("cannot create a log file")?;
    let copy = file.try_clone().context("cannot share a log file")?;
    command.stdin(Stdio::null()).stdout(file).stderr(copy);
    Ok(())
}

/// The end of a log, in one line.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
