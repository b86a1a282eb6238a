//! Panic isolation: a panic in one task never takes down the node.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

/// The message of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Logs and counts a panic of one of the node's own tasks.
pub(crate) fn tell(task: &'static str, panic: &(dyn Any + Send)) {
    metrics::counter!("strait_task_panics_total", "task" => task).increment(1);
    tracing::error!(task, panic = message(panic), "a task panicked, the node goes on");
}

/// Awaits a future. A panic becomes `None`, and is logged and counted.
pub(crate) async fn survived<T>(task: &'static str, future: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(future).catch_unwind().await.inspect_err(|panic| tell(task, &**panic)).ok()
}
