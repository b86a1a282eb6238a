use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use strait_core::store::{
    Delivered, EventHubStore, Fence, Member, Page, Present, Publication, Published, Relay, Replay, StoreError,
    Subscribed, Subscription,
};
use strait_core::{ChannelId, Event, NodeId, Position, Topic};

use crate::channel::{Channel, Phase};
use crate::clock::after;
use crate::index::Index;
use crate::store::{Inner, MemoryStore, conflict};

impl Inner {
    fn subscribe(&self, channel: &mut Channel, subscription: &Subscription) -> Subscribed {
        if !channel.obeys(&subscription.fence) {
            return Subscribed::Dead;
        }
        let found = channel.topics.get(&subscription.topic).copied();
        self.topics.entry(&subscription.topic, |topic| {
            let (row, answer) = match found {
                Some(row) => (topic.rejoin(row, subscription, &self.time), Subscribed::Already { head: topic.head() }),
                None => (topic.join(subscription, &self.time), Subscribed::Joined { head: topic.head() }),
            };
            channel.topics.insert(topic.name.clone(), row);
            self.topics.queue(topic, self.time.now());
            answer
        })
    }

    fn unsubscribe(&self, channel: &mut Channel, fence: &Fence, topic: &Topic) -> bool {
        if !channel.obeys(fence) {
            return false;
        }
        let Some(row) = channel.topics.remove(topic) else { return false };
        self.topics.existing(topic, |topic| {
            topic.leave(row, &self.time);
            self.topics.queue(topic, self.time.now());
        });
        true
    }

    fn publish(&self, publication: &Publication) -> Published {
        if publication.retention.is_none() && publication.key.is_none() {
            let passed = self.topics.existing(&publication.topic, |topic| topic.pass(&publication.event));
            let nobody = || Published { position: self.topics.unknown_first(), indexed: false, duplicate: false };
            return passed.unwrap_or_else(nobody);
        }
        let now = self.time.now();
        self.topics.sweep(now);
        self.topics.entry(&publication.topic, |topic| {
            let published = topic.publish(publication, now, self.limits.keys);
            self.topics.queue(topic, now);
            published
        })
    }

    fn deliver(&self, channel: &mut Channel, event: &Arc<Event>) -> Delivered {
        if !channel.is_alive() {
            return Delivered::Absent;
        }
        let position = channel.post(event, self.limits.inbox, self.time.now(), &self.topics.random);
        match (channel.phase, position) {
            (Phase::Detached, Some(position)) => Delivered::Stored(position),
            _ => Delivered::At { location: channel.location.clone(), position },
        }
    }
}

/// The row after which a page begins.
fn row(cursor: Option<&str>, op: &'static str) -> Result<u64, StoreError> {
    let number = cursor.map_or(Ok(0), str::parse);
    number.map_err(|_| conflict(op, "the cursor is not one that a page gave"))
}

/// The first rows of a listing, and the cursor of the next page if there are more.
fn page<'a, Row: 'a, T>(
    rows: impl Iterator<Item = (&'a u64, &'a Row)>,
    limit: usize,
    copy: impl Fn(&Row) -> T,
) -> (Vec<T>, Option<String>) {
    let mut rows = rows.peekable();
    let (mut items, mut last) = (Vec::new(), None);
    while items.len() < limit.max(1) {
        let Some((number, row)) = rows.next() else { return (items, None) };
        items.push(copy(row));
        last = Some(number);
    }
    let next = rows.peek().and(last).map(u64::to_string);
    (items, next)
}

#[async_trait]
impl EventHubStore for MemoryStore {
    async fn subscribe(&self, subscriptions: &[Subscription]) -> Result<Vec<Subscribed>, StoreError> {
        let subscribe = |subscription: &Subscription| {
            let id = &subscription.fence.id;
            let answer = self.inner.channels.with(id, |channel| self.inner.subscribe(channel, subscription));
            answer.unwrap_or(Subscribed::Dead)
        };
        Ok(subscriptions.iter().map(subscribe).collect())
    }

    async fn unsubscribe(&self, members: &[(Fence, Topic)]) -> Result<Vec<bool>, StoreError> {
        let unsubscribe = |(fence, topic): &(Fence, Topic)| {
            let answer = self.inner.channels.with(&fence.id, |channel| self.inner.unsubscribe(channel, fence, topic));
            answer == Some(true)
        };
        Ok(members.iter().map(unsubscribe).collect())
    }

    async fn topics(&self, id: &ChannelId) -> Result<Vec<Topic>, StoreError> {
        let topics = self
            .inner
            .channels
            .with(id, |channel| if channel.is_alive() { channel.topics.keys().cloned().collect() } else { Vec::new() });
        Ok(topics.unwrap_or_default())
    }

    async fn members(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Member>, StoreError> {
        let after = row(cursor, "members")?;
        let listed = self.inner.topics.existing(topic, |topic| {
            let rows = topic.index().map(|index| index.members.from(after.saturating_add(1)));
            page(rows.into_iter().flatten(), limit, |row| (row.channel.clone(), row.joined))
        });
        let (rows, next) = listed.unwrap_or_default();
        // Outside the topic's lock: a channel's lock comes before it.
        let living = |(channel, joined)| {
            let member = self.inner.channels.with(&channel, |channel| {
                let member = || Member { fence: channel.fence(), location: channel.location.clone(), joined };
                channel.is_alive().then(member)
            });
            member.flatten()
        };
        Ok(Page { items: rows.into_iter().filter_map(living).collect(), next })
    }

    async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, StoreError> {
        let after = row(cursor, "presence")?;
        let listed = self.inner.topics.existing(topic, |topic| {
            let rows = topic.index().and_then(Index::presence).map(|presence| presence.from(after.saturating_add(1)));
            page(rows.into_iter().flatten(), limit, |row| row.present(&self.inner.time))
        });
        let (mut items, next) = listed.unwrap_or_default();
        items.retain(|present| self.inner.channels.with(&present.channel, |channel| channel.is_alive()) == Some(true));
        Ok(Page { items, next })
    }

    async fn publish(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>> {
        publications.iter().map(|publication| Ok(self.inner.publish(publication))).collect()
    }

    async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        let now = self.inner.time.now();
        self.inner.topics.sweep(now);
        let replay = self.inner.topics.existing(topic, |topic| topic.replay(after, limit, now));
        Ok(replay.unwrap_or_else(|| Replay::Gap { head: self.inner.topics.unknown_head() }))
    }

    async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        let now = self.inner.time.now();
        self.inner.topics.sweep(now);
        Ok(self.inner.topics.existing(topic, |topic| topic.history(limit, now)).unwrap_or_default())
    }

    async fn deliver(&self, sends: &[(ChannelId, Arc<Event>)]) -> Result<Vec<Delivered>, StoreError> {
        let deliver = |(id, event): &(ChannelId, Arc<Event>)| {
            let answer = self.inner.channels.with(id, |channel| self.inner.deliver(channel, event));
            answer.unwrap_or(Delivered::Absent)
        };
        Ok(sends.iter().map(deliver).collect())
    }

    async fn inbox(&self, id: &ChannelId, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        let replay = self.inner.channels.with(id, |channel| {
            if !channel.is_alive() {
                return None;
            }
            let Some(inbox) = channel.inbox() else {
                let head = Position { epoch: after.epoch, offset: 0, check: 0 };
                return Some(match after.offset {
                    0 => Replay::Events { events: Vec::new(), head, more: false },
                    _ => Replay::Gap { head },
                });
            };
            let from = match after.offset {
                0 => Position { epoch: inbox.head().epoch, offset: 0, check: 0 },
                _ => *after,
            };
            Some(inbox.replay(&from, limit, self.inner.time.now()))
        });
        let nothing = Replay::Gap { head: Position { epoch: 0, offset: 0, check: 0 } };
        Ok(replay.flatten().unwrap_or(nothing))
    }

    async fn relay(&self, topic: &Topic, _by: &NodeId, ttl: Duration) -> Result<Option<Relay>, StoreError> {
        let relay = self.inner.topics.existing(topic, |state| {
            let now = self.inner.time.now();
            state.index_mut()?.take_relay(topic, &self.inner.topics.random, now, ttl)
        });
        Ok(relay.flatten())
    }

    async fn relay_done(&self, relay: &Relay, through: &Position, keep: Option<Duration>) -> Result<bool, StoreError> {
        let done = self.inner.topics.existing(&relay.topic, |topic| {
            let until = keep.map(|keep| after(self.inner.time.now(), keep));
            topic.index_mut().is_some_and(|index| index.relay_done(relay.token, through, until))
        });
        Ok(done == Some(true))
    }
}
