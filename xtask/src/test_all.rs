//! `cargo xtask test-all`: every check and every test.

mod runner;

use std::{
    fmt, fs,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;

use self::runner::{Notes, Runner};
use crate::{cargo::cargo, interrupt::Interrupted, process, provision::Services, run_folder::RunFolder, say::say};

/// The crates that users depend on.
const LIBRARIES: [&str; 6] = [
    "strait-core",
    "strait-store-memory",
    "strait-store-redis",
    "strait-store-postgres",
    "strait-adapter-fastws",
    "strait-adapter-lambda",
];

/// Runs formatting, lints, tests, doc tests and docs, each for all default members, builds each library
/// alone, and stops at the first that fails.
///
/// Test services come from STRAIT_TEST_REDIS_URL and STRAIT_TEST_POSTGRES_URL if they are set, else
/// from containers, else from the machine's own programs: see `cargo xtask services --help`.
/// Tests run in cargo-nextest if it is installed, else in `cargo test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the tests with one of these in their names, and no other step
    filter: Vec<String>,
    /// Write the last line, the test runner's own, into this file too
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let run = RunFolder::create()?;
    let mut report = Report::default();
    let outcome = steps(args, &run, &mut report);
    if let Err(error) = &outcome
        && !error.is::<Failed>()
    {
        say(format_args!("error: {error:#}"));
    }
    report.print();
    // The very last line is the test runner's own.
    report.notes.summary.iter().for_each(say);
    if let (Some(file), Some(summary)) = (&args.summary, &report.notes.summary) {
        fs::write(file, format!("{summary}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(error
            .downcast_ref::<Interrupted>()
            .map_or(ExitCode::FAILURE, |interrupted| ExitCode::from(interrupted.exit_status()))),
    }
}

fn steps(args: &Args, run: &RunFolder, report: &mut Report) -> anyhow::Result<()> {
    let all = args.filter.is_empty();
    if all {
        report.step("cargo fmt", || step(&["fmt", "--all", "--check"], None, run))?;
        let clippy = ["clippy", "--all-targets", "--all-features", "--", "-D", "warnings"];
        report.step("cargo clippy", || step(&clippy, None, run))?;
        // The build that users make: `--all-features` hides code that is unused without the other features.
        let default = ["clippy", "--", "-D", "warnings"];
        report.step("as it comes", || step(&default, None, run))?;
        // Built together, a crate also gets the features that other crates enable in its dependencies.
        report.step("each alone", || {
            for library in LIBRARIES {
                if !step(&["check", "--lib", "--package", library], None, run)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
    }
    let mut services = None;
    report.step("services", || {
        services = Some(Services::start(run)?);
        Ok(true)
    })?;
    let services = services.context("a step that passed has started the services")?;
    let runner = Runner::find();
    let mut notes = Notes::default();
    let tested = report.step(runner.name(), || runner.run(&args.filter, &services, run, &mut notes));
    report.notes = notes;
    tested?;
    if all {
        report.step("doc tests", || step(&["test", "--doc", "--all-features"], Some(&services), run))?;
        report.step("cargo doc", || step(&["doc", "--no-deps", "--all-features"], None, run))?;
    }
    Ok(())
}

fn step(args: &[&str], services: Option<&Services>, run: &RunFolder) -> anyhow::Result<bool> {
    let mut command = cargo();
    command.args(args).env("RUSTDOCFLAGS", "-D warnings").stdin(Stdio::null());
    if let Some(services) = services {
        services.tell(&mut command);
    }
    Ok(process::run(command, "cargo", None, run)?.success())
}

/// A step failed and has said why.
#[derive(Debug)]
struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a step failed")
    }
}

impl std::error::Error for Failed {}

#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Duration, bool)>,
    notes: Notes,
}

impl Report {
    /// Runs a step. One that does not pass is an error, so that no other follows.
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        say(format_args!("\n=== {name}"));
        let start = Instant::now();
        let outcome = work();
        let passed = matches!(outcome, Ok(true));
        self.steps.push((name, start.elapsed(), passed));
        say(format_args!("=== {name}: {}, {:.1} s", word(passed), start.elapsed().as_secs_f64()));
        if outcome? { Ok(()) } else { Err(Failed.into()) }
    }

    fn print(&self) {
        say("\n=== test-all");
        for (name, time, passed) in &self.steps {
            say(format_args!("{:>8.1} s  {:<14} {}", time.as_secs_f64(), name, word(*passed)));
        }
        for skipped in &self.notes.skipped {
            say(format_args!("skipped: {skipped}"));
        }
        for flaky in &self.notes.flaky {
            say(format_args!("FLAKY: {flaky} failed, and passed when it was run again"));
        }
        let total: Duration = self.steps.iter().map(|(_, time, _)| *time).sum();
        let failed = self.steps.iter().find(|(_, _, passed)| !passed);
        let ending = failed.map_or("passed".to_owned(), |(name, ..)| format!("FAILED at {name}"));
        say(format_args!("{:>8.1} s  test-all {ending}", total.as_secs_f64()));
    }
}

fn word(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}
