//! The bus: a shard channel for each topic and for each node's mailbox, heard on a connection of its own to each server
//! that has any of them.
//!
//! What comes is checked against the position that was heard last: a hole is told as a gap, however it came about. After
//! each reconnect every subscription is made again and confirmed, and the heads of all topics are compared with what was
//! heard, and with what this process was acknowledged. Another run of a server may lack the last writes, so that it is told
//! as a gap whatever the heads say. A probe that is published and must arrive shows that the way is open in between, and
//! that the server takes writes.

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
