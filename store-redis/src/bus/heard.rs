use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use strait_core::store::Sink;
use strait_core::{Event, Position, Topic, in_full};
use tokio::runtime::Handle;

/// A topic that the node hears.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) topic: Topic,
    pub(crate) slot: u16,
    /// Where it is heard.
    pub(crate) runtime: Handle,
    /// The connection on which the subscription was confirmed last, by its number; 0 for none.
    pub(crate) on: AtomicU64,
    /// The last event; `None` until the first one has come or the head is known.
    last: Mutex<Option<Position>>,
}

impl Heard {
    pub(crate) fn new(topic: Topic, slot: u16, runtime: Handle) -> Self {
        Self { topic, slot, runtime, on: AtomicU64::new(0), last: Mutex::new(None) }
    }

    pub(crate) fn is_on(&self, connection: u64) -> bool {
        self.on.load(Ordering::Acquire) == connection
    }

    /// Events have come. What came before is dropped; a hole before one is told first.
    pub(crate) fn events(&self, events: Vec<(Position, Bytes)>, sink: &dyn Sink) {
        let mut last = self.last.lock();
        let mut run = Vec::with_capacity(events.len());
        for (position, blob) in events {
            let follows = match &*last {
                Some(before) if before.epoch == position.epoch && position.offset <= before.offset => {
                    // The same once more, on another connection; another check tells of a log that was rolled back.
                    if position.offset < before.offset || position.check == before.check {
                        continue;
                    }
                    false
                }
                Some(before) => before.epoch == position.epoch && position.offset == before.offset + 1,
                None => true,
            };
            *last = Some(position);
            if !follows {
                self.hand_on(&mut run, sink);
                self.gap(sink);
            }
            match crate::event::decode(blob) {
                Ok(event) => run.push((position, Arc::new(event))),
                Err(error) => {
                    tracing::error!(error = %in_full(&error), "an event was not understood");
                    self.hand_on(&mut run, sink);
                    self.gap(sink);
                }
            }
        }
        self.hand_on(&mut run, sink);
    }

    fn hand_on(&self, run: &mut Vec<(Position, Arc<Event>)>, sink: &dyn Sink) {
        if !run.is_empty() {
            sink.events(&self.topic, run);
            run.clear();
        }
    }

    /// The head, read after the subscription was confirmed.
    pub(crate) fn begin(&self, head: Position) {
        self.last.lock().get_or_insert(head);
    }

    /// The head, read when all that had been published before must have come: is there anything that did not?
    pub(crate) fn compare(&self, head: Position, sink: &dyn Sink) {
        let mut last = self.last.lock();
        let complete = match &*last {
            None => true,
            Some(last) => last.epoch == head.epoch && last.offset >= head.offset,
        };
        // A topic that was forgotten and has had no event since has lost nothing that could be heard here.
        if complete {
            return;
        }
        *last = Some(head);
        self.gap(sink);
    }

    fn gap(&self, sink: &dyn Sink) {
        metrics::counter!("strait_bus_gaps_total").increment(1);
        sink.gap(std::slice::from_ref(&self.topic));
    }
}
