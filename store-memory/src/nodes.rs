use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use parking_lot::Mutex;
use strait_core::{ChannelId, NodeId};

use crate::clock::Tick;

/// The nodes' leases, and the channels that are connected to them. Touched only when a channel opens, moves, detaches
/// or ends. Nodes are few: comparing their names costs less than hashing one.
#[derive(Debug, Default)]
pub(crate) struct Nodes(Mutex<BTreeMap<NodeId, Node>>);

#[derive(Debug, Default)]
struct Node {
    /// The end of the lease; 0 without one.
    lease: Tick,
    connected: BTreeSet<ChannelId>,
}

impl Nodes {
    pub(crate) fn add(&self, node: &NodeId, channel: &ChannelId) {
        self.0.lock().entry(node.clone()).or_default().connected.insert(channel.clone());
    }

    pub(crate) fn remove(&self, node: &NodeId, channel: &ChannelId) {
        let mut all = self.0.lock();
        let Some(entry) = all.get_mut(node) else { return };
        entry.connected.remove(channel);
        if entry.connected.is_empty() && entry.lease == 0 {
            all.remove(node);
        }
    }

    pub(crate) fn acquire(&self, node: &NodeId, until: Tick) {
        self.0.lock().entry(node.clone()).or_default().lease = until;
    }

    /// Prolongs a lease that has not ended.
    pub(crate) fn renew(&self, node: &NodeId, now: Tick, until: Tick) -> bool {
        let mut all = self.0.lock();
        match all.get_mut(node) {
            Some(entry) if entry.lease > now => {
                entry.lease = until;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn release(&self, node: &NodeId) {
        let mut all = self.0.lock();
        if let Some(entry) = all.get_mut(node) {
            entry.lease = 0;
            if entry.connected.is_empty() {
                all.remove(node);
            }
        }
    }

    /// Up to `limit` channels on nodes with an ended lease; they stay.
    pub(crate) fn orphans(&self, now: Tick, limit: usize) -> Vec<ChannelId> {
        let mut all = self.0.lock();
        all.retain(|_, node| node.lease > now || !node.connected.is_empty());
        all.values()
            .filter(|node| node.lease <= now)
            .flat_map(|node| node.connected.iter())
            .take(limit)
            .cloned()
            .collect()
    }

    /// Up to `limit` channels that are connected to a node, after the one that a cursor names, in the order of their
    /// ids.
    pub(crate) fn connected(&self, node: &NodeId, cursor: Option<&str>, limit: usize) -> Vec<ChannelId> {
        let all = self.0.lock();
        let Some(node) = all.get(node) else { return Vec::new() };
        let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        node.connected.range::<str, _>((after, Bound::Unbounded)).take(limit).cloned().collect()
    }

    /// Whether channels on the node are due.
    pub(crate) fn is_dead(&self, node: &NodeId, now: Tick) -> bool {
        self.0.lock().get(node).is_none_or(|entry| entry.lease <= now)
    }

    /// How many nodes are known, and how many channels are connected to them.
    pub(crate) fn count(&self) -> (usize, usize) {
        let all = self.0.lock();
        (all.len(), all.values().map(|node| node.connected.len()).sum())
    }
}
