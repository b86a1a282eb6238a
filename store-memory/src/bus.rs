use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use strait_core::store::{BusNode, Command, EventBus, Health, Sink, StoreError, StoreErrorKind};
use strait_core::{NodeId, Position, Topic};

use crate::store::{Inner, MemoryStore, conflict};

/// The sink of events and commands for one node.
#[derive(Debug)]
pub(crate) struct Mailbox {
    node: NodeId,
    pub(crate) sink: Arc<dyn Sink>,
}

/// The nodes that are on the bus.
#[derive(Debug, Default)]
pub(crate) struct Mailboxes(RwLock<HashMap<NodeId, Arc<Mailbox>>>);

impl Mailboxes {
    pub(crate) fn len(&self) -> usize {
        self.0.read().len()
    }

    fn get(&self, node: &NodeId) -> Option<Arc<Mailbox>> {
        self.0.read().get(node).cloned()
    }
}

#[async_trait]
impl EventBus for MemoryStore {
    async fn start(&self, node: &NodeId, sink: Arc<dyn Sink>) -> Result<Arc<dyn BusNode>, StoreError> {
        let mailbox = Arc::new(Mailbox { node: node.clone(), sink });
        let mut all = self.inner.mailboxes.0.write();
        if all.contains_key(node) {
            return Err(conflict("start", "a node of this name is on the bus, every node needs a name of its own"));
        }
        all.insert(node.clone(), Arc::clone(&mailbox));
        drop(all);
        let hearing = Mutex::new(Some(Hearing { mailbox, topics: HashSet::new() }));
        Ok(Arc::new(MemoryNode { store: Arc::clone(&self.inner), hearing }))
    }
}

/// One node's end of the bus. A dropped node leaves, as at its process's end.
#[derive(Debug)]
struct MemoryNode {
    store: Arc<Inner>,
    /// `None` once the node has left: this drops the sink, which may own the node in turn.
    hearing: Mutex<Option<Hearing>>,
}

#[derive(Debug)]
struct Hearing {
    mailbox: Arc<Mailbox>,
    topics: HashSet<Topic>,
}

impl MemoryNode {
    fn leave(&self) {
        let Some(Hearing { mailbox, topics }) = self.hearing.lock().take() else { return };
        self.store.mailboxes.0.write().remove(&mailbox.node);
        for topic in topics {
            self.store.topics.existing(&topic, |state| state.unhear(&mailbox));
        }
    }
}

#[async_trait]
impl BusNode for MemoryNode {
    async fn interest(&self, on: &[Topic], off: &[Topic]) -> Result<Vec<Position>, StoreError> {
        let mut hearing = self.hearing.lock();
        let Some(Hearing { mailbox, topics }) = hearing.as_mut() else {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "memory", "interest")
                .because("the node has left the bus, start it anew"));
        };
        for topic in off {
            if topics.remove(topic) {
                self.store.topics.existing(topic, |state| state.unhear(mailbox));
            }
        }
        let begin = |topic: &Topic| {
            self.store.topics.entry(topic, |state| {
                if state.hear(mailbox) {
                    topics.insert(state.name.clone());
                }
                state.head()
            })
        };
        Ok(on.iter().map(begin).collect())
    }

    async fn send(&self, node: &NodeId, commands: &[Command]) -> Result<bool, StoreError> {
        let Some(mailbox) = self.store.mailboxes.get(node) else { return Ok(false) };
        for command in commands {
            mailbox.sink.command(command.clone());
        }
        Ok(true)
    }

    fn health(&self) -> Health {
        let hears = self.hearing.lock().is_some();
        Health { hears, lag: hears.then_some(Duration::ZERO) }
    }

    async fn stop(&self) {
        self.leave();
    }
}

impl Drop for MemoryNode {
    fn drop(&mut self) {
        self.leave();
    }
}
