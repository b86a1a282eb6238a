//! The bus: the feed holds new events, each node polls it, and `NOTIFY` wakes the nodes.

mod hearing;
mod listen;
mod mail;
mod node;
mod poll;
mod resync;
mod wake;

use std::sync::Arc;

use async_trait::async_trait;
use strait_core::store::{BusNode, Command, EventBus, Health, Sink, StoreError, StoreErrorKind};
use strait_core::{NodeId, Position, Topic};

pub(crate) use listen::Listening;
pub(crate) use node::Nodes;
pub(crate) use wake::Waker;

use crate::database::{Lane, Values};
use crate::error::{BACKEND, error};
use crate::store::PostgresStore;
use mail::Mail;
use node::Node;

#[async_trait]
impl EventBus for PostgresStore {
    async fn start(&self, node: &NodeId, sink: Arc<dyn Sink>) -> Result<Arc<dyn BusNode>, StoreError> {
        let (store, node) = (self.clone(), node.clone());
        // The start completes even if the caller is dropped: the node is then dropped too, and leaves.
        let started = tokio::spawn(async move { PostgresNode::start(store, &node, sink).await });
        let node = started
            .await
            .map_err(|ended| StoreError::new(StoreErrorKind::Unavailable, BACKEND, "start").because(ended))??;
        Ok(Arc::new(node))
    }
}

/// One node's end of the bus. A dropped node leaves the bus, as at the end of its process.
#[derive(Debug)]
struct PostgresNode {
    store: PostgresStore,
    node: Arc<Node>,
}

impl PostgresNode {
    async fn start(store: PostgresStore, id: &NodeId, sink: Arc<dyn Sink>) -> Result<Self, StoreError> {
        let node = Node::join(&store, id, sink).await?;
        // From here on a failed start drops the node, which leaves.
        let this = Self { store, node };
        this.store.inner.listening.begin(&this.store);
        this.node.begin(&this.store).await?;
        Ok(this)
    }
}

#[async_trait]
impl BusNode for PostgresNode {
    async fn interest(&self, on: &[Topic], off: &[Topic]) -> Result<Vec<Position>, StoreError> {
        self.node.interest(&self.store, on, off).await
    }

    async fn send(&self, node: &NodeId, commands: &[Command]) -> Result<bool, StoreError> {
        if commands.is_empty() {
            return Ok(true);
        }
        let mail = Mail::new(commands)
            .map_err(|source| StoreError::new(StoreErrorKind::Corrupt, BACKEND, "send").because(source))?;
        let values = mail.bind(Values::new().with(node.as_str()).with(mail::MOST));
        let sent = self.store.value("send", Lane::Work, &self.store.inner.sql.send, values).await?;
        if sent && !self.store.inner.nodes.wake(node) {
            self.store.inner.waker.wake();
        }
        Ok(sent)
    }

    fn health(&self) -> Health {
        self.node.health(&self.store.inner.config)
    }

    async fn stop(&self) {
        let Some(registration) = self.node.leave(&self.store) else { return };
        if let Err(error) = registration.give_back(&self.store).await {
            tracing::warn!(error = %error.in_full(), "a node could not be taken off the bus, trying again");
            registration.give_back_soon(&self.store, false);
        }
    }
}

impl Drop for PostgresNode {
    fn drop(&mut self) {
        if let Some(registration) = self.node.leave(&self.store) {
            registration.give_back_soon(&self.store, false);
        }
    }
}

fn left(op: &'static str) -> StoreError {
    error(StoreErrorKind::Unavailable, op, "the node has left the bus, start it anew")
}
