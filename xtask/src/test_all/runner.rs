//! The test runner, and the part of its output that is worth repeating at the end.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    process::{Command, ExitStatus, Stdio},
    thread,
};

use anyhow::Context;
use rustix::process::Signal;

use crate::{cargo::cargo, process::Process, provision::Services, run_folder::RunFolder, say::say};

/// Tests add a line here for each test that this machine could not run: a passing test's output is not shown.
const SKIPS: &str = "STRAIT_TEST_SKIPS";

/// The last lines of a run.
#[derive(Default)]
pub(super) struct Notes {
    /// The last line of the runner.
    pub(super) summary: Option<String>,
    pub(super) skipped: Vec<String>,
    /// Tests that failed and passed when they were run once more (`.config/nextest.toml`, profile `ci`).
    pub(super) flaky: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Runner {
    Nextest,
    CargoTest,
}

impl Runner {
    pub(super) fn find() -> Runner {
        let mut ask = cargo();
        ask.args(["nextest", "--version"]).stdin(Stdio::null());
        ask.stdout(Stdio::null()).stderr(Stdio::null());
        if ask.status().is_ok_and(|status| status.success()) {
            return Runner::Nextest;
        }
        say("cargo-nextest is not installed (`cargo install --locked cargo-nextest`): falling back to cargo test");
        Runner::CargoTest
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Runner::Nextest => "cargo nextest",
            Runner::CargoTest => "cargo test",
        }
    }

    /// Whether all tests passed.
    pub(super) fn run(
        self,
        filter: &[String],
        services: &Services,
        run: &RunFolder,
        notes: &mut Notes,
    ) -> anyhow::Result<bool> {
        let skips = run.path().join("skips");
        let mut command = cargo();
        services.tell(&mut command);
        command.env(SKIPS, &skips).stdin(Stdio::null());
        // A test that is killed cannot remove its files: then they go with the run.
        command.env("TMPDIR", run.make("tmp")?);
        let color = if io::stderr().is_terminal() { "always" } else { "never" };
        command.env("CARGO_TERM_COLOR", color);
        let outcome = match self {
            Runner::Nextest => {
                command.args(["nextest", "run", "--all-features", "--no-fail-fast"]);
                command.args(filter).stderr(Stdio::piped());
                run_and_read(command, Process::take_stderr, io::stderr(), run)
            }
            Runner::CargoTest => {
                command.args(["test", "--all-features", "--all-targets"]);
                command.args(["--no-fail-fast", "--"]).args(filter).stdout(Stdio::piped());
                run_and_read(command, Process::take_stdout, io::stdout(), run)
            }
        };
        let skipped = fs::read_to_string(&skips).unwrap_or_default();
        notes.skipped = skipped.lines().map(str::to_owned).collect();
        let (status, output) = outcome?;
        notes.flaky = nextest_flaky(&output);
        notes.summary = match self {
            Runner::Nextest => nextest_summary(&output),
            Runner::CargoTest => Some(cargo_test_summary(&output)),
        };
        Ok(status?.success())
    }
}

/// Passes one stream on as it comes, and keeps it, also of a run that is interrupted.
fn run_and_read<S: Read + Send + 'static>(
    command: Command,
    take: impl FnOnce(&mut Process) -> Option<S>,
    mut to: impl Write + Send + 'static,
    run: &RunFolder,
) -> anyhow::Result<(anyhow::Result<ExitStatus>, String)> {
    let mut process = Process::start(command, "tests", Signal::TERM, run)?;
    let mut from = take(&mut process).context("the stream is piped")?;
    let reader = thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            kept.extend_from_slice(&buffer[..count]);
            let _ = to.write_all(&buffer[..count]).and_then(|()| to.flush());
        }
        kept
    });
    let status = process.wait(None);
    let kept = reader.join().unwrap_or_default();
    Ok((status, without_colors(&String::from_utf8_lossy(&kept))))
}

fn nextest_summary(output: &str) -> Option<String> {
    let mut lines = output.lines().map(str::trim);
    lines.rfind(|line| line.starts_with("Summary [")).map(str::to_owned)
}

/// The names in nextest's last list, `FLAKY 2/2 [   0.1s] (3/9) crate::it name`.
fn nextest_flaky(output: &str) -> Vec<String> {
    let flaky = output.lines().map(str::trim).filter(|line| line.starts_with("FLAKY "));
    let names = flaky.filter_map(|line| line.rsplit_once([')', ']'])).map(|(_, name)| name.trim().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// `cargo test` has a summary per binary, `test result: ok. 2 passed; 0 failed; …`, and no total.
fn cargo_test_summary(output: &str) -> String {
    let count = |word: &str| -> u64 {
        let results = output.lines().filter(|line| line.starts_with("test result: "));
        let counts = results.flat_map(|line| line.split(['.', ';'])).map(str::trim);
        counts.filter_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok()).sum()
    };
    format!("{} passed, {} failed", count("passed"), count("failed"))
}

/// Drops `ESC [ … letter`.
fn without_colors(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            chars.by_ref().skip(1).find(char::is_ascii_alphabetic);
        } else {
            plain.push(char);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_summary_of_nextest_is_found_in_color() {
        let output = "\u{1b}[32mSummary [\u{1b}[0m  1s] 1 test run: 1 passed, 0 skipped\n\
                      \u{1b}[32;1m     Summary\u{1b}[0m [  12.3s] 3 tests run: 2 passed, 1 failed, 0 skipped\n        FAIL x\n";
        let expected = "Summary [  12.3s] 3 tests run: 2 passed, 1 failed, 0 skipped";
        assert_eq!(nextest_summary(&without_colors(output)).as_deref(), Some(expected));
        assert_eq!(nextest_summary("error: could not compile"), None);
    }

    #[test]
    fn flaky_tests_are_named_once() {
        let output = "        FLAKY 2/2 [   0.002s] (1/2) chat::it room::rooms_are_apart\n\
                      \u{1b}[33;1m   FLAKY 2/2\u{1b}[0m [   0.002s] (1/2) chat::it room::rooms_are_apart\n\
                      FLAKY 2/2 [ 1s] core::it a::b\n        PASS [ 1s] (2/2) core::it c\n";
        assert_eq!(nextest_flaky(&without_colors(output)), ["chat::it room::rooms_are_apart", "core::it a::b"]);
    }

    #[test]
    fn the_results_of_cargo_test_are_added_up() {
        let output = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
                      test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(cargo_test_summary(output), "5 passed, 1 failed");
    }
}
