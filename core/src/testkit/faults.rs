use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::name::Topic;
use crate::store::{Sink, StoreError, StoreErrorKind};

/// The failure of a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It fails and has no effect.
    Refuse(StoreErrorKind),
    /// It takes effect, and then fails: the answer was lost on its way.
    LoseAnswer(StoreErrorKind),
    /// It takes effect, and its answer waits until the gate opens.
    HoldAnswer(Gate),
    /// It panics, like a defect in a store.
    Panic,
    /// It takes this much longer.
    Delay(Duration),
    /// It has no effect until the gate opens.
    Hang(Gate),
}

/// Holds calls back until it is opened. Clones are one gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets waiting and later calls through.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// The number of calls that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.receiver_count()
    }

    async fn pass(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`: this ends only when the gate opens.
        let _ = receiver.wait_for(|open| *open).await;
    }
}

/// The faults of a [`Faulty`](super::Faulty) store, and a count of its calls. Clones are one set of faults.
///
/// Operations go by the names of the traits' methods: `"publish"`, `"claim_due"`, …
#[derive(Debug, Clone, Default)]
pub struct Faults {
    operations: Arc<Mutex<HashMap<&'static str, Operation>>>,
    pub(super) ears: Arc<Ears>,
}

/// The events that the nodes of a [`Faulty`](super::Faulty) store do not hear.
#[derive(Debug, Default)]
pub(super) struct Ears {
    deaf: AtomicBool,
    /// Topics with events since the nodes became deaf, with the sinks that missed them.
    missed: Mutex<Vec<(Topic, Arc<dyn Sink>)>>,
}

impl Ears {
    pub(super) fn are_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    /// Whether events of a topic come through to a sink.
    pub(super) fn hear(&self, topic: &Topic, sink: &Arc<dyn Sink>) -> bool {
        let deaf = self.are_deaf();
        if deaf {
            self.missed.lock().push((topic.clone(), Arc::clone(sink)));
        }
        !deaf
    }
}

#[derive(Debug, Default)]
struct Operation {
    calls: usize,
    next: VecDeque<Fault>,
    always: Option<Fault>,
}

impl Faults {
    /// No faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next `count` calls of an operation meet a fault, after the faults of earlier calls of this method.
    pub fn next(&self, op: &'static str, count: usize, fault: &Fault) {
        let mut operations = self.operations.lock();
        operations.entry(op).or_default().next.extend(std::iter::repeat_n(fault.clone(), count));
    }

    /// Every call of an operation meets a fault, until [`heal`](Self::heal).
    pub fn always(&self, op: &'static str, fault: Fault) {
        self.operations.lock().entry(op).or_default().always = Some(fault);
    }

    /// An operation works again. Calls that hang already stay so.
    pub fn heal(&self, op: &'static str) {
        if let Some(operation) = self.operations.lock().get_mut(op) {
            operation.next.clear();
            operation.always = None;
        }
    }

    /// The store's nodes hear no events from now on, and their health reports it.
    pub fn deafen(&self) {
        self.ears.deaf.store(true, Ordering::SeqCst);
    }

    /// The nodes hear again, and report a gap for the events that they missed.
    pub fn hear(&self) {
        for (topic, sink) in self.hear_unaware() {
            sink.gap(std::slice::from_ref(&topic));
            sink.reconnected();
        }
    }

    /// The nodes hear again without noticing a gap. Answers the topics and sinks that missed events.
    pub fn hear_unaware(&self) -> Vec<(Topic, Arc<dyn Sink>)> {
        self.ears.deaf.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.ears.missed.lock())
    }

    /// The number of calls of an operation, with or without a fault.
    #[must_use]
    pub fn calls(&self, op: &str) -> usize {
        self.operations.lock().get(op).map_or(0, |operation| operation.calls)
    }

    /// Makes a call with the faults that are due for it.
    pub(super) async fn around<T>(
        &self,
        op: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let lost = |kind| StoreError::new(kind, "faulty", op);
        match self.meet(op) {
            None => call.await,
            Some(Fault::Refuse(kind)) => Err(lost(kind)),
            Some(Fault::LoseAnswer(kind)) => call.await.and_then(|_| Err(lost(kind))),
            Some(Fault::HoldAnswer(gate)) => {
                let answer = call.await;
                gate.pass().await;
                answer
            }
            Some(Fault::Panic) => panic!("{op} panics as it was told to"),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                call.await
            }
            Some(Fault::Hang(gate)) => {
                gate.pass().await;
                call.await
            }
        }
    }

    fn meet(&self, op: &'static str) -> Option<Fault> {
        let mut operations = self.operations.lock();
        let operation = operations.entry(op).or_default();
        operation.calls += 1;
        operation.next.pop_front().or_else(|| operation.always.clone())
    }
}
