use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::harness::Harness;
use crate::event::{Event, Payload, Position, Retention};
use crate::name::{ChannelId, ConnectionId, NodeId, Topic, UserId};
use crate::store::{
    Attach, AttachAs, Attached, Change, Claim, Fence, LeaseTerm, Location, NewChannel, Patch, PresenceEntry,
    Publication, Published, Record, Replay, Store, StoredSession, Subscribed, Subscription, TokenHash,
};

/// A time that ends while a case waits for it.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// A time that does not end while a case runs.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// The time for which a case waits for an expected event.
const PATIENCE: Duration = Duration::from_secs(10);

/// A case's tools: its own store, and names that no other case uses.
#[derive(Debug)]
pub struct Trial {
    harness: Arc<dyn Harness>,
    pub(crate) store: Arc<dyn Store>,
}

/// Waits until `look` returns a value.
pub(crate) async fn eventually<W: fmt::Display, T>(what: W, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = tokio::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Trial {
    pub(crate) fn new(harness: Arc<dyn Harness>, store: Arc<dyn Store>) -> Self {
        Self { harness, store }
    }

    /// A further handle onto the same data.
    pub(crate) async fn handle(&self) -> Arc<dyn Store> {
        self.harness.handle().await
    }

    pub(crate) async fn lose_log(&self, topic: &Topic) {
        self.harness.lose_log(topic).await;
    }

    /// A channel that is about to be opened at a gateway.
    #[allow(clippy::unused_self, reason = "cases read better when all they work with is theirs")]
    pub(crate) fn new_channel(&self) -> NewChannel {
        let id = ChannelId::unique();
        let connection = ConnectionId::from(id.clone());
        NewChannel {
            id,
            endpoint: Arc::from("room"),
            location: gateway(connection),
            opening: Bytes::from_static(br#"{"path":{"room":"a"}}"#),
            session: None,
            grace: None,
            token: None,
            due: None,
        }
    }

    pub(crate) async fn open_as(&self, new: NewChannel) -> Record {
        let opened = self.store.open(new).await.unwrap();
        assert!(opened.created);
        opened.record
    }

    /// Opens a plain channel at a gateway.
    pub(crate) async fn open(&self) -> Record {
        self.open_as(self.new_channel()).await
    }

    /// Opens a channel on a node, resumable with a grace.
    pub(crate) async fn open_on(&self, node: &NodeId, grace: Option<Duration>) -> Record {
        let mut new = self.new_channel();
        new.location = Location::Node { node: node.clone(), connection: new.location.connection().clone() };
        new.grace = grace;
        let record = self.open_as(new).await;
        let opened = Patch { opened: true, ..Patch::default() };
        self.store.write(&record.fence(), opened).await.unwrap();
        self.record(&record.id).await
    }

    /// Opens a resumable channel at a gateway, with a token.
    pub(crate) async fn open_resumable(&self, token: TokenHash) -> Record {
        let mut new = self.new_channel();
        new.grace = Some(LONG);
        new.token = Some(token);
        self.open_as(new).await
    }

    pub(crate) async fn record(&self, id: &ChannelId) -> Record {
        self.store.get(id).await.unwrap().expect("the channel is there")
    }

    /// A node that holds its lease for the whole case.
    pub(crate) async fn node(&self) -> NodeId {
        let node = NodeId::unique();
        self.store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap();
        node
    }

    pub(crate) async fn claim(&self, record: &Record) -> Claim {
        let claim = self.store.claim(&record.fence(), &NodeId::unique(), LONG).await.unwrap();
        claim.expect("the fence is the present one")
    }

    /// Ends a channel and removes it.
    pub(crate) async fn end(&self, record: &Record) {
        let claim = self.claim(record).await;
        self.store.remove(&[claim]).await.unwrap();
    }

    /// Waits until exactly this many channels are due, and returns their claims.
    pub(crate) async fn due(&self, count: usize) -> Vec<Claim> {
        let by = NodeId::unique();
        let mut claims = Vec::new();
        let look = async || {
            claims.extend(self.store.claim_due(&by, 100, LONG).await.unwrap());
            (claims.len() >= count).then_some(())
        };
        eventually(format!("{count} channels that are due"), look).await;
        assert_eq!(claims.len(), count, "no more are due: {claims:?}");
        claims
    }

    pub(crate) async fn subscribe(&self, subscription: Subscription) -> Subscribed {
        self.store.subscribe(&[subscription]).await.unwrap().remove(0)
    }

    /// Subscribes, and returns the head.
    pub(crate) async fn join(&self, subscription: Subscription) -> Position {
        match self.subscribe(subscription).await {
            Subscribed::Joined { head } => head,
            other => panic!("must join, is {other:?}"),
        }
    }

    pub(crate) async fn publish(&self, publication: Publication) -> Published {
        self.store.publish(&[publication]).await.remove(0).unwrap()
    }

    /// Publishes `count` numbered events, and returns their positions.
    pub(crate) async fn publish_many(&self, topic: &Topic, count: usize, retention: Retention) -> Vec<Position> {
        let mut positions = Vec::new();
        for n in 0..count {
            positions.push(self.publish(publication(topic, n, Some(retention))).await.position);
        }
        positions
    }

    pub(crate) async fn replay(&self, topic: &Topic, after: &Position) -> Replay {
        self.store.replay(topic, after, 1000).await.unwrap()
    }

    /// Attaches by a token at a new connection.
    pub(crate) async fn attach(&self, id: &ChannelId, by: TokenHash, next: Option<TokenHash>) -> Attached {
        let attach = Attach { by: AttachAs::Token(by), location: new_location(), next_token: next };
        self.store.attach(id, attach).await.unwrap()
    }

    /// Attaches by a token that must be valid.
    pub(crate) async fn attached(&self, id: &ChannelId, by: TokenHash, next: Option<TokenHash>) -> Record {
        match self.attach(id, by, next).await {
            Attached::Attached { record, .. } => *record,
            Attached::Refused => panic!("must attach, is refused"),
        }
    }
}

/// Long enough for any case, in count and age.
pub(crate) const KEEP: Retention = Retention { count: 1000, age: LONG };

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn token(number: u8) -> TokenHash {
    TokenHash([number; 32])
}

pub(crate) fn gateway(connection: ConnectionId) -> Location {
    Location::Gateway { endpoint: Arc::from("https://gateway.example/prod"), connection }
}

pub(crate) fn new_location() -> Location {
    gateway(ConnectionId::from(ChannelId::unique()))
}

pub(crate) fn message(number: usize) -> Arc<Event> {
    Arc::new(Event::message(Payload::text(number.to_string())))
}

/// The number of an event that [`message`] made.
pub(crate) fn number(event: &Event) -> usize {
    str::from_utf8(event.payload.bytes()).unwrap().parse().unwrap()
}

pub(crate) fn publication(topic: &Topic, number: usize, retention: Option<Retention>) -> Publication {
    Publication { topic: topic.clone(), event: message(number), retention, key: None }
}

/// A subscription that only the nodes' memory holds.
pub(crate) fn plain(fence: Fence, topic: &Topic) -> Subscription {
    Subscription { fence, topic: topic.clone(), indexed: false, presence: None }
}

/// A subscription that the store's index lists.
pub(crate) fn indexed(fence: Fence, topic: &Topic) -> Subscription {
    Subscription { indexed: true, ..plain(fence, topic) }
}

/// A subscription with presence.
pub(crate) fn present(fence: Fence, topic: &Topic, name: &str) -> Subscription {
    Subscription { presence: Some(entry(name)), ..plain(fence, topic) }
}

pub(crate) fn entry(name: &str) -> PresenceEntry {
    PresenceEntry { user: Some(user(name)), data: Some(Bytes::from_static(br#"{"mood":1}"#)) }
}

pub(crate) fn session(name: &str) -> StoredSession {
    StoredSession { user: user(name), value: Bytes::from_static(br#"{"admin":false}"#) }
}

pub(crate) fn set_state(expected: u64, value: &'static str) -> Patch {
    Patch { state: Some(Change { expected, value: Some(Bytes::from_static(value.as_bytes())) }), ..Patch::default() }
}

pub(crate) fn set_session(expected: u64, value: Option<StoredSession>) -> Patch {
    Patch { session: Some(Change { expected, value }), ..Patch::default() }
}

/// The events of a replay that must not be a gap, and whether there are more.
pub(crate) fn events(replay: Replay) -> (Vec<(Position, Arc<Event>)>, bool) {
    match replay {
        Replay::Events { events, more, .. } => (events, more),
        Replay::Gap { head } => panic!("must have events, is a gap before {head:?}"),
    }
}

pub(crate) fn is_gap(replay: &Replay) -> bool {
    matches!(replay, Replay::Gap { .. })
}
