//! Handles an event of a connection at a gateway. One invocation rebuilds the channel from its record, runs the handler
//! as a node does, and posts the messages that it sends.

mod connect;
mod drive;
mod held;
mod janitor;
mod line;
mod message;
mod order;
mod sequence;
pub(crate) mod tries;

use std::time::{Duration, Instant};

pub use connect::{Handshake, Handshaken};

use crate::app::App;
use crate::channel::Channel;
use crate::error::Error;
use crate::gateway::GatewayConnection;
use crate::handler::DisconnectReason;
use crate::hub::gateways::Todo;
use crate::hub::{EventHub, Work, ending};
use crate::store::{Record, RecordPhase, StoreError};
use order::Lock;
use tries::retried;

/// One invocation's work on channels. When a method returns, all work that it began is done, handed over, or given up
/// at the deadline; the process may be frozen then.
#[derive(Debug)]
pub struct Invocation {
    app: App,
    /// The deadline for handlers and posts.
    posts: Instant,
    end: Instant,
}

impl App {
    /// Begins an invocation that must have ended by `deadline`.
    #[must_use]
    pub fn invocation(&self, deadline: Instant) -> Invocation {
        let left = deadline.saturating_duration_since(Instant::now());
        // The rest of the time is for handing over unfinished work.
        let posts = Instant::now() + left.saturating_sub((left / 5).min(Duration::from_secs(2)));
        self.hub().gateways().begin_invocation(posts);
        Invocation { app: self.clone(), posts, end: deadline }
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        self.app.hub().gateways().end_invocation(self.posts);
    }
}

impl Invocation {
    fn hub(&self) -> &EventHub {
        self.app.hub()
    }

    /// Waits until all background work has ended.
    async fn settle(&self) {
        if tokio::time::timeout_at(self.end.into(), self.hub().settled()).await.is_ok() {
            return;
        }
        if self.hub().gateways().goes_on_after(self.end) {
            tracing::debug!("what is not posted yet goes on in the time of this process's other invocations");
        } else {
            if let Some(count) = self.hub().lines().invocation_late.count() {
                tracing::error!(count, "the invocation's time is over before everything was posted or handed over");
            }
        }
    }

    async fn find(&self, at: &GatewayConnection) -> Result<Option<Record>, StoreError> {
        let location = at.location();
        let found = retried(self.posts, || self.hub().store().find(&location)).await?;
        Ok(found.filter(|record| record.phase != RecordPhase::Dead))
    }

    /// Ends a connection: runs `on_disconnect`, unless it was run. An unknown connection needs nothing.
    ///
    /// # Errors
    /// The store's error; the janitor ends the channel then.
    pub async fn disconnect(&self, at: &GatewayConnection, reason: DisconnectReason) -> Result<(), Error> {
        let Some(record) = self.find(at).await? else { return Ok(()) };
        let Some(channel) = self.app.rehydrate(record) else {
            return Err(Error::internal("the channel's endpoint is not one of this application"));
        };
        let ended = tokio::time::timeout_at(self.posts.into(), self.end_channel(channel, reason)).await;
        self.settle().await;
        ended.map_err(|_| Error::unavailable("the channel did not end in time, the janitor ends it"))
    }

    /// Ends a channel once none of its handlers runs any more, if the endpoint's ordering uses a lock.
    async fn end_channel(&self, channel: Channel, reason: DisconnectReason) {
        let lock = Lock::for_end(self.hub(), &channel).await;
        ending::end(channel, reason, true).await;
        // The lock has gone with the channel.
        drop(lock);
    }

    /// Continues work that an earlier invocation had no time for.
    ///
    /// # Errors
    /// The store's error: call it again.
    pub async fn go_on(&self, work: Work) -> Result<(), Error> {
        let result = match work.0 {
            Todo::Spread(spread) => {
                self.hub().spread(spread).await;
                Ok(())
            }
            Todo::Relay { topic } => {
                self.hub().resume_relay(&topic);
                Ok(())
            }
            Todo::Gap { channel, topic } => {
                self.hub().owe_gap(&channel, &topic);
                Ok(())
            }
            Todo::Held { channel } => self.post_held(&channel, self.posts).await.map(|_| ()),
        };
        self.settle().await;
        result
    }
}
