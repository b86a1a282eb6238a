//! Instances of the function: here, or processes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::process::Command;

use super::invocations::Outcome;
use super::management::label;
use super::{Program, Shared, events};
use crate::function::Function;

/// An instance that ends soon after its start is started anew after a while only.
const PAUSE: Duration = Duration::from_millis(500);

/// As a process would: one invocation at a time, and what is left after its answer before the next one.
pub(super) async fn run_here(shared: Arc<Shared>, function: Function) {
    loop {
        let invocation = shared.invocations.next().await;
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

/// Keeps a process running.
pub(super) async fn run_process(
    shared: Arc<Shared>,
    program: Program,
    variables: Vec<(&'static str, String)>,
    number: usize,
) {
    loop {
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .envs(program.variables.iter().map(|(name, value)| (name, value)))
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .kill_on_drop(true);
        match command.spawn() {
            Ok(mut process) => match process.wait().await {
                Ok(status) => tracing::warn!(number, %status, "an instance has ended, it is started anew"),
                Err(error) => tracing::error!(number, error = %error, "an instance could not be waited for"),
            },
            Err(error) => {
                tracing::error!(program = %program.path.display(), error = %error, "the function could not be started");
            }
        }
        shared.journal.note("instance", "", format!("ended: {number}"), SystemTime::now());
        tokio::time::sleep(PAUSE).await;
    }
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
