//! Gap notices for channels at gateways: retried until the client has it or is gone.

use std::time::Duration;

use super::work::{Todo, Work};
use super::{Absent, EventHub};
use crate::gateway::{GatewayConnection, Post, Posted};
use crate::hub::lease::jittered;
use crate::name::{ChannelId, Topic};
use crate::store::RecordPhase;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl EventHub {
    /// Sends a gap notice to a client that has missed events of a topic, in the background, once for a run of losses.
    pub(crate) fn owe_gap(&self, channel: &ChannelId, topic: &Topic) {
        let owed = (channel.clone(), topic.clone());
        if self.0.gateways.owed.lock().insert(owed.clone()) {
            let hub = self.clone();
            self.in_background(async move {
                hub.tell_of_gap(&owed).await;
                hub.0.gateways.owed.lock().remove(&owed);
            });
        }
    }

    async fn tell_of_gap(&self, owed: &(ChannelId, Topic)) {
        let (channel, topic) = owed;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_to_tell(channel, topic).await {
                Told::Yes | Told::Nobody => return,
                Told::No => {}
            }
            if self.is_late() {
                let work = Work(Todo::Gap { channel: channel.clone(), topic: topic.clone() });
                if let Some(continuation) = &self.0.gateways.continuation
                    && let Err(error) = continuation.hand_over(work).await
                    && let Some(count) = self.lines().gap_not_told.count()
                {
                    tracing::error!(count, error = %error.in_full(), "a client is not told that it missed events");
                }
                return;
            }
            let wait = jittered(pause).min(self.post_deadline().saturating_duration_since(std::time::Instant::now()));
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_to_tell(&self, channel: &ChannelId, topic: &Topic) -> Told {
        let record = match self.store().get(channel).await {
            Ok(Some(record)) if record.phase != RecordPhase::Dead => record,
            Ok(_) => return Told::Nobody,
            Err(error) => {
                if let Some(count) = self.lines().gap_waits.count() {
                    tracing::warn!(count, error = %error.in_full(), "a gap notice waits for the store");
                }
                return Told::No;
            }
        };
        let (Some(to), Some(app)) = (GatewayConnection::of(&record.location), self.app()) else { return Told::Nobody };
        let Some(frame) = app.gap_frame(&record.endpoint, topic) else { return Told::Nobody };
        let post = Post { to, frame };
        match self.post(std::slice::from_ref(&post), self.post_deadline()).await.first() {
            Some(Posted::Sent) => Told::Yes,
            Some(Posted::Gone) => match self.absent(channel, &post.to).await {
                Ok(Absent::Ended) => Told::Nobody,
                Ok(Absent::NotReady) | Err(_) => Told::No,
            },
            // The gateway logs failures that a retry does not cure.
            Some(Posted::Misconfigured | Posted::TooLarge) | None => Told::Nobody,
            Some(Posted::Throttled | Posted::Unsent) => Told::No,
        }
    }
}

enum Told {
    Yes,
    No,
    /// No client is left to get the notice.
    Nobody,
}
