//! The server that is tested: the adapter's example `echo`.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::suite::Transport;
use crate::{
    cargo::cargo,
    log::{last_lines, write_to},
    process,
    process::Process,
    run_folder::RunFolder,
    wait::wait_until,
};

const START_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Server {
    process: Process,
    log: PathBuf,
    plain: String,
    tls: String,
}

impl Server {
    /// Builds it and waits until it listens, on free ports.
    pub(super) fn start(release: bool, run: &RunFolder) -> anyhow::Result<Server> {
        // With the features of the tests: then a debug build reuses their artifacts.
        let mut build = cargo();
        build.args(["build", "--quiet", "--all-features", "--example", "echo"]).stdin(Stdio::null());
        if release {
            build.arg("--release");
        }
        if !process::run(build, "cargo", None, run)?.success() {
            bail!("the echo server does not compile");
        }
        let program = env::current_exe().context("cannot tell where this program is")?;
        let target = program.ancestors().nth(2).context("this program is not in a target folder")?;
        let profile = if release { "release" } else { "debug" };
        let mut command = Command::new(target.join(profile).join("examples/echo"));
        let log = run.path().join("echo-log");
        write_to(&mut command, &log)?;
        let mut process = Process::start(command, "echo", Signal::TERM, run)?;
        let urls = wait_until(START_LIMIT, || {
            if process.poll()?.is_some() {
                bail!("the echo server ended at once: {}", last_lines(&log));
            }
            let text = fs::read_to_string(&log).unwrap_or_default();
            // A line that does not end may lack digits of the port.
            let url = |scheme| {
                let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                lines.find(|line| line.starts_with(scheme)).map(|line| line.trim().to_owned())
            };
            Ok(url("ws://").zip(url("wss://")))
        })?;
        let Some((plain, tls)) = urls else {
            bail!("the echo server did not listen within {} s: {}", START_LIMIT.as_secs(), last_lines(&log));
        };
        Ok(Server { process, log, plain, tls })
    }

    pub(super) fn url(&self, transport: Transport) -> &str {
        match transport {
            Transport::Plain => &self.plain,
            Transport::Tls => &self.tls,
        }
    }

    /// Stops it. Fails if it has not survived the tests, or has to be killed, as connections are left.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.poll()? {
            bail!("the echo server ended during the tests, {status}: {}", last_lines(&self.log));
        }
        self.process.stop();
        match self.process.poll()? {
            Some(status) if status.success() => {}
            status => bail!("the echo server did not end in good order, {status:?}: {}", last_lines(&self.log)),
        }
        let log = fs::read_to_string(&self.log).context("cannot read the echo server's log")?;
        match log.lines().find(|line| line.contains("panicked")) {
            Some(line) => bail!("the echo server panicked: {line}"),
            None => Ok(()),
        }
    }
}
