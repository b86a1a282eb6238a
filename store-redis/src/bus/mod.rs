//! The bus: a shard channel for each topic and for each node's mailbox. The node has a separate connection to each
//! server with any of them.
//!
//! The bus checks each event against the last position: it reports every hole as a gap. After a reconnect it makes
//! every subscription again, and compares the heads of all topics with the received and the acknowledged positions.
//! Another run of a server may lack the last writes, so the bus then reports a gap even if the heads show no loss. In
//! between, a published probe must arrive: it proves that messages come through, and that the server takes writes.

mod heard;
mod hearing;
mod listener;
mod mailbox;
mod node;
mod run;
mod supervisor;

use std::sync::Arc;

use async_trait::async_trait;
use strait_core::NodeId;
use strait_core::store::{BusNode, EventBus, Sink, StoreError};

pub(crate) use node::Bus;

use crate::bus::node::RedisNode;
use crate::store::RedisStore;

#[async_trait]
impl EventBus for RedisStore {
    async fn start(&self, node: &NodeId, sink: Arc<dyn Sink>) -> Result<Arc<dyn BusNode>, StoreError> {
        Ok(Arc::new(RedisNode::start(Arc::clone(&self.inner), node.clone(), sink).await?))
    }
}
