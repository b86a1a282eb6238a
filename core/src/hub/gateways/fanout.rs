//! From a publication to a topic's members at gateways: page by page, each event encoded once.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{oneshot, watch};

use super::work::{Next, Passing, Rest, Spread, Todo};
use super::{Absent, EventHub, PAUSE, Work};
use crate::event::{Event, EventKind, Position};
use crate::frame::Frame;
use crate::gateway::{GatewayConnection, Post, Posted};
use crate::hub::PAGE;
use crate::hub::lease::jittered;
use crate::name::{ChannelId, Topic};
use crate::store::{Member, StoreError};

/// Members that are posted to at once: more than the gateway's limit of requests, so that slow members do not delay the
/// rest.
const MEMBERS_AT_ONCE: usize = 256;
/// The time that a topic's next publication waits for members that are slow to take this one.
const SLOW: Duration = Duration::from_millis(250);
/// The bytes of events that are posted together: the remainder must fit into one asynchronous invocation.
pub(super) const BYTES_AT_ONCE: usize = 96 * 1024;
/// Leftover members that are looked up at once.
const LOOKED_UP_AT_ONCE: usize = 32;
/// Handovers of the remainder before it counts as lost.
const MOST_HANDED: u32 = 16;
/// Attempts at a listing.
const TRIES: u32 = 4;

/// Work that waits for a topic's turn.
pub(super) enum Waiting {
    Passing(Passing),
    /// The topic is retained: its relay finds the new events.
    Relay,
}

/// The frames for one member.
struct Parcel {
    channel: ChannelId,
    to: GatewayConnection,
    joined: Position,
    frames: Vec<Frame>,
}

impl Parcel {
    fn rest(self) -> Rest {
        Rest { channel: self.channel, joined: self.joined }
    }
}

type Replied = watch::Receiver<bool>;

/// Splits events into parts of about [`BYTES_AT_ONCE`] at most.
fn bounded(events: Vec<Passing>) -> Vec<Vec<Passing>> {
    let (mut parts, mut bytes) = (Vec::<Vec<Passing>>::new(), 0);
    for passing in events {
        bytes += passing.event.payload.bytes().len();
        match parts.last_mut() {
            Some(part) if bytes <= BYTES_AT_ONCE => part.push(passing),
            _ => {
                bytes = passing.event.payload.bytes().len();
                parts.push(vec![passing]);
            }
        }
    }
    parts
}

impl EventHub {
    /// Posts a publication to the topic's members at gateways, in the background, behind earlier publications.
    pub(in crate::hub) fn fan_out(&self, topic: &Topic, position: Position, event: &Arc<Event>, retained: bool) {
        if self.gateway().is_none() || event.kind != EventKind::Message {
            return;
        }
        let waiting =
            if retained { Waiting::Relay } else { Waiting::Passing(Passing { position, event: Arc::clone(event) }) };
        self.queue(topic, waiting);
    }

    /// Resumes a topic's relay, in the background.
    pub(crate) fn resume_relay(&self, topic: &Topic) {
        self.queue(topic, Waiting::Relay);
    }

    fn queue(&self, topic: &Topic, waiting: Waiting) {
        let begins = match self.0.gateways.topics.lock().entry(topic.clone()) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().push_back(waiting);
                false
            }
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::from([waiting]));
                true
            }
        };
        if begins {
            let (hub, topic) = (self.clone(), topic.clone());
            self.in_background(async move { hub.post_topic(&topic).await });
        }
    }

    async fn post_topic(&self, topic: &Topic) {
        loop {
            let waiting = {
                let mut topics = self.0.gateways.topics.lock();
                match topics.get_mut(topic).map(std::mem::take) {
                    Some(waiting) if !waiting.is_empty() => waiting,
                    _ => {
                        topics.remove(topic);
                        return;
                    }
                }
            };
            let (mut events, mut relays) = (Vec::new(), false);
            for waiting in waiting {
                match waiting {
                    Waiting::Passing(passing) => events.push(passing),
                    Waiting::Relay => relays = true,
                }
            }
            for events in bounded(events) {
                self.spread_past_the_slow(Spread::new(topic.clone(), events, false)).await;
            }
            if relays {
                self.relay_topic(topic).await;
            }
        }
    }

    /// Does the same as [`spread`](Self::spread), but posts to slow members in the background. Later events cannot
    /// overtake these: a gateway keeps the order of the posts for one connection.
    async fn spread_past_the_slow(&self, spread: Spread) {
        let (passed, may_pass) = oneshot::channel();
        let hub = self.clone();
        self.in_background(async move {
            hub.spread_and_tell(spread, Some(passed)).await;
        });
        // The sender is dropped if every member was quick.
        let _ = may_pass.await;
    }

    /// Posts events to a topic's members. `false` if some members get neither the events nor a gap notice.
    pub(crate) async fn spread(&self, spread: Spread) -> bool {
        self.spread_and_tell(spread, None).await
    }

    /// Signals `passed` when the topic's next events may be posted: every member has been posted these, and only slow
    /// members have yet to take them.
    pub(super) async fn spread_and_tell(&self, mut spread: Spread, passed: Option<oneshot::Sender<()>>) -> bool {
        let Some(gateway) = self.gateway() else { return false };
        let capabilities = gateway.capabilities();
        let frames: Vec<Option<Frame>> =
            spread.events.iter().map(|passing| capabilities.encode(&passing.event.payload)).collect();
        let (topic, retained) = (spread.topic.clone(), spread.retained);
        let (mut own, mut failed, mut posting) = (Vec::new(), Vec::new(), FuturesUnordered::new());
        while !self.is_late() {
            let members = match self.next_members(&mut spread).await {
                Ok(Some(members)) => members,
                Ok(None) => break,
                Err(error) => {
                    if let Some(count) = self.lines().members_not_listed.count() {
                        tracing::error!(count, error = %error.in_full(), "the members at gateways could not be listed");
                    }
                    metrics::counter!("strait_gateway_lost_total").increment(1);
                    // Finish the posts to the members that were listed.
                    while posting.next().await.is_some() {}
                    return false;
                }
            };
            let mut members = members.into_iter();
            while !self.is_late()
                && let Some(member) = members.next()
            {
                let Some(parcel) = self.parcel(&spread, &frames, member) else { continue };
                match self.replying_to(&spread, &parcel.channel) {
                    Some(replied) => own.push((replied, parcel)),
                    None => {
                        let mut post = Box::pin(self.post_parcel(&topic, retained, parcel));
                        // Start this post before any other.
                        match (&mut post).now_or_never() {
                            Some(left) => failed.extend(left),
                            None => posting.push(post),
                        }
                    }
                }
                while posting.len() >= MEMBERS_AT_ONCE {
                    failed.extend(posting.next().await.flatten());
                }
            }
            let left = members.map(|member| Rest { channel: member.fence.id, joined: member.joined });
            spread.rest.extend(left);
        }
        let quick = async {
            while let Some(left) = posting.next().await {
                failed.extend(left);
            }
        };
        if passed.is_some() {
            let _ = tokio::time::timeout(SLOW, quick).await;
        } else {
            quick.await;
        }
        for (mut replied, parcel) in own {
            // The publisher gets its own event after the reply, or at the deadline if no reply comes.
            let _ = tokio::time::timeout_at(self.post_deadline().into(), replied.wait_for(|replied| *replied)).await;
            failed.extend(self.post_parcel(&topic, retained, parcel).await);
        }
        let _until_all_is_done = match passed {
            Some(passed) if !posting.is_empty() => {
                let _ = passed.send(());
                None
            }
            passed => passed,
        };
        while let Some(left) = posting.next().await {
            failed.extend(left);
        }
        self.hand_over(spread, failed).await
    }

    /// The next members: leftover ones first, then page by page.
    async fn next_members(&self, spread: &mut Spread) -> Result<Option<Vec<Member>>, StoreError> {
        if !spread.rest.is_empty() {
            let mut members = Vec::new();
            let rest = stream::iter(std::mem::take(&mut spread.rest));
            let looking = rest.map(async |rest| (rest.joined, self.store().get(&rest.channel).await));
            let mut found = std::pin::pin!(looking.buffered(LOOKED_UP_AT_ONCE));
            while let Some((joined, record)) = found.next().await {
                if let Some(record) = record? {
                    members.push(Member { fence: record.fence(), location: record.location, joined });
                }
            }
            return Ok(Some(members));
        }
        let cursor = match &spread.cursor {
            Next::First => None,
            Next::After(cursor) => Some(cursor.clone()),
            Next::None => return Ok(None),
        };
        let (mut pause, mut tried) = (PAUSE, 1);
        loop {
            match self.store().members(&spread.topic, cursor.as_deref(), PAGE).await {
                Ok(page) => {
                    spread.cursor = page.next.map_or(Next::None, Next::After);
                    return Ok(Some(page.items));
                }
                Err(error) if error.is_retryable() && tried < TRIES => {
                    tokio::time::sleep(jittered(pause)).await;
                    (pause, tried) = (pause * 4, tried + 1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The frames for one member; `None` if there are none, or the member is not at a gateway.
    fn parcel(&self, spread: &Spread, frames: &[Option<Frame>], member: Member) -> Option<Parcel> {
        let to = GatewayConnection::of(&member.location)?;
        let channel = member.fence.id;
        let concerned = |passing: &&Passing| {
            let after = passing.position.epoch != member.joined.epoch || passing.position.offset > member.joined.offset;
            after && passing.event.exclude.as_ref() != Some(&channel)
        };
        let mut given = Vec::new();
        for (passing, frame) in spread.events.iter().zip(frames) {
            if concerned(&passing) {
                match frame {
                    Some(frame) => given.push(frame.clone()),
                    None => self.owe_gap(&channel, &spread.topic),
                }
            }
        }
        (!given.is_empty()).then_some(Parcel { channel, to, joined: member.joined, frames: given })
    }

    /// The pending reply of this channel's handler, if that handler published one of the events.
    fn replying_to(&self, spread: &Spread, channel: &ChannelId) -> Option<Replied> {
        let publishers = spread.events.iter().filter_map(|passing| passing.event.publisher.as_ref());
        let replying = self.0.gateways.replying.lock();
        let mut own = publishers.filter(|publisher| publisher.channel == *channel);
        own.find_map(|publisher| replying.get(&(channel.clone(), publisher.turn)).cloned())
    }

    /// Posts to a member; returns the remainder that must be handed over.
    async fn post_parcel(&self, topic: &Topic, retained: bool, parcel: Parcel) -> Option<Rest> {
        let posts: Vec<Post> =
            parcel.frames.iter().map(|frame| Post { to: parcel.to.clone(), frame: frame.clone() }).collect();
        let outcomes = self.post(&posts, self.post_deadline()).await;
        // A frame that was not sent decides the outcome of all later ones.
        match outcomes.into_iter().rfind(|outcome| *outcome != Posted::Sent)? {
            Posted::Gone => match self.absent(&parcel.channel, &parcel.to).await {
                Ok(Absent::Ended) => None,
                Ok(Absent::NotReady) => {
                    self.post_when_ready(topic, retained, parcel);
                    None
                }
                Err(error) => {
                    if let Some(count) = self.lines().connection_not_looked_up.count() {
                        tracing::warn!(count, error = %error.in_full(), "a connection that is gone was not looked up");
                    }
                    Some(parcel.rest())
                }
            },
            Posted::Throttled | Posted::Unsent => Some(parcel.rest()),
            // A retry does not help here.
            Posted::Sent | Posted::TooLarge | Posted::Misconfigured => {
                self.lose(topic, vec![parcel.rest()], retained);
                None
            }
        }
    }

    /// Tries again until the connection's handshake has been answered.
    fn post_when_ready(&self, topic: &Topic, retained: bool, parcel: Parcel) {
        let (hub, topic) = (self.clone(), topic.clone());
        self.in_background(async move {
            let (deadline, mut pause) = (hub.post_deadline().into(), PAUSE);
            let posts: Vec<Post> =
                parcel.frames.iter().map(|frame| Post { to: parcel.to.clone(), frame: frame.clone() }).collect();
            while tokio::time::timeout_at(deadline, tokio::time::sleep(pause)).await.is_ok() {
                pause = (pause * 2).min(PAUSE * 25);
                let outcomes = hub.post(&posts, hub.post_deadline()).await;
                match outcomes.into_iter().rfind(|outcome| *outcome != Posted::Sent) {
                    None => return,
                    Some(Posted::Gone) => match hub.absent(&parcel.channel, &parcel.to).await {
                        Ok(Absent::Ended) => return,
                        Ok(Absent::NotReady) => {}
                        Err(_) => break,
                    },
                    Some(_) => break,
                }
            }
            hub.lose(&topic, vec![parcel.rest()], retained);
        });
    }

    /// Hands the remainder to another invocation. `false` if that fails and unlisted members get no notice.
    async fn hand_over(&self, mut spread: Spread, failed: Vec<Rest>) -> bool {
        if failed.is_empty() && spread.rest.is_empty() && spread.cursor == Next::None {
            return true;
        }
        let retained = spread.retained;
        let topic = spread.topic.clone();
        let listed: Vec<Rest> = failed.into_iter().chain(std::mem::take(&mut spread.rest)).collect();
        let all_listed = spread.cursor == Next::None;
        if let Some(continuation) = &self.0.gateways.continuation
            && spread.handed < MOST_HANDED
        {
            let rest = listed.clone();
            let work = Work(Todo::Spread(Spread { rest, handed: spread.handed + 1, ..spread }));
            match continuation.hand_over(work).await {
                Ok(()) => return true,
                Err(error) => {
                    if let Some(count) = self.lines().events_not_handed_over.count() {
                        tracing::error!(count, error = %error.in_full(), "events could not be handed over");
                    }
                }
            }
        }
        self.lose(&topic, listed, retained);
        if !all_listed {
            if let Some(count) = self.lines().events_not_posted.count() {
                tracing::error!(count, "a publication could not be posted to all members in time");
            }
            metrics::counter!("strait_gateway_lost_total").increment(1);
        }
        all_listed
    }

    /// Counts members that could not be posted to; on a retained topic, records a gap notice for each.
    fn lose(&self, topic: &Topic, rest: Vec<Rest>, retained: bool) {
        metrics::counter!("strait_gateway_lost_total").increment(rest.len() as u64);
        if retained {
            for Rest { channel, .. } in rest {
                self.owe_gap(&channel, topic);
            }
        }
    }
}
