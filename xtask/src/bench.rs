//! `cargo xtask bench`: Strait measured beside its peers.

use std::{ffi::OsString, process::ExitCode};

use crate::{cargo::cargo, process, run_folder::RunFolder};

/// Builds the benchmark, its peers and the chat for release, and runs the benchmark.
///
/// `cargo xtask bench -- --help` lists the measurements; bench/README.md explains them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Count the instructions of micro-benchmarks instead, and fail if one grew by more than a tenth
    #[arg(long)]
    counts: bool,
    /// Handed to the benchmark's `run`, or to its `counts`: there `--save` makes a new baseline
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
    let what = if args.counts { "counts" } else { "run" };
    let mut bench = cargo();
    bench.args(["run", "--release", "--quiet", "-p", "strait-bench", "--"]).arg(what).args(&args.arguments);
    let passed = process::run(bench, "strait-bench", None, &folder)?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
