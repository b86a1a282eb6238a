//! The schema: every key's name and slot.
//!
//! A key is the prefix, a tag in braces, a kind, and a plain name. The tag is one of a fixed number of partitions, so
//! that all keys of one script are in one slot. The tag comes first, so that braces in a name mean nothing. No name is
//! ever part of a pattern.

use std::fmt::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use strait_core::store::Location;
use strait_core::{ChannelId, NodeId, Topic};

use crate::place;
use crate::slot::{crc16, slot};

/// Partitions of topics.
pub(crate) const TOPICS: u16 = 256;
/// Partitions of channels, and so of the sets of due channels.
pub(crate) const CHANNELS: u16 = 64;
/// Partitions of nodes, and of locations.
const OTHERS: u16 = 64;

/// The names of keys below one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    prefix: String,
    /// Tells the shard channels of one database from those of another; empty for database 0. Each database has keys of
    /// its own, but shard channels belong to the whole server.
    database: String,
    topics: Vec<u16>,
    channels: Vec<u16>,
    nodes: Vec<u16>,
    locations: Vec<u16>,
}

/// One partition: its slot, and the parts of a name that all its keys share.
#[derive(Debug, Clone, Copy)]
struct Partition<'a> {
    prefix: &'a str,
    database: &'a str,
    kind: char,
    number: u16,
    slot: u16,
}

impl Partition<'_> {
    fn key(&self, what: &str, name: &str) -> String {
        let Self { prefix, kind, number, .. } = self;
        format!("{prefix}{{{kind}{number}}}{what}{name}")
    }

    /// A shard channel.
    fn channel(&self, what: &str, name: &str) -> String {
        let Self { prefix, database, kind, number, .. } = self;
        format!("{prefix}{{{kind}{number}}}{database}{what}{name}")
    }
}

fn slots(kind: char, count: u16) -> Vec<u16> {
    (0..count).map(|number| slot(&format!("{kind}{number}"))).collect()
}

impl Keys {
    pub(crate) fn new(prefix: &str, database: u32) -> Self {
        Self(Arc::new(Inner {
            prefix: prefix.to_owned(),
            database: if database == 0 { String::new() } else { format!("@{database}:") },
            topics: slots('t', TOPICS),
            channels: slots('c', CHANNELS),
            nodes: slots('n', OTHERS),
            locations: slots('l', OTHERS),
        }))
    }

    fn partition<'a>(&'a self, kind: char, slots: &[u16], number: u16) -> Partition<'a> {
        Partition { prefix: &self.0.prefix, database: &self.0.database, kind, number, slot: slots[usize::from(number)] }
    }

    pub(crate) fn topic<'a>(&'a self, topic: &'a Topic) -> TopicKeys<'a> {
        let number = crc16(topic.as_str().as_bytes()) % TOPICS;
        TopicKeys { at: self.partition('t', &self.0.topics, number), topic: topic.as_str() }
    }

    pub(crate) fn channel<'a>(&'a self, id: &'a ChannelId) -> ChannelKeys<'a> {
        let number = crc16(id.as_str().as_bytes()) % CHANNELS;
        ChannelKeys { at: self.partition('c', &self.0.channels, number), id: id.as_str() }
    }

    pub(crate) fn channels(&self, number: u16) -> ChannelsKeys<'_> {
        ChannelsKeys { at: self.partition('c', &self.0.channels, number) }
    }

    pub(crate) fn node<'a>(&'a self, node: &'a NodeId) -> NodeKeys<'a> {
        let number = crc16(node.as_str().as_bytes()) % OTHERS;
        NodeKeys { at: self.partition('n', &self.0.nodes, number), node: node.as_str() }
    }

    /// The key of a location, and its slot.
    pub(crate) fn location(&self, location: &Location) -> (String, u16) {
        self.encoded_location(&place::encode(location))
    }

    pub(crate) fn encoded_location(&self, location: &str) -> (String, u16) {
        let number = crc16(location.as_bytes()) % OTHERS;
        let at = self.partition('l', &self.0.locations, number);
        (at.key("at:", location), at.slot)
    }

    /// The topic of a shard channel.
    pub(crate) fn topic_of_channel<'a>(&self, channel: &'a str) -> Option<&'a str> {
        let (_, rest) = channel.strip_prefix(&self.0.prefix)?.strip_prefix("{t")?.split_once('}')?;
        rest.strip_prefix(&*self.0.database)?.strip_prefix("event:")
    }

    /// A shard channel for probes in each partition of topics, with its slot.
    pub(crate) fn probes<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = (String, u16)> + 'a {
        (0..TOPICS).map(move |number| {
            let at = self.partition('t', &self.0.topics, number);
            (at.channel("probe:", node.as_str()), at.slot)
        })
    }
}

/// The keys of one topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TopicKeys<'a> {
    at: Partition<'a>,
    topic: &'a str,
}

impl TopicKeys<'_> {
    pub(crate) fn slot(&self) -> u16 {
        self.at.slot
    }

    /// Hash: the log's head, and how much of it is kept.
    pub(crate) fn meta(&self) -> String {
        self.at.key("meta:", self.topic)
    }

    /// Stream: the events that are kept.
    pub(crate) fn log(&self) -> String {
        self.at.key("log:", self.topic)
    }

    /// Sorted set: indexed members by row.
    pub(crate) fn members(&self) -> String {
        self.at.key("members:", self.topic)
    }

    /// Sorted set: present members by row.
    pub(crate) fn present(&self) -> String {
        self.at.key("present:", self.topic)
    }

    /// Hash: the contents of the rows, the last row's number, the relay.
    pub(crate) fn rows(&self) -> String {
        self.at.key("rows:", self.topic)
    }

    /// String: the position of the publication with an idempotency key. The name holds the first 16 bytes of the key's
    /// SHA-256, so that a long key takes no more room. No topic holds a control character.
    pub(crate) fn idempotency(&self, key: &str) -> String {
        let mut name = self.at.key("key:", self.topic);
        name.push('\0');
        for byte in &Sha256::digest(key.as_bytes())[..16] {
            // Writing to a string never fails.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    /// The shard channel of the topic's events.
    pub(crate) fn channel(&self) -> String {
        self.at.channel("event:", self.topic)
    }
}

/// The keys of one channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelKeys<'a> {
    at: Partition<'a>,
    id: &'a str,
}

impl<'a> ChannelKeys<'a> {
    pub(crate) fn slot(&self) -> u16 {
        self.at.slot
    }

    /// Hash: the record.
    pub(crate) fn record(&self) -> String {
        self.at.key("channel:", self.id)
    }

    /// Hash: the channel's topics, with its rows in each.
    pub(crate) fn topics(&self) -> String {
        self.at.key("topics:", self.id)
    }

    /// Hash: the head of the inbox.
    pub(crate) fn inbox(&self) -> String {
        self.at.key("inbox:", self.id)
    }

    /// Stream: direct sends that are kept.
    pub(crate) fn inbox_log(&self) -> String {
        self.at.key("inboxlog:", self.id)
    }

    /// String: the holder of the lock.
    pub(crate) fn lock(&self) -> String {
        self.at.key("lock:", self.id)
    }

    /// The keys of the channel's partition.
    pub(crate) fn partition(&self) -> ChannelsKeys<'a> {
        ChannelsKeys { at: self.at }
    }
}

/// The keys that all channels of a partition share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelsKeys<'a> {
    at: Partition<'a>,
}

impl ChannelsKeys<'_> {
    pub(crate) fn slot(&self) -> u16 {
        self.at.slot
    }

    /// Sorted set: node and channel, for each channel that is connected to a node.
    pub(crate) fn connected(&self) -> String {
        self.at.key("connected", "")
    }

    /// Sorted set: detached and dead channels by the time at which their grace or claim runs out.
    pub(crate) fn due(&self) -> String {
        self.at.key("due", "")
    }
}

/// The keys of one node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeKeys<'a> {
    at: Partition<'a>,
    node: &'a str,
}

impl NodeKeys<'_> {
    pub(crate) fn slot(&self) -> u16 {
        self.at.slot
    }

    /// String: exists while the node holds its lease.
    pub(crate) fn lease(&self) -> String {
        self.at.key("lease:", self.node)
    }

    /// String: exists while the node is on the bus.
    pub(crate) fn bus(&self) -> String {
        self.at.key("bus:", self.node)
    }

    /// Hash: the head of the node's mailbox.
    pub(crate) fn mailbox(&self) -> String {
        self.at.key("mail:", self.node)
    }

    /// Stream: the last commands to the node.
    pub(crate) fn mailbox_log(&self) -> String {
        self.at.key("maillog:", self.node)
    }

    /// The shard channel of the node's commands.
    pub(crate) fn channel(&self) -> String {
        self.at.channel("command:", self.node)
    }

    /// A shard channel for probes beside the mailbox.
    pub(crate) fn probe(&self) -> String {
        self.at.channel("probe:", self.node)
    }
}
