//! The lock under which one channel's messages are handled one at a time.

use std::time::{Duration, Instant};

use crate::channel::Channel;
use crate::error::Error;
use crate::hub::EventHub;
use crate::hub::lease::jittered;
use crate::name::ChannelId;
use crate::policy::Ordering;
use crate::store;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Holds a channel's lock in the store. A drop gives it back, as does [`release`](Self::release), which waits for that.
pub(super) struct Lock {
    hub: EventHub,
    held: Option<store::Lock>,
}

impl Lock {
    /// The time for posting the reply, beyond the handler's own limit.
    pub(super) const MARGIN: Duration = Duration::from_secs(5);

    /// Waits for the lock; `None` if it is not free by the deadline, or the channel is no more.
    pub(super) async fn take(
        hub: &EventHub,
        channel: &ChannelId,
        ttl: Duration,
        deadline: Instant,
    ) -> Result<Option<Self>, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(held) = hub.store().lock(channel, hub.node(), ttl).await? {
                return Ok(Some(Self { hub: hub.clone(), held: Some(held) }));
            }
            if Instant::now() + pause >= deadline || hub.store().get(channel).await?.is_none() {
                return Ok(None);
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The longest time that a handler with its reply may hold the lock.
    pub(super) fn ttl(channel: &Channel) -> Duration {
        channel.inner.endpoint.limits.handler + Self::MARGIN
    }

    /// The lock under which a channel ends, if its messages are handled under it. It waits for a hanging handler no
    /// longer than the handler's limit.
    pub(super) async fn for_end(hub: &EventHub, channel: &Channel) -> Option<Self> {
        if channel.inner.endpoint.ordering == Ordering::Concurrent {
            return None;
        }
        let ttl = Self::ttl(channel);
        match Self::take(hub, channel.id(), ttl, Instant::now() + channel.inner.endpoint.limits.handler).await {
            Ok(lock) => lock,
            Err(error) => {
                if let Some(count) = hub.lines().lock_not_taken.count() {
                    tracing::warn!(count, error = %error.in_full(), "a channel ends without waiting for its handlers");
                }
                None
            }
        }
    }

    pub(super) async fn release(mut self) {
        if let Some(held) = self.held.take()
            && let Err(error) = self.hub.store().unlock(&held).await
            && let Some(count) = self.hub.lines().lock_not_given_back.count()
        {
            tracing::warn!(
                count,
                error = %error.in_full(),
                "a channel's lock was not given back, it runs out by itself"
            );
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An invocation that is given up must not keep the next one waiting.
        if let Some(held) = self.held.take() {
            let hub = self.hub.clone();
            self.hub.in_background(async move {
                if let Err(error) = hub.store().unlock(&held).await
                    && let Some(count) = hub.lines().lock_not_given_back.count()
                {
                    tracing::warn!(
                        count,
                        error = %error.in_full(),
                        "a channel's lock was not given back, it runs out by itself"
                    );
                }
            });
        }
    }
}
