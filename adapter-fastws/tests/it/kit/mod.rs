//! A node in one line, a client that can misbehave, and waiting that ends.

mod client;
mod node;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use strait_core::Limits;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

#[allow(unused_imports, reason = "each of the two suites uses its own part")]
pub(crate) use client::{Client, Got, TcpClient, binary, close, frame, handshake, header, ping, pong, text};
pub(crate) use node::{Node, echo, serve, serve_app, serve_on, serve_with, server_limits, store};

/// The longest wait of a test.
const BOUND: Duration = Duration::from_secs(10);
/// The longest wait for the peer of a closing handshake.
pub(crate) const CLOSING: Duration = Duration::from_millis(150);

/// Waits for a future, and fails rather than hangs.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(BOUND, future).await.expect("it takes too long")
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < give_up, "this does not come: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until a value becomes the expected one.
pub(crate) async fn becomes<T: PartialEq + Debug>(mut look: impl FnMut() -> T, expected: T) {
    let give_up = Instant::now() + BOUND;
    loop {
        let found = look();
        if found == expected {
            return;
        }
        assert!(Instant::now() < give_up, "it is {found:?} and does not become {expected:?}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// The default limits, but for times that a test would wait for, and without a rate limit.
pub(crate) fn limits() -> Limits {
    Limits { closing: CLOSING, rate: None, ..Limits::default() }
}

/// Handlers wait here until a test lets them pass.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn shut() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) async fn pass(&self) {
        self.0.acquire().await.expect("the gate is never closed for good").forget();
    }

    pub(crate) fn let_in(&self, handlers: usize) {
        self.0.add_permits(handlers);
    }
}

/// Notes of handlers for a test to look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<parking_lot::Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().push(note.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    /// Waits until exactly these notes are there.
    pub(crate) async fn become_these(&self, expected: &[&str]) {
        let expected: Vec<String> = expected.iter().map(|note| (*note).to_owned()).collect();
        becomes(|| self.all(), expected).await;
    }
}
