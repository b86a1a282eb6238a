//! Containers, kept by the program `xtask-containers`, which is built only when an engine answers. It removes the
//! containers when it is told to stop or its input ends: so also when this program is killed.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use rustix::process::Signal;

use super::{Attempt, Running, Service};
use crate::{
    cargo::cargo,
    engine::{Engine, image_name, named_image},
    process,
    process::Process,
    run_folder::RunFolder,
    say::say,
    wait::wait_until,
};

const BUILD_LIMIT: Duration = Duration::from_secs(300);
/// More than xtask-containers allows itself, so that it reports the cause first.
const START_LIMIT: Duration = Duration::from_secs(150);

pub(super) fn attempt(services: &[Service], run: &RunFolder, processes: &mut Vec<Process>) -> Vec<Attempt> {
    let all_fail = |error: anyhow::Error| match error.downcast_ref() {
        Some(interrupted) => {
            let interrupted: crate::interrupt::Interrupted = *interrupted;
            services.iter().map(|service| (*service, Err(interrupted.into()))).collect()
        }
        None => services.iter().map(|service| (*service, Err(anyhow!("{error:#}")))).collect(),
    };
    match start(services, run) {
        Ok((keeper, answers)) => {
            processes.push(keeper);
            answers
        }
        Err(error) => all_fail(error),
    }
}

fn start(services: &[Service], run: &RunFolder) -> anyhow::Result<(Process, Vec<Attempt>)> {
    let engine = Engine::find()?;
    let has_image = engine.has_image(&image_name())?;
    if !has_image && named_image().is_none() {
        say(format_args!(
            "services: the engine has no image {} (`cargo xtask image` builds it): asking it to pull public ones",
            image_name()
        ));
    }
    build(run)?;
    let program = env::current_exe().context("cannot tell where this program is")?;
    let mut command = Command::new(program.with_file_name("xtask-containers"));
    command.env("DOCKER_HOST", &engine.address).arg(run.lock());
    for service in services {
        let image = match (service, has_image || named_image().is_some()) {
            (_, true) => image_name(),
            (Service::Redis, false) => "redis:7-bookworm".to_owned(),
            (Service::Postgres, false) => "postgres:17-bookworm".to_owned(),
        };
        command.arg(format!("{}={image}", service.name()));
    }
    command.env("STRAIT_TEST_PASSWORD", super::local::random_password()?);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut keeper = Process::start(command, "containers", Signal::TERM, run)?;

    let output = keeper.take_stdout().context("the output is piped")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut answers = Vec::new();
    let complete = wait_until(START_LIMIT, || {
        match lines.try_recv() {
            Ok(line) => answers.extend(answer(&line)),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => bail!("xtask-containers ended early"),
        }
        Ok((answers.len() == services.len()).then_some(()))
    })?;
    if complete.is_none() {
        bail!("the containers were not ready within {} s", START_LIMIT.as_secs());
    }
    Ok((keeper, answers))
}

/// A line of xtask-containers: the service, `ready` or `failed`, the URL or the reason, and the
/// image, separated by tabs. Any other line is for the user.
fn answer(line: &str) -> Option<Attempt> {
    let fields: Vec<_> = line.split('\t').collect();
    let service = Service::ALL.into_iter().find(|service| Some(&service.name()) == fields.first());
    match (service, fields.as_slice()) {
        (Some(service), [_, "ready", url, image]) => {
            let origin = format!("in a container of image {image}");
            Some((service, Ok(Running { service, url: (*url).to_owned(), origin })))
        }
        (Some(service), [_, "failed", reason, image]) => {
            Some((service, Err(anyhow!("no container of image {image}: {reason}"))))
        }
        _ => {
            say(line);
            None
        }
    }
}

fn build(run: &RunFolder) -> anyhow::Result<()> {
    say("services: a Docker engine answers: building xtask-containers (a minute, the first time)");
    let mut cargo = cargo();
    // The features of the whole workspace, as for the tests: otherwise cargo would compile the dependencies once more.
    cargo.args(["build", "--quiet", "--all-features", "--bin", "xtask-containers"]);
    cargo.stdin(Stdio::null());
    if !process::run(cargo, "cargo-build", Some(BUILD_LIMIT), run)?.success() {
        bail!("xtask-containers does not compile");
    }
    Ok(())
}
