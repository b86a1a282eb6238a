//! The assignment of slots to servers.

use std::sync::Arc;

use redis::Value;

use crate::event::Foreign;
use crate::reply::{integer, list, text};
use crate::server::Server;
use crate::slot::SLOTS;

/// The servers that hold the data.
#[derive(Debug, Clone)]
pub(crate) enum Topology {
    /// One server has all slots.
    Single(Arc<Server>),
    Cluster(Cluster),
}

#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Arc<Server>>,
    /// The index of each slot's server, or [`NOBODY`].
    slots: Box<[u16]>,
}

const NOBODY: u16 = u16::MAX;

impl Topology {
    pub(crate) fn server(&self, slot: u16) -> Option<&Arc<Server>> {
        match self {
            Self::Single(server) => Some(server),
            Self::Cluster(cluster) => cluster.servers.get(usize::from(cluster.slots[usize::from(slot)])),
        }
    }
}

impl Cluster {
    /// Parses the answer of CLUSTER SLOTS: first slot, last slot, the master, its replicas. `find` returns the server
    /// of a host and port; an empty host is that of the server that answered.
    pub(crate) fn parse(answer: Value, mut find: impl FnMut(&str, u16) -> Arc<Server>) -> Result<Self, Foreign> {
        let mut cluster = Self { servers: Vec::new(), slots: vec![NOBODY; usize::from(SLOTS)].into() };
        for range in list(answer)? {
            let range = list(range)?;
            let [first, last, Value::Array(master), ..] = &range[..] else { return Err(Foreign) };
            let [host, port, ..] = &master[..] else { return Err(Foreign) };
            let host = if *host == Value::Nil { "" } else { text(host)? };
            let port = u16::try_from(integer(port)?).map_err(|_| Foreign)?;
            let slot = |value| usize::try_from(integer(value)?).map_err(|_| Foreign);
            let (first, last) = (slot(first)?, slot(last)?);
            let at = cluster.index(&find(if host == "?" { "" } else { host }, port));
            cluster.slots.get_mut(first..=last).ok_or(Foreign)?.fill(at);
        }
        Ok(cluster)
    }

    /// Notes that one slot has moved.
    pub(crate) fn moved(&mut self, slot: u16, server: &Arc<Server>) {
        self.slots[usize::from(slot)] = self.index(server);
    }

    fn index(&mut self, server: &Arc<Server>) -> u16 {
        let known = self.servers.iter().position(|known| known.address == server.address);
        let at = known.unwrap_or_else(|| {
            self.servers.push(Arc::clone(server));
            self.servers.len() - 1
        });
        u16::try_from(at).unwrap_or(NOBODY)
    }
}
