//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, each for some time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;

use crate::{cargo::cargo, process, run_folder::RunFolder, say::say};

/// The targets of `fuzz/Cargo.toml`.
const TARGETS: [&str; 2] = ["frames", "plain"];

/// Fuzzes the readers of clients' bytes, and stops at the first finding.
///
/// frames: the decoder of WebSocket frames against a model of RFC 6455; plain: the plain format against a reference on
/// serde_json. The same comparisons run with seeded random input in test-all. Findings are kept in fuzz/artifacts, the
/// corpus in fuzz/corpus.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which target; all of them in turn without it
    #[arg(value_parser = PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !answers(cargo().args(["fuzz", "--version"])) {
        bail!("cargo-fuzz is not installed: `cargo install --locked cargo-fuzz`; it also takes a C++ compiler");
    }
    let run = RunFolder::create()?;
    let targets = match &args.target {
        Some(target) => vec![target.as_str()],
        None => TARGETS.to_vec(),
    };
    for target in targets {
        say(format_args!("\n=== fuzz {target}, {} s", args.seconds));
        if !fuzz(target, args.seconds, &run)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the target ran without a finding.
fn fuzz(target: &str, seconds: u32, run: &RunFolder) -> anyhow::Result<bool> {
    let folder = folder();
    let corpus = folder.join("corpus").join(target);
    // libFuzzer adds to the first folder, and only reads the others.
    fs::create_dir_all(&corpus).context("cannot make the corpus folder")?;
    let mut command = cargo();
    // Fuzzing needs a nightly compiler's options, also on a stable one.
    command.env("RUSTC_BOOTSTRAP", "1").stdin(Stdio::null());
    command.arg("fuzz").arg("run").arg("--fuzz-dir").arg(&folder).arg(target);
    command.arg(corpus).arg(folder.join("seeds").join(target)).arg("--");
    command.args([format!("-max_total_time={seconds}"), "-print_final_stats=1".to_owned()]);
    Ok(process::run(command, "cargo", None, run)?.success())
}

fn folder() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).join("fuzz")
}

fn answers(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
