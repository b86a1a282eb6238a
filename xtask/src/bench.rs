//! `cargo xtask bench`: Strait measured beside its peers.

use std::{ffi::OsString, process::ExitCode};

use crate::{cargo::cargo, process, run_folder::RunFolder};

/// Builds the benchmark, its peers and the chat for release, and runs the benchmark.
///
/// `cargo xtask bench -- --help` lists what it can measure; bench/README.md says how it does.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handed to the benchmark's `run`
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = RunFolder::create()?;
    let mut build = cargo();
    build.args(["build", "--release", "-p", "strait-bench", "-p", "chat"]);
    if !process::run(build, "cargo", None, &folder)?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let mut bench = cargo();
    bench.args(["run", "--release", "--quiet", "-p", "strait-bench", "--", "run"]).args(&args.arguments);
    let passed = process::run(bench, "strait-bench", None, &folder)?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
