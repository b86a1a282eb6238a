use std::fmt::Debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::trial::Trial;
use crate::name::Topic;
use crate::store::Store;

/// The time limit of one case.
const LIMIT: Duration = Duration::from_secs(60);

/// A case's access to the store under test. Each case gets its own harness, isolated from all others.
#[async_trait]
pub trait Harness: Debug + Send + Sync + 'static {
    /// A handle onto the harness's data, as one more process would have.
    async fn handle(&self) -> Arc<dyn Store>;

    /// Loses the log of a topic with its counter, as a failed-over backend may. Members stay.
    async fn lose_log(&self, topic: &Topic);

    /// Removes all the case's data, even after a failure.
    async fn clean_up(&self);
}

/// Runs one case of the suite; [`suite!`](super::suite) expands to calls of it.
///
/// # Panics
/// When the case fails, or takes longer than a minute.
pub fn run<M, H, F>(make: impl FnOnce() -> M, case: impl FnOnce(Trial) -> F)
where
    M: Future<Output = H>,
    H: Harness,
    F: Future<Output = ()>,
{
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("the system lets a runtime start");
    runtime.block_on(async {
        let harness: Arc<dyn Harness> = Arc::new(make().await);
        let trial = Trial::new(Arc::clone(&harness), harness.handle().await);
        let ended = AssertUnwindSafe(tokio::time::timeout(LIMIT, case(trial))).catch_unwind().await;
        harness.clean_up().await;
        match ended {
            Ok(in_time) => assert!(in_time.is_ok(), "the case did not end within {LIMIT:?}"),
            Err(failure) => resume_unwind(failure),
        }
    });
}
