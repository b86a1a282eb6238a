//! `cargo xtask services`: the test services on their own.

use std::{
    io::{Read, stdin},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use crate::{process, provision::Services, run_folder::RunFolder, say::say, wait::wait_until};

/// Runs the command with the services' URLs in its environment; without one, prints them and waits
/// for Ctrl-C or the end of its input.
///
/// The services are those of test-all. STRAIT_TEST_REDIS_URL and STRAIT_TEST_POSTGRES_URL come first, if they are set.
/// Containers come next, if a Docker engine answers and has the image: STRAIT_TEST_IMAGE, by default
/// strait-test-services, which `cargo xtask image` builds. The machine's own programs come last.
/// STRAIT_TEST_SERVICES=url, docker or local allows one way only.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The command to run
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let run = RunFolder::create()?;
    let services = Services::start(&run)?;
    let Some((program, rest)) = args.command.split_first() else {
        services.variables().for_each(say);
        return hold();
    };
    let mut command = Command::new(program);
    command.args(rest);
    services.tell(&mut command);
    let status = process::run(command, "command", None, &run)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hold() -> anyhow::Result<ExitCode> {
    let input = thread::spawn(|| stdin().lock().read_to_end(&mut Vec::new()));
    wait_until(Duration::MAX, || Ok(input.is_finished().then_some(())))?;
    Ok(ExitCode::SUCCESS)
}
