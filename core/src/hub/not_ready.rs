//! The reasons why a node should get no clients at the moment.

use std::fmt;

use super::EventHub;
use crate::observed::Refuses;

/// A reason not to send clients to this node. It displays as one line without secrets.
#[derive(Debug)]
pub struct NotReady(Reason);

#[derive(Debug)]
enum Reason {
    Lease,
    Deaf,
    Refused(Refuses),
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Lease => f.write_str("not sure of the lease"),
            Reason::Deaf => f.write_str("the bus does not hear"),
            Reason::Refused(refuses) => refuses.fmt(f),
        }
    }
}

impl EventHub {
    /// All the reasons not to send clients to this node at the moment; none if it is ready.
    ///
    /// The node is not ready while it is not sure of its lease, and while the bus does not hear. It is not ready either
    /// while its store has refused all writes, of two operations at least, for 5 s, the last one within 10 s; stores in memory are exempt.
    #[must_use]
    pub fn not_ready(&self) -> Vec<NotReady> {
        let lease = (!self.is_sure()).then_some(Reason::Lease);
        let deaf = (!self.health().hears).then_some(Reason::Deaf);
        let refused = self.0.store_health.refuses().map(Reason::Refused);
        [lease, deaf, refused].into_iter().flatten().map(NotReady).collect()
    }
}
