use crate::sorted::SortedMap;
use crate::store::MemoryStore;

/// How much a store holds. When every channel is removed, every node has left and retained events have run out, all
/// counts are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records of channels, dead ones that are not removed among them.
    pub records: usize,
    /// Locations by which channels are found.
    pub locations: usize,
    /// Channels that are connected to a node.
    pub connected: usize,
    /// Channels with a grace or a claim that runs.
    pub deadlines: usize,
    /// Subscriptions of channels to topics.
    pub subscriptions: usize,
    /// Channels with direct sends kept for them.
    pub inboxes: usize,
    /// Topics with any state.
    pub topics: usize,
    /// Rows of members that are found through the store.
    pub members: usize,
    /// Presence entries.
    pub presence: usize,
    /// Nodes with a lease, or with channels.
    pub nodes: usize,
    /// Nodes on the bus.
    pub mailboxes: usize,
}

impl MemoryStore {
    /// Counts the store's entries. It looks at every channel and topic: for tests and diagnosis, not for a metric.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let (nodes, connected) = inner.channels.nodes.count();
        let mut stats = Stats {
            records: inner.channels.len(),
            locations: inner.channels.located(),
            connected,
            deadlines: inner.channels.deadlines.len(),
            nodes,
            mailboxes: inner.mailboxes.len(),
            ..Stats::default()
        };
        inner.channels.each(|channel| {
            stats.subscriptions += channel.topics.len();
            stats.inboxes += usize::from(channel.has_inbox());
        });
        inner.topics.each(|topic| {
            stats.topics += 1;
            if let Some(index) = topic.index() {
                stats.members += index.members.len();
                stats.presence += index.presence().map_or(0, SortedMap::len);
            }
        });
        stats
    }
}
