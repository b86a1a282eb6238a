//! Notes of handlers, for tests to wait for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// The longest wait of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The events so far, in order. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.lock().push(what.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.0.lock().iter().filter(|noted| *noted == what).count()
    }

    pub(crate) async fn wait_for(&self, what: &str) {
        eventually(what, || self.count(what) > 0).await;
    }
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// As [`eventually`], for a condition that must be asked for.
pub(crate) async fn eventually_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Holds handlers up until a test lets each pass.
#[derive(Debug, Clone)]
pub(crate) struct Turnstile(Arc<tokio::sync::Semaphore>);

impl Turnstile {
    pub(crate) fn new() -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(0)))
    }

    pub(crate) async fn pass(&self) {
        self.0.acquire().await.expect("it is never closed").forget();
    }

    pub(crate) fn let_pass(&self, count: usize) {
        self.0.add_permits(count);
    }
}
