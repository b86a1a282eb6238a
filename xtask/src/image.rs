//! `cargo xtask image`: the container image of the test services, from Debian's packages.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::{
    engine::{Engine, image_name},
    log::last_lines,
    process,
    process::Process,
    run_folder::RunFolder,
    say::say,
};

const TRIES: usize = 3;
const UNPACK_LIMIT: Duration = Duration::from_secs(240);
const IMPORT_LIMIT: Duration = Duration::from_secs(120);

/// Builds the image with Redis and Postgres that the tests' containers run, with debootstrap, and
/// gives it to the Docker engine.
///
/// It needs root, debootstrap and the docker program. Nothing comes from an image registry. The name is
/// strait-test-services, or the value of STRAIT_TEST_IMAGE.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build it even if the engine has it
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let name = image_name();
    let engine = Engine::find().context("start a Docker engine first")?;
    if !args.force && engine.has_image(&name)? {
        say(format_args!("image {name} is there (--force builds it again)"));
        return Ok(ExitCode::SUCCESS);
    }
    let missing: Vec<_> = ["debootstrap", "docker", "tar"].into_iter().filter(|name| !runs(name)).collect();
    if !missing.is_empty() {
        bail!("missing: {}; install them, on Debian with `apt-get install docker.io debootstrap`", missing.join(", "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("debootstrap needs root: run this as root");
    }

    let run = RunFolder::create()?;
    let root = run.make("root")?;
    let suite = suite();
    say(format_args!("unpacking Debian {suite} with redis-server and postgresql"));
    let log = run.path().join("log");
    let mut tries = 1;
    // A mirror may fail to give a package for once; the packages it gave are not asked for again.
    while !unpack(&suite, &root, &log, &run)? {
        let last = last_lines(&log);
        if tries == TRIES {
            bail!("debootstrap failed {TRIES} times: {last}");
        }
        say(format_args!("debootstrap failed, trying again: {last}"));
        tries += 1;
    }

    say(format_args!("importing it as {name}"));
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&root).args(["--exclude=./var/cache/apt/archives/*.deb", "-c", "."]);
    pack.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut pack = Process::start(pack, "tar", Signal::TERM, &run)?;
    let mut import = Command::new("docker");
    import.env("DOCKER_HOST", &engine.address);
    import.args(["import", "--change", "LABEL strait.test.image=services", "-", &name]);
    import.stdin(pack.take_stdout().context("the output is piped")?).stdout(Stdio::null());
    let imported = process::run(import, "docker-import", Some(IMPORT_LIMIT), &run)?;
    if !pack.wait(Some(IMPORT_LIMIT))?.success() || !imported.success() {
        bail!("the engine did not take the image");
    }
    say(format_args!("image {name} built in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

fn unpack(suite: &str, root: &Path, log: &Path, run: &RunFolder) -> anyhow::Result<bool> {
    // Its mounts of /proc and /sys go with the namespace, however it ends.
    let mut command = if runs_in_own_mounts() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "debootstrap"]);
        command
    } else {
        Command::new("debootstrap")
    };
    command.args(["--variant=minbase", "--include=redis-server,postgresql", suite]).arg(root);
    command.stdin(Stdio::null()).stdout(fs::File::create(log).context("cannot create a log file")?);
    Ok(process::run(command, "debootstrap", Some(UNPACK_LIMIT), run)?.success())
}

fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

/// A container may forbid such a namespace.
fn runs_in_own_mounts() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--mount", "true"]).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// This machine's own suite if it is a Debian: the archive keys here verify its packages.
fn suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    match value("VERSION_CODENAME") {
        Some(name) if value("ID").as_deref() == Some("debian") => name,
        _ => "stable".to_owned(),
    }
}
