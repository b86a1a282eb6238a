//! Keeps the test services' containers for `cargo xtask`, which starts this program and reads its
//! lines. They are removed when its input ends or a signal comes.

mod leftovers;
mod service;

use std::{
    env,
    io::{Read, Write},
    path::{Path, PathBuf},
    pin::pin,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream::FuturesUnordered};
use testcontainers::{ContainerAsync, GenericImage};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use crate::service::Service;

/// The limit for one service, with its image's download.
const START_LIMIT: Duration = Duration::from_secs(120);
/// The limit for a start that is not wanted any more.
const END_LIMIT: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let lock = PathBuf::from(arguments.next().context("usage: xtask-containers LOCK SERVICE=IMAGE…")?);
    let services = arguments.map(|argument| Service::parse(&argument)).collect::<Result<Vec<_>, _>>()?;
    if services.is_empty() {
        bail!("name a service, as in redis=IMAGE");
    }
    let password = env::var("STRAIT_TEST_PASSWORD").context("STRAIT_TEST_PASSWORD is not set")?;

    let swept = leftovers::sweep().await.context("cannot look for leftovers")?;
    if swept > 0 {
        tell(format_args!("services: removed {swept} containers, which a killed run had left"));
    }
    let mut start = pin!(start(&services, &lock, &password));
    let mut end = pin!(end_is_asked_for());
    let (outcome, _running) = tokio::select! {
        running = &mut start => (end.await, running),
        // The engine also completes a create request of a client that has gone: so let the start finish.
        outcome = &mut end => (outcome, timeout(END_LIMIT, start).await.unwrap_or_default()),
    };
    // By label: this also removes a container that was being created a moment ago.
    leftovers::remove_of_run(&lock).await.context("cannot remove the containers")?;
    outcome
}

async fn start(services: &[Service], lock: &Path, password: &str) -> Vec<ContainerAsync<GenericImage>> {
    let mut starts: FuturesUnordered<_> = services
        .iter()
        .map(|service| async move {
            let started = timeout(START_LIMIT, service.start(lock, password)).await;
            let outcome = started.unwrap_or_else(|_| bail!("not ready within {} s", START_LIMIT.as_secs()));
            (service, outcome)
        })
        .collect();
    let mut running: Vec<ContainerAsync<GenericImage>> = Vec::new();
    while let Some((service, outcome)) = starts.next().await {
        let (state, detail) = match outcome {
            Ok((container, url)) => {
                running.push(container);
                ("ready", url)
            }
            Err(error) => ("failed", format!("{error:#}").replace(['\t', '\n'], " ")),
        };
        tell(format_args!("{}\t{state}\t{detail}\t{}", service.kind.name(), service.image));
    }
    running
}

/// The input ends with the program that started this one, however that one ended.
async fn end_is_asked_for() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    // A thread of its own: the runtime would wait for a read of its own to end before it ends.
    let (ended, input_ended) = oneshot::channel();
    thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = input_ended => {}
    }
    Ok(())
}

/// The reader may have been killed: then no process listens, and the clean-up still has to happen.
fn tell(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
