//! Counts a server's system calls with `strace -c`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine;

/// Whether there is an `strace` to count with.
pub(crate) fn available() -> bool {
    Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs `work` while `server` is traced; answers its result and the number of calls that the server made.
pub(crate) fn count<T>(server: Pid, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-p", &server.as_raw_pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start strace")?;
    let mut told = BufReader::new(strace.stderr.take().context("strace's output was asked for")?);
    let mut line = String::new();
    told.read_line(&mut line)?;
    ensure!(line.contains("attached"), "strace could not attach: {line}");
    let done = work();
    kill_process(machine::pid(strace.id())?, Signal::INT)?;
    let mut table = String::new();
    told.read_to_string(&mut table)?;
    strace.wait()?;
    let total = table.lines().rev().find(|line| line.trim_end().ends_with(" total"));
    let calls = total.and_then(|line| line.split_whitespace().nth(3)).context("strace printed no total")?;
    Ok((done?, calls.parse()?))
}
