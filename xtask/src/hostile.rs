//! `cargo xtask hostile`: the suite of hostile clients for release, alone on the machine, with its figures.

use std::{fs, process::ExitCode, process::Stdio};

use anyhow::Context;

use crate::{cargo::cargo, process, run_folder::RunFolder, say::say};

/// Attacks a server of its own with everything that hostile clients do, ten thousand sockets among it. It prints the
/// cost of each attack: memory, and the p99 of honest clients in quiet, at a server that is not attacked, and beside
/// the attack. It takes some minutes, a quiet machine, and 12,000 descriptors (`ulimit -n`).
///
/// test-all runs the same attacks for a shorter time, without the heaviest and with a coarser bound
/// on the p99. Linux only, as it reads /proc.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the tests with one of these in their names
    filter: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let run = RunFolder::create()?;
    let figures = run.path().join("figures");
    let mut command = cargo();
    command.args(["test", "--release", "--package", "strait-adapter-fastws", "--all-features", "--test", "hostile"]);
    command.args(["--no-fail-fast", "--", "--include-ignored", "--test-threads=1"]).args(&args.filter);
    command.env("STRAIT_HOSTILE_FIGURES", &figures).env("TMPDIR", run.make("tmp")?).stdin(Stdio::null());
    let passed = process::run(command, "cargo", None, &run)?.success();
    if figures.exists() {
        say(
            "\n| attack | p99 in quiet, ms | p99 at another server meanwhile, ms | p99 beside it, ms | ratio | memory at most, MiB | \
             memory kept, MiB |",
        );
        say("|---|---|---|---|---|---|---|");
        say(fs::read_to_string(&figures).context("cannot read the figures")?.trim_end());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
