use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::StoreError;
use super::record::{Fence, Location};
use crate::event::{Event, EventKind, Payload, Position, Retention};
use crate::name::{ChannelId, NodeId, Topic, UserId};

/// The public part of a channel that is present in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceEntry {
    /// The user, if the channel has a session.
    pub user: Option<UserId>,
    /// The application's own data, as JSON.
    pub data: Option<Bytes>,
}

/// A channel that wants a topic's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The channel, which must be alive in this generation.
    pub fence: Fence,
    /// The topic.
    pub topic: Topic,
    /// Whether the member must be found through the store: at a gateway, or in a `$user:` topic.
    pub indexed: bool,
    /// The presence entry, if others are to see the channel.
    pub presence: Option<PresenceEntry>,
}

/// The answer to one [`Subscription`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// The channel is a member from after `head` on.
    Joined {
        /// The topic's last event.
        head: Position,
    },
    /// It was a member already.
    Already {
        /// The topic's last event.
        head: Position,
    },
    /// The channel is dead or unknown, or the fence is stale.
    Dead,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items. A page may hold fewer than asked for, also none, before the last one.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` after the last one.
    pub next: Option<String>,
}

/// An indexed member of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The channel and the generation that it has now.
    pub fence: Fence,
    /// The place of its connection.
    pub location: Location,
    /// The topic's last event when it joined: the member gets the events after it.
    pub joined: Position,
}

/// A channel that is present in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The channel.
    pub channel: ChannelId,
    /// Its presence entry.
    pub entry: PresenceEntry,
    /// The start of its presence, by the store's clock.
    pub since: SystemTime,
}

impl Present {
    /// The event that announces the channel to the topic's members, [`EventKind::Join`] or [`EventKind::Leave`]. It is
    /// an object of `channel`, `user` if there is one, `since` in milliseconds since 1970, and `data` if it is valid
    /// JSON.
    #[must_use]
    pub fn event(&self, kind: EventKind) -> Event {
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let shown = Shown {
            channel: self.channel.as_str(),
            user: self.entry.user.as_ref().map(UserId::as_str),
            since: u64::try_from(since).unwrap_or(u64::MAX),
            data: self.entry.data.as_deref().and_then(|data| serde_json::from_slice(data).ok()),
        };
        let payload = Payload::json(&shown).expect("strings, a number and valid JSON serialise");
        Event { kind, payload, publisher: None, exclude: None }
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    since: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// The longest idempotency key, in bytes. The hub refuses longer ones, and empty ones.
pub const MAX_KEY: usize = 256;

/// The longest payload of a publication, in bytes: 1 MiB. The hub refuses longer ones: every subscriber gets the
/// payload as one message, and every node holds it in memory as a whole.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Something to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The topic.
    pub topic: Topic,
    /// The event, with a payload of at most [`MAX_PAYLOAD`] bytes.
    pub event: Arc<Event>,
    /// The part of the topic's log that is kept; `None` keeps no event and delivers at most once.
    pub retention: Option<Retention>,
    /// Two publications with the same key are one if they are on the same topic: a key's scope is its topic. The store
    /// remembers it as long as the topic's retention, and at least five minutes. A key has 1 to [`MAX_KEY`] bytes.
    pub key: Option<Arc<str>>,
}

/// The answer to one [`Publication`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The event's place in the topic.
    pub position: Position,
    /// Whether the topic has indexed members, which the bus does not reach.
    pub indexed: bool,
    /// Whether an earlier publication had the same key; this one was then not delivered.
    pub duplicate: bool,
}

/// The answer to a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// Everything after the position, up to the limit.
    Events {
        /// The events in order.
        events: Vec<(Position, Arc<Event>)>,
        /// The last event of the log.
        head: Position,
        /// Whether there are more before `head`.
        more: bool,
    },
    /// Some events after the position are lost, or the position is of another log.
    Gap {
        /// The last event of the log.
        head: Position,
    },
}

/// The answer to a direct send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// The channel is detached: the event waits in its inbox.
    Stored(Position),
    /// The channel is connected there; resumable channels keep the event in the inbox as well.
    At {
        /// The place of its connection.
        location: Location,
        /// The place in the inbox.
        position: Option<Position>,
    },
    /// There is no such living channel.
    Absent,
}

/// The right to post a retained topic's events to its gateway members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The topic.
    pub topic: Topic,
    /// The position up to which events are posted.
    pub from: Position,
    /// Tells this holding of the relay from every other one.
    pub token: u64,
}

/// Keeps subscriptions, presence and the logs of topics.
///
/// Offsets of a topic count up by 1, and the bus delivers its events in that order.
#[async_trait]
pub trait EventHubStore: Debug + Send + Sync + 'static {
    /// Adds members. Joining with presence publishes a `Join` event ([`Present::event`]) in the same step, and `head`
    /// is that event. On a topic with a log it is kept like the last publication.
    ///
    /// A call for a member updates it: indexed or not, present or not, with this entry. A change of the entry alone
    /// publishes no event.
    ///
    /// # Errors
    /// The store cannot answer; some of the slice may have been done.
    async fn subscribe(&self, subscriptions: &[Subscription]) -> Result<Vec<Subscribed>, StoreError>;

    /// Removes members; `false` for a channel that was none, or has a stale fence. Leaving with presence publishes a
    /// `Leave` event.
    ///
    /// # Errors
    /// The store cannot answer; some of the slice may have been done.
    async fn unsubscribe(&self, members: &[(Fence, Topic)]) -> Result<Vec<bool>, StoreError>;

    /// The topics of a living channel, in no particular order.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn topics(&self, id: &ChannelId) -> Result<Vec<Topic>, StoreError>;

    /// The indexed members of a topic that have living records. `cursor` is `None` or a page's `next`. A channel that
    /// is a member throughout the listing is listed once.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn members(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Member>, StoreError>;

    /// The channels that are present in a topic: one entry a living channel, paged as [`members`](Self::members).
    ///
    /// # Errors
    /// The store cannot answer.
    async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, StoreError>;

    /// Gives each event its position, keeps it as its retention says, and hands it to the bus. Each item is done
    /// entirely or not at all.
    ///
    /// An event without retention on a topic with a log ends that log, as a replay must not pass over it. A topic
    /// without log, members, keys and interest may be forgotten: its next event then has another epoch.
    async fn publish(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>>;

    /// Up to `limit` events after a position.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError>;

    /// The last `limit` events that are kept of a topic, in order.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError>;

    /// Finds the locations for direct sends, and keeps the events of channels that are or may become detached.
    ///
    /// # Errors
    /// The store cannot answer; some of the slice may have been done.
    async fn deliver(&self, sends: &[(ChannelId, Arc<Event>)]) -> Result<Vec<Delivered>, StoreError>;

    /// Up to `limit` direct sends in a channel's inbox after a position. Offset 0 means the inbox's beginning, in every
    /// epoch. A channel that is dead or unknown has a gap.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn inbox(&self, id: &ChannelId, after: &Position, limit: usize) -> Result<Replay, StoreError>;

    /// Takes the right to relay a topic, for `ttl`. `None` while another node holds it, or when the topic has no
    /// indexed members. The cursor begins where the first member joined, and is removed with the last one.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn relay(&self, topic: &Topic, by: &NodeId, ttl: Duration) -> Result<Option<Relay>, StoreError>;

    /// Records that every event up to `through` is posted; `false` if the relay was lost, and then nothing changes.
    /// `keep` extends the relay; `None` gives it back.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn relay_done(&self, relay: &Relay, through: &Position, keep: Option<Duration>) -> Result<bool, StoreError>;
}
