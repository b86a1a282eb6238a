//! Memberships of channels at gateways: only the store keeps them.

use super::EventHub;
use crate::channel::{Channel, gone};
use crate::error::Error;
use crate::hub::PAGE;
use crate::name::{ChannelId, Topic, UserId};
use crate::store::{PresenceEntry, Subscribed, Subscription};

/// The number of topics in the index of all channels at gateways.
const SHARDS: u64 = 16;

/// One of the topics that list all channels at gateways, for the janitor.
fn shard(number: u64) -> Topic {
    Topic::new(format!("$gateway:{}", number % SHARDS)).expect("it is a name")
}

pub(crate) fn shards() -> impl Iterator<Item = Topic> {
    // Each run begins at another shard, so that a run that ends early leaves different shards each time.
    let first = u64::from(uuid::Uuid::now_v7().as_bytes()[15]);
    (0..SHARDS).map(move |number| shard(first + number))
}

fn shard_of(channel: &ChannelId) -> Topic {
    shard(channel.as_str().bytes().fold(0, |sum, byte| sum * 31 % 65_521 + u64::from(byte)))
}

impl EventHub {
    /// Lists a channel for the janitor.
    pub(crate) async fn list_at_gateway(&self, channel: &Channel) -> Result<(), Error> {
        self.subscribe_indexed(channel, &shard_of(channel.id()), None).await
    }

    async fn subscribe_indexed(
        &self,
        channel: &Channel,
        topic: &Topic,
        presence: Option<PresenceEntry>,
    ) -> Result<(), Error> {
        let subscription = Subscription { fence: channel.fence(), topic: topic.clone(), indexed: true, presence };
        match self.store().subscribe(&[subscription]).await?.first() {
            Some(Subscribed::Joined { .. } | Subscribed::Already { .. }) => Ok(()),
            Some(Subscribed::Dead) | None => Err(gone()),
        }
    }

    /// Does the same as `join`, for a channel at a gateway.
    pub(in crate::hub) async fn join_at_gateway(
        &self,
        channel: &Channel,
        topic: &Topic,
        presence: Option<PresenceEntry>,
    ) -> Result<(), Error> {
        let _one_at_a_time = channel.inner.joining.lock().await;
        let topics = self.store().topics(channel.id()).await?;
        let is_member = topics.contains(topic);
        if presence.is_none() && is_member {
            return Ok(());
        }
        let own = topics.iter().filter(|topic| !topic.is_reserved()).count();
        if own >= channel.inner.endpoint.limits.subscriptions && !is_member {
            return Err(Error::rate_limited("the channel has as many subscriptions as it may"));
        }
        self.subscribe_indexed(channel, topic, presence).await
    }

    /// Does the same as `leave`, for a channel at a gateway.
    pub(in crate::hub) async fn leave_at_gateway(&self, channel: &Channel, topic: &Topic) -> Result<bool, Error> {
        let _one_at_a_time = channel.inner.joining.lock().await;
        Ok(self.store().unsubscribe(&[(channel.fence(), topic.clone())]).await?.first() == Some(&true))
    }

    /// A channel's presence entry in a topic. The store can only list all entries.
    async fn shown_in(&self, channel: &Channel, topic: &Topic) -> Result<Option<PresenceEntry>, Error> {
        let mut cursor = None;
        loop {
            let page = self.store().presence(topic, cursor.as_deref(), PAGE).await?;
            if let Some(own) = page.items.into_iter().find(|present| present.channel == *channel.id()) {
                return Ok(Some(own.entry));
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(None),
            }
        }
    }

    /// Does the same as `show_user`, for a channel at a gateway.
    pub(in crate::hub) async fn show_user_at_gateway(
        &self,
        channel: &Channel,
        user: Option<&UserId>,
    ) -> Result<(), Error> {
        for topic in self.store().topics(channel.id()).await? {
            if topic.is_reserved() {
                continue;
            }
            if let Some(mut entry) = self.shown_in(channel, &topic).await?
                && entry.user.as_ref() != user
            {
                entry.user = user.cloned();
                self.subscribe_indexed(channel, &topic, Some(entry)).await?;
            }
        }
        Ok(())
    }

    /// The users with an index that lists the channel.
    pub(crate) async fn indexed_users(&self, channel: &Channel) -> Result<Vec<UserId>, Error> {
        let topics = self.store().topics(channel.id()).await?;
        Ok(topics.iter().filter_map(Topic::user).collect())
    }
}
