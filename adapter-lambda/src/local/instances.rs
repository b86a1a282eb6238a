//! Instances of the function: here, or processes.

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::process::Command;

use super::invocations::Outcome;
use super::management::label;
use super::{Program, Shared, events, http_server, runtime_api};
use crate::function::Function;
use strait_core::in_full;

/// An instance that ends soon after its start is started again after this pause only.
const PAUSE: Duration = Duration::from_millis(500);

/// As a process would: one invocation at a time, and the work left after its answer before the next one.
pub(super) async fn run_here(shared: Arc<Shared>, function: Function) {
    loop {
        let invocation = shared.invocations.next(None).await;
        // A task of its own, so that a panic fails this invocation only.
        let handling = tokio::spawn({
            let (function, event, deadline) = (function.clone(), invocation.event, invocation.deadline);
            async move { function.handle(&event, deadline).await }
        });
        let (outcome, after) = match handling.await {
            Ok(Ok(handled)) => (Outcome::Answered(handled.answer.get().to_owned().into()), handled.after),
            Ok(Err(failure)) => (Outcome::Failed(failure.to_string().into()), None),
            Err(panicked) => (Outcome::Failed(panicked.to_string().into()), None),
        };
        if !shared.invocations.answer(&invocation.id, outcome) {
            tracing::warn!("an invocation was answered too late");
        }
        if let Some(after) = after {
            function.after(after).await;
        }
    }
}

/// Keeps a process running. Each has a runtime API of its own: the invocations that it had taken fail when it ends.
pub(super) async fn run_process(
    shared: Arc<Shared>,
    program: Program,
    variables: Vec<(&'static str, String)>,
    number: usize,
) {
    loop {
        let process = shared.started.fetch_add(1, Ordering::Relaxed);
        shared.invocations.begins(process);
        let ended = match run_once(&shared, &program, &variables, process).await {
            Ok(status) => status.to_string(),
            Err(error) => {
                tracing::error!(program = %program.path.display(), error = %in_full(&error), "the function could not be started");
                error.to_string()
            }
        };
        shared.invocations.ended(process, &format!("the instance has ended: {ended}"));
        tracing::warn!(number, ended, "an instance has ended, it is started anew");
        shared.journal.note("instance", "", format!("{number} has ended: {ended}"), SystemTime::now());
        if !shared.has_begun.load(Ordering::Relaxed) {
            shared.broken.notify_one();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn run_once(
    shared: &Arc<Shared>,
    program: &Program,
    variables: &[(&'static str, String)],
    process: u64,
) -> std::io::Result<ExitStatus> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let runtime_api = listener.local_addr()?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .envs(program.variables.iter().map(|(name, value)| (name, value)))
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .env("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string())
        .kill_on_drop(true);
    let mut running = command.spawn()?;
    let id = running.id();
    shared.processes.lock().extend(id);
    let answer = move |shared, _, request| runtime_api::answer(shared, Some(process), request);
    let status = tokio::select! {
        status = running.wait() => status,
        () = http_server::serve(listener, Arc::clone(shared), answer) => unreachable!("it serves until it is dropped"),
    };
    shared.processes.lock().retain(|other| Some(*other) != id);
    status
}

pub(super) async fn sweep(shared: &Shared) -> bool {
    let began = SystemTime::now();
    let (_, outcome) = shared.invocations.invoke(events::schedule()).await;
    shared.journal.note("schedule", "", label(&outcome), began);
    matches!(outcome, Outcome::Answered(_))
}

pub(super) async fn call_janitor(shared: Arc<Shared>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        sweep(&shared).await;
    }
}
