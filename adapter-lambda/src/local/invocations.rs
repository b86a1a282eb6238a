//! Invocations on their way to an instance of the function and back.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::socket::random_uuid;

/// An event for whoever asks next.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    pub(super) id: String,
    pub(super) event: String,
    /// When the function must have ended; set when an instance takes it.
    pub(super) deadline: SystemTime,
}

/// How an invocation has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// What the function answered.
    Answered(Bytes),
    /// What the function's runtime told of its error.
    Failed(Bytes),
    TimedOut,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Invocation, Answer)>,
    running: HashMap<String, Answer>,
}

struct Answer {
    answer: oneshot::Sender<Outcome>,
    started: oneshot::Sender<Instant>,
}

/// See the [module's documentation](self).
pub(super) struct Invocations {
    state: Mutex<State>,
    arrived: Notify,
    limit: Duration,
}

/// Forgets an invocation that nobody waits for any more, as its time is over.
struct Forget<'a> {
    invocations: &'a Invocations,
    id: String,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.invocations.state.lock();
        state.running.remove(&self.id);
        state.waiting.retain(|(waiting, _)| waiting.id != self.id);
    }
}

impl Invocations {
    pub(super) fn new(limit: Duration) -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), limit }
    }

    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && state.running.is_empty()
    }

    /// Waits for an instance, and then for its answer, for as long as the function may run.
    pub(super) async fn invoke(&self, event: String) -> (String, Outcome) {
        let id = random_uuid();
        let (answer, mut answered) = oneshot::channel();
        let (started, starting) = oneshot::channel();
        let invocation = Invocation { id: id.clone(), event, deadline: SystemTime::now() };
        self.state.lock().waiting.push_back((invocation, Answer { answer, started }));
        self.arrived.notify_one();
        let _forget = Forget { invocations: self, id: id.clone() };
        let Ok(started) = starting.await else { return (id, Outcome::TimedOut) };
        let outcome = tokio::time::timeout_at((started + self.limit).into(), &mut answered).await;
        let outcome = outcome.ok().and_then(Result::ok).unwrap_or(Outcome::TimedOut);
        (id, outcome)
    }

    /// The next invocation, for an instance.
    pub(super) async fn next(&self) -> Invocation {
        loop {
            let arrived = self.arrived.notified();
            if let Some(invocation) = self.take() {
                return invocation;
            }
            arrived.await;
        }
    }

    fn take(&self) -> Option<Invocation> {
        let mut state = self.state.lock();
        let (mut invocation, answer) = state.waiting.pop_front()?;
        invocation.deadline = SystemTime::now() + self.limit;
        let Answer { answer, started } = answer;
        // Who has gone meanwhile needs no answer.
        let _ = started.send(Instant::now());
        let (unused, _) = oneshot::channel();
        state.running.insert(invocation.id.clone(), Answer { answer, started: unused });
        if !state.waiting.is_empty() {
            self.arrived.notify_one();
        }
        Some(invocation)
    }

    /// An instance tells how an invocation has ended; `false` if it was not running.
    pub(super) fn answer(&self, id: &str, outcome: Outcome) -> bool {
        let Some(running) = self.state.lock().running.remove(id) else { return false };
        running.answer.send(outcome).is_ok()
    }
}
