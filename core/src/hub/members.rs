//! The topics' members among a node's channels: found in memory, without the store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use parking_lot::Mutex;

use super::EventHub;
use super::recovery::Retained;
use crate::channel::{Channel, gone};
use crate::error::Error;
use crate::name::{Topic, UserId};
use crate::outlet::Outlet;
use crate::store::{Fence, PresenceEntry, Subscribed, Subscription};

/// The members of one topic on this node.
pub(crate) struct Members {
    pub(super) topic: Topic,
    next: AtomicU64,
    /// A gap notice waits for its delivery.
    pub(super) gap_waits: AtomicBool,
    /// The delivery progress of a retained topic: missed events can be replayed.
    pub(super) retained: Option<Box<Retained>>,
    /// The list is copied if it changes during a delivery.
    list: Mutex<Arc<List>>,
    /// Whether the bus brings the topic's events. Held while that changes, so that the last member's leave and the next
    /// one's join do not cross.
    interest: tokio::sync::Mutex<Interest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    Off,
    On,
    /// The topic was taken off the node's list: look it up again.
    Forgotten,
}

pub(super) type List = IndexMap<u64, Member, RandomState>;

#[derive(Clone)]
pub(super) struct Member {
    pub(super) channel: Channel,
}

impl Member {
    pub(super) fn outlet(&self) -> &Arc<dyn Outlet> {
        &self.channel.inner.outlet
    }
}

/// A channel's own record of a membership.
pub(crate) struct Joined {
    members: Arc<Members>,
    key: u64,
    /// Whether the store has confirmed it.
    stored: bool,
    /// The channel's presence data here, in addition to its user.
    shown: Option<Box<Shown>>,
}

struct Shown {
    data: Option<Bytes>,
}

/// Ends interest in a topic without members even if the task that was about to change it is dropped.
struct Unfinished {
    hub: EventHub,
    members: Option<Arc<Members>>,
}

/// Topics that have lost their last member by a channel's leave.
#[must_use]
pub(super) struct Emptied(Vec<Unfinished>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some(members), Ok(runtime)) = (self.members.take(), tokio::runtime::Handle::try_current()) {
            let hub = self.hub.clone();
            runtime.spawn(async move { hub.tidy(&members).await });
        }
    }
}

impl Joined {
    pub(super) fn topic(&self) -> &Topic {
        &self.members.topic
    }

    #[cfg(test)]
    pub(super) fn of(topic: Topic) -> Self {
        Self { members: Arc::new(Members::new(topic, None)), key: 0, stored: false, shown: None }
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").field("topic", &self.members.topic).finish_non_exhaustive()
    }
}

impl Members {
    pub(super) fn new(topic: Topic, retained: Option<Retained>) -> Self {
        Self {
            topic,
            next: AtomicU64::new(0),
            gap_waits: AtomicBool::new(false),
            retained: retained.map(Box::new),
            list: Mutex::default(),
            interest: tokio::sync::Mutex::new(Interest::Off),
        }
    }

    /// The members at this moment.
    pub(super) fn snapshot(&self) -> Arc<List> {
        Arc::clone(&self.list.lock())
    }

    fn add(&self, channel: Channel) -> u64 {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::make_mut(&mut *self.list.lock()).insert(key, Member { channel });
        key
    }

    fn remove(&self, key: u64) {
        if let Some(retained) = &self.retained {
            retained.left(key);
        }
        let mut list = self.list.lock();
        let list = Arc::make_mut(&mut *list);
        list.swap_remove(&key);
        if list.len() * 4 < list.capacity() {
            list.shrink_to(list.len() * 2);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }
}

impl EventHub {
    /// Makes a channel a member: confirms interest, adds it in memory, then in the store. Every later publication then
    /// reaches the channel.
    pub(crate) async fn join(
        &self,
        channel: &Channel,
        topic: &Topic,
        presence: Option<PresenceEntry>,
    ) -> Result<(), Error> {
        if channel.is_at_gateway() {
            return self.join_at_gateway(channel, topic, presence).await;
        }
        let is_stored = || channel.inner.live.lock().topics.get(topic).is_some_and(|joined| joined.stored);
        if presence.is_none() && is_stored() {
            return Ok(());
        }
        let _one_at_a_time = channel.inner.joining.lock().await;
        if presence.is_none() && is_stored() {
            return Ok(());
        }
        let limits = &channel.inner.endpoint.limits;
        if channel.inner.live.lock().topics.len() >= limits.subscriptions && !is_stored() {
            return Err(Error::rate_limited("the channel has as many subscriptions as it may"));
        }
        let joined = self.add_member(channel, topic).await?;
        if let Some(superfluous) = note(channel, joined) {
            self.remove_members([superfluous]).await;
        }
        if channel.inner.live.lock().left {
            return Err(gone());
        }
        let shown = presence.as_ref().map(|entry| Box::new(Shown { data: entry.data.clone() }));
        let subscription = Subscription { fence: channel.fence(), topic: topic.clone(), indexed: false, presence };
        match self.0.store.subscribe(&[subscription]).await {
            Ok(answer) if !matches!(answer[..], [] | [Subscribed::Dead]) => {
                let mut live = channel.inner.live.lock();
                live.remove_unswept(topic);
                if let Some(joined) = live.topics.get_mut(topic) {
                    if let (Some(retained), [Subscribed::Joined { head }]) = (&joined.members.retained, &answer[..]) {
                        retained.joined(joined.key, *head);
                    }
                    joined.stored = true;
                    joined.shown = shown;
                }
                Ok(())
            }
            Ok(_) => {
                self.forget(channel, topic).await;
                self.doubt(channel).await;
                Err(gone())
            }
            Err(error) => {
                // An existing membership goes on if only its presence could not be stored.
                if !is_stored() {
                    self.forget(channel, topic).await;
                }
                Err(error.into())
            }
        }
    }

    async fn add_member(&self, channel: &Channel, topic: &Topic) -> Result<Joined, Error> {
        loop {
            let members = {
                let at = self.0.shard(topic);
                let retained = || self.retention(topic).map(|_| Retained::new(self.0.delivery[at].budget()));
                let mut shard = self.0.topics[at].write();
                let new = || Arc::new(Members::new(topic.clone(), retained()));
                Arc::clone(shard.entry(topic.clone()).or_insert_with(new))
            };
            let mut interest = members.interest.lock().await;
            if *interest == Interest::Forgotten {
                continue;
            }
            let mut unfinished = Unfinished { hub: self.clone(), members: None };
            if *interest == Interest::Off {
                unfinished.members = Some(Arc::clone(&members));
                match self.0.bus()?.interest(std::slice::from_ref(topic), &[]).await {
                    Ok(heads) => {
                        if let (Some(retained), Some(head)) = (&members.retained, heads.first()) {
                            retained.begin(*head);
                        }
                        *interest = Interest::On;
                    }
                    Err(error) => {
                        unfinished.members = None;
                        self.forget_topic(&members, &mut interest);
                        return Err(error.into());
                    }
                }
            }
            let key = members.add(channel.clone());
            unfinished.members = None;
            drop(interest);
            return Ok(Joined { members, key, stored: false, shown: None });
        }
    }

    pub(crate) async fn leave(&self, channel: &Channel, topic: &Topic) -> Result<bool, Error> {
        if channel.is_at_gateway() {
            return self.leave_at_gateway(channel, topic).await;
        }
        let _one_at_a_time = channel.inner.joining.lock().await;
        let found = self.forget(channel, topic).await;
        if !channel.inner.live.lock().is_unswept(topic) {
            return Ok(found);
        }
        self.0.store.unsubscribe(&[(channel.fence(), topic.clone())]).await?;
        channel.inner.live.lock().remove_unswept(topic);
        Ok(found)
    }

    async fn forget(&self, channel: &Channel, topic: &Topic) -> bool {
        let joined = {
            let mut live = channel.inner.live.lock();
            let joined = live.topics.remove(topic);
            if joined.is_some() {
                live.add_unswept(topic);
            }
            joined
        };
        let found = joined.is_some();
        self.remove_members(joined).await;
        found
    }

    /// Removes a channel from all its topics in memory, for good.
    pub(crate) async fn leave_all(&self, channel: &Channel) {
        let emptied = self.leave_memory(channel);
        self.end_interest(emptied).await;
    }

    /// Does the same as [`leave_all`](Self::leave_all). The caller must hand the topics without members to
    /// [`end_interest`](Self::end_interest).
    pub(super) fn leave_memory(&self, channel: &Channel) -> Emptied {
        let joined = channel.inner.live.lock().leave();
        self.take_members(joined)
    }

    async fn remove_members(&self, joined: impl IntoIterator<Item = Joined>) {
        let emptied = self.take_members(joined);
        self.end_interest(emptied).await;
    }

    fn take_members(&self, joined: impl IntoIterator<Item = Joined>) -> Emptied {
        let mut emptied = Vec::new();
        for Joined { members, key, .. } in joined {
            members.remove(key);
            if members.is_empty() {
                emptied.push(Unfinished { hub: self.clone(), members: Some(members) });
            }
        }
        Emptied(emptied)
    }

    /// Ends interest in topics without members. If this is dropped, the rest goes on in the background.
    pub(super) async fn end_interest(&self, emptied: Emptied) {
        for mut unfinished in emptied.0 {
            if let Some(members) = &unfinished.members {
                self.tidy(members).await;
            }
            unfinished.members = None;
        }
    }

    /// Ends interest in a topic, unless it has members again.
    async fn tidy(&self, members: &Arc<Members>) {
        let mut interest = members.interest.lock().await;
        if *interest == Interest::Forgotten || !members.is_empty() {
            return;
        }
        if let Ok(bus) = self.0.bus()
            && let Err(error) = bus.interest(&[], std::slice::from_ref(&members.topic)).await
            && let Some(count) = self.0.ends.lines.interest.count()
        {
            tracing::warn!(
                count,
                error = %error.in_full(),
                "interest in a topic without members could not be ended"
            );
        }
        self.forget_topic(members, &mut interest);
    }

    fn forget_topic(&self, members: &Arc<Members>, interest: &mut Interest) {
        *interest = Interest::Forgotten;
        self.0.topics[self.0.shard(&members.topic)].write().remove(&members.topic);
    }

    /// Shows the channel's present user in every topic with its presence.
    pub(crate) async fn show_user(&self, channel: &Channel) -> Result<(), Error> {
        let _one_at_a_time = channel.inner.joining.lock().await;
        let user = channel.session_value().map(|session| session.user().clone());
        if channel.is_at_gateway() {
            return self.show_user_at_gateway(channel, user.as_ref()).await;
        }
        let subscriptions: Vec<Subscription> = {
            let live = channel.inner.live.lock();
            let present = live.topics.iter().filter_map(|joined| Some((joined, joined.shown.as_deref()?)));
            let subscription = |(joined, shown): (&Joined, &Shown)| Subscription {
                fence: channel.fence(),
                topic: joined.members.topic.clone(),
                indexed: false,
                presence: Some(PresenceEntry { user: user.clone(), data: shown.data.clone() }),
            };
            present.map(subscription).collect()
        };
        if !subscriptions.is_empty() {
            self.0.store.subscribe(&subscriptions).await?;
        }
        Ok(())
    }

    /// Adds a channel to the index of its user's channels, which every node can read.
    pub(crate) async fn index_user(&self, channel: &Channel, user: &UserId) -> Result<(), Error> {
        let topic = Topic::of_user(user)?;
        let subscription = Subscription { fence: channel.fence(), topic, indexed: true, presence: None };
        match self.0.store.subscribe(&[subscription]).await?.first() {
            Some(Subscribed::Dead) | None => {
                self.doubt(channel).await;
                Err(gone())
            }
            Some(_) => Ok(()),
        }
    }

    pub(crate) async fn unindex_user(&self, channel: &Channel, user: &UserId) -> Result<(), Error> {
        let fence: Fence = channel.fence();
        self.0.store.unsubscribe(&[(fence, Topic::of_user(user)?)]).await?;
        Ok(())
    }
}

/// Records a membership with the channel. Returns it if the channel has ended, or is a member already.
fn note(channel: &Channel, joined: Joined) -> Option<Joined> {
    let mut live = channel.inner.live.lock();
    // Of two concurrent subscriptions, or of one renewed with presence, only one becomes the member.
    if live.left { Some(joined) } else { live.topics.insert(joined) }
}
