//! Child processes, each the leader of its own group. Ctrl-C reaches this program alone, which then stops them in its
//! own order. Stopping a process also reaches its children.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

use crate::{interrupt, run_folder::RunFolder};

const POLL: Duration = Duration::from_millis(20);
/// How long a process may take to end when asked, before it is killed: longer than cargo-nextest
/// gives its tests.
const GRACE: Duration = Duration::from_secs(15);

/// A running child; stopped when dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
    record: PathBuf,
    stop_with: Signal,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`. The run folder remembers it: the next run can stop processes that a killed run left.
    /// `stop_with` is the signal on which it ends quickly and in good order.
    pub(crate) fn start(
        mut command: Command,
        name: &str,
        stop_with: Signal,
        run: &RunFolder,
    ) -> anyhow::Result<Process> {
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let record = run.records().join(format!("{}-{}", child.id(), name));
        let process = Process { child, name: name.to_owned(), record, stop_with, ended: None };
        let pid = process.pid();
        if let Some(identity) = identity(pid) {
            fs::write(&process.record, format!("{}\n{}\n{identity}\n", pid.as_raw_nonzero(), stop_with.as_raw()))
                .context("cannot record a process in the run folder")?;
        }
        Ok(process)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    pub(crate) fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// The status, if it has ended.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Waits until it ends. Fails when a signal comes (which the process gets too) or after `limit`.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            if let Err(interrupted) = interrupt::check() {
                self.stop_with = interrupted.0;
                self.stop();
                return Err(interrupted.into());
            }
            if let Some(limit) = limit.filter(|limit| start.elapsed() > *limit) {
                self.stop();
                bail!("{} did not end within {} s", self.name, limit.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    /// Ends it and its group: asks, waits for a while, then kills.
    pub(crate) fn stop(&mut self) {
        for signal in [self.stop_with, Signal::KILL] {
            if !matches!(self.poll(), Ok(None)) {
                break;
            }
            // Fails only if the process has just ended; the wait below notices that.
            let _ = kill_process_group(self.pid(), signal);
            let asked = Instant::now();
            while asked.elapsed() < GRACE && matches!(self.poll(), Ok(None)) {
                thread::sleep(POLL);
            }
        }
        let _ = fs::remove_file(&self.record);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs to its end within `limit`, with the command's own standard streams.
pub(crate) fn run(
    command: Command,
    name: &str,
    limit: Option<Duration>,
    run: &RunFolder,
) -> anyhow::Result<ExitStatus> {
    Process::start(command, name, Signal::TERM, run)?.wait(limit)
}

/// Stops a process that a killed run left, as its record tells, if the process of that number still
/// is the one recorded. Returns its name if there was one to stop.
pub(crate) fn stop_recorded(record: &Path) -> Option<String> {
    let text = fs::read_to_string(record).ok()?;
    let mut lines = text.lines();
    let pid = Pid::from_raw(lines.next()?.parse().ok()?)?;
    let stop_with = Signal::from_named_raw(lines.next()?.parse().ok()?)?;
    let recorded = lines.next()?;
    let still_ours = || identity(pid).is_some_and(|now| now == recorded);
    if !still_ours() {
        return None;
    }
    for signal in [stop_with, Signal::KILL] {
        if !still_ours() {
            break;
        }
        let _ = kill_process_group(pid, signal);
        let asked = Instant::now();
        while asked.elapsed() < GRACE && still_ours() {
            thread::sleep(POLL);
        }
    }
    Some(record.file_name()?.to_string_lossy().into_owned())
}

/// Distinguishes a process from a later one with the same number, by its start time. `None` if there is no such
/// process.
fn identity(pid: Pid) -> Option<String> {
    test_kill_process(pid).ok()?;
    let number = pid.as_raw_nonzero();
    if let Ok(stat) = fs::read_to_string(format!("/proc/{number}/stat")) {
        // proc(5): the name, in parentheses, may hold anything; state is the first field after it,
        // the start time, in ticks since boot, the twentieth.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        return (!matches!(state, "Z" | "X")).then(|| format!("{started} {}", boot.trim()));
    }
    let ps = Command::new("ps").args(["-o", "lstart=", "-p", &number.to_string()]).output().ok()?;
    let started = String::from_utf8_lossy(&ps.stdout).trim().to_owned();
    (!started.is_empty()).then_some(started)
}
