//! Invocations on their way to an instance of the function and back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::socket::random_uuid;

/// An event for the next instance that asks.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    pub(super) id: String,
    pub(super) event: String,
    /// The deadline of the function; set when an instance takes the invocation.
    pub(super) deadline: SystemTime,
}

/// How an invocation has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The function's answer.
    Answered(Bytes),
    /// The error that the function's runtime reported.
    Failed(Bytes),
    TimedOut,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Invocation, Answer)>,
    running: HashMap<String, Running>,
    /// The processes that run.
    processes: HashSet<Taker>,
}

struct Answer {
    answer: oneshot::Sender<Outcome>,
    started: oneshot::Sender<Instant>,
}

struct Running {
    answer: oneshot::Sender<Outcome>,
    by: Taker,
}

/// The process that took an invocation, by a number that is new at each start; none in this process, or if it is
/// unknown.
pub(super) type Taker = Option<u64>;

/// See the [module's documentation](self).
pub(super) struct Invocations {
    state: Mutex<State>,
    arrived: Notify,
    limit: Duration,
}

/// Forgets an invocation when its caller's time is over.
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

    /// A process begins.
    pub(super) fn begins(&self, process: u64) {
        self.state.lock().processes.insert(Some(process));
    }

    /// A process has ended: the invocations that it had taken fail with it.
    pub(super) fn ended(&self, process: u64, why: &str) {
        let mut state = self.state.lock();
        state.processes.remove(&Some(process));
        let failed: Vec<Running> =
            state.running.extract_if(|_, running| running.by == Some(process)).map(|(_, running)| running).collect();
        drop(state);
        for running in failed {
            // A caller that has gone meanwhile needs no answer.
            let _ = running.answer.send(Outcome::Failed(why.to_owned().into()));
        }
    }

    /// The next invocation, for an instance.
    pub(super) async fn next(&self, by: Taker) -> Invocation {
        loop {
            let arrived = self.arrived.notified();
            if by.is_some() && !self.state.lock().processes.contains(&by) {
                // The process is dead, and may have been woken instead of another one.
                self.arrived.notify_one();
                std::future::pending::<()>().await;
            }
            if let Some(invocation) = self.take(by) {
                return invocation;
            }
            arrived.await;
        }
    }

    fn take(&self, by: Taker) -> Option<Invocation> {
        let mut state = self.state.lock();
        if by.is_some() && !state.processes.contains(&by) {
            return None;
        }
        let (mut invocation, answer) = state.waiting.pop_front()?;
        invocation.deadline = SystemTime::now() + self.limit;
        let Answer { answer, started } = answer;
        // A caller that has gone meanwhile needs no answer.
        let _ = started.send(Instant::now());
        state.running.insert(invocation.id.clone(), Running { answer, by });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_process_had_taken_fails_when_it_ends_and_it_takes_nothing_more() {
        let invocations = Invocations::new(Duration::from_secs(60));
        invocations.begins(1);
        invocations.begins(2);
        let (first, taken) = tokio::join!(
            async {
                let (_, outcome) = invocations.invoke("one".to_owned()).await;
                outcome
            },
            async {
                let taken = invocations.next(Some(1)).await;
                invocations.ended(1, "killed");
                taken
            }
        );
        assert_eq!((first, taken.event.as_str()), (Outcome::Failed("killed".into()), "one"));
        let second = async {
            let invocation = invocations.next(Some(2)).await;
            invocations.answer(&invocation.id, Outcome::Answered("two".into()))
        };
        let dead = async {
            tokio::select! {
                biased;
                taken = invocations.next(Some(1)) => panic!("a dead process took {taken:?}"),
                (_, outcome) = invocations.invoke("two".to_owned()) => outcome,
            }
        };
        assert_eq!(tokio::join!(dead, second), (Outcome::Answered("two".into()), true));
    }
}
