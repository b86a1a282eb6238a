//! `cargo xtask lambda`: the chat as a Lambda function, behind the local gateway.

use std::{env, ffi::OsString, num::NonZeroUsize, path::PathBuf, process::ExitCode};

use anyhow::Context;

use crate::{cargo::cargo, process, run_folder::RunFolder};

/// Builds the chat's Lambda function and the local gateway, and serves WebSockets at `ws://ADDRESS/?path=/rooms/a`.
///
/// With the memory store there is one instance, which handles several invocations at once. The log tells each
/// invocation; http://ADDRESS/_local shows them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address and port to serve on
    #[arg(long, default_value = "127.0.0.1:9001", value_name = "ADDRESS:PORT")]
    listen: String,

    /// Where the function keeps channels and topics: memory, or redis://… or postgres://… as the chat takes it
    #[arg(long, default_value = "memory", value_name = "STORE")]
    store: String,

    /// How many instances of the function run, or invocations of the one on the memory store
    #[arg(long, default_value = "4", value_name = "N")]
    instances: NonZeroUsize,

    /// Build for release
    #[arg(long)]
    release: bool,

    /// Handed to the local gateway: --latency, --fault, --time-scale, …
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = RunFolder::create()?;
    let profile = if args.release { "release" } else { "dev" };
    for (package, features, binary) in
        [("chat", "lambda", "bootstrap"), ("strait-adapter-lambda", "local", "strait-local-gateway")]
    {
        let mut build = cargo();
        build.args(["build", "--profile", profile, "-p", package, "--features", features, "--bin", binary]);
        if !process::run(build, "cargo", None, &folder)?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    let (instances, together) =
        if args.store == "memory" { (NonZeroUsize::MIN, args.instances) } else { (args.instances, NonZeroUsize::MIN) };
    let mut gateway = cargo();
    gateway.args(["run", "--quiet", "--profile", profile, "-p", "strait-adapter-lambda", "--features", "local"]);
    gateway.args(["--bin", "strait-local-gateway", "--", "--listen", &args.listen]);
    gateway.args(["--instances", &instances.to_string(), "--together", &together.to_string()]);
    gateway.args(["--env", &format!("CHAT_STORE={}", args.store)]).args(&args.arguments);
    gateway.arg("--").arg(built(profile)?.join("bootstrap"));
    let passed = process::run(gateway, "strait-local-gateway", None, &folder)?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of a profile's programs, beside the folder of this program.
fn built(profile: &str) -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("this program's own path is not known")?;
    let target = own.parent().and_then(|folder| folder.parent()).context("this program is in no target folder")?;
    Ok(target.join(if profile == "release" { "release" } else { "debug" }))
}
