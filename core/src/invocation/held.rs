//! Messages that `on_connect` sends: the store keeps them until the connection can take them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Invocation;
use super::line::{Sending, post_until};
use super::order::Lock;
use crate::error::Error;
use crate::event::{Event, Format, Payload, Retention};
use crate::frame::Frame;
use crate::gateway::GatewayConnection;
use crate::hub::gateways::Todo;
use crate::hub::{EventHub, Work};
use crate::name::{ChannelId, Topic};
use crate::store::{Patch, Publication, RecordPhase, Written};

/// Longer than any connection lasts: the client's first message may come late.
const KEPT: Duration = Duration::from_hours(3);
/// The most messages that `on_connect` may send.
const MOST: u32 = 256;
/// The time limit for posting them.
const POSTING: Duration = Duration::from_secs(10);
/// The time to wait for the connection's establishment before a later invocation takes over.
const ESTABLISHING: Duration = Duration::from_secs(2);

/// The log that keeps the messages.
fn log(channel: &ChannelId) -> Result<Topic, Error> {
    Ok(Topic::new(format!("$opening:{channel}"))?)
}

/// Keeps messages. On a retried `$connect`, their presence shows that `on_connect` has ended.
pub(super) async fn hold(hub: &EventHub, channel: &ChannelId, frames: &[Frame]) -> Result<(), Error> {
    if frames.len() > MOST as usize {
        return Err(Error::internal(format!("on_connect has sent more than {MOST} messages")));
    }
    let (topic, retention) = (log(channel)?, Some(Retention { count: MOST, age: KEPT }));
    let publication = |frame: &Frame| {
        let payload = Payload::from_parts(Format::Text, frame.payload())?;
        Ok(Publication { topic: topic.clone(), event: Arc::new(Event::message(payload)), retention, key: None })
    };
    let publications: Vec<Publication> = frames.iter().map(publication).collect::<Result<_, Error>>()?;
    for published in hub.store().publish(&publications).await {
        published?;
    }
    Ok(())
}

/// Whether messages are held for a channel.
pub(super) async fn is_held(hub: &EventHub, channel: &ChannelId) -> Result<bool, Error> {
    Ok(!hub.store().history(&log(channel)?, 1).await?.is_empty())
}

impl Invocation {
    /// Posts the held messages. Call it once the answer to a handshake was handed over, if that answer named a channel.
    ///
    /// # Errors
    /// The store's error; the client's first message, or the janitor, then posts them.
    pub async fn connected(&self, channel: &ChannelId) -> Result<(), Error> {
        let deadline = self.posts.min(Instant::now() + ESTABLISHING);
        let posted = self.post_held(channel, deadline).await?;
        if !posted && let Some(continuation) = &self.hub().gateways().continuation {
            continuation.hand_over(Work(Todo::Held { channel: channel.clone() })).await?;
        }
        self.settle().await;
        Ok(())
    }

    /// Posts the messages of `on_connect`, and then marks the channel as open. Only one invocation does this. `false`
    /// if the connection cannot take them yet.
    pub(super) async fn post_held(&self, channel: &ChannelId, deadline: Instant) -> Result<bool, Error> {
        let hub = self.hub();
        let Some(lock) = Lock::take(hub, channel, POSTING, deadline).await? else { return Ok(false) };
        let posted = self.post_held_locked(channel, deadline.min(Instant::now() + POSTING)).await;
        lock.release().await;
        posted
    }

    async fn post_held_locked(&self, channel: &ChannelId, deadline: Instant) -> Result<bool, Error> {
        let hub = self.hub();
        let Some(record) = hub.store().get(channel).await? else { return Ok(true) };
        let Some(to) = GatewayConnection::of(&record.location) else { return Ok(true) };
        if record.phase != RecordPhase::Opening {
            return Ok(true);
        }
        let held = hub.store().history(&log(channel)?, MOST as usize).await?;
        let frames: Vec<Frame> = held.iter().map(|(_, event)| Frame::of(&event.payload)).collect();
        match post_until(hub, channel, &to, frames, deadline, deadline).await {
            Sending::Sent => {}
            Sending::Gone => return Ok(true),
            Sending::NotReady | Sending::Failed => return Ok(false),
        }
        let opened = Patch { opened: true, ..Patch::default() };
        match hub.store().write(&record.fence(), opened).await? {
            Written::Done | Written::Stale | Written::Conflict(_) => Ok(true),
        }
    }
}
