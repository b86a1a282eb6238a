//! Retained topics at gateways: posted by the holder of the topic's relay, from the cursor to the head.

use std::time::Instant;

use super::EventHub;
use super::fanout::BYTES_AT_ONCE;
use super::work::{Passing, Spread, Todo, Work};
use crate::event::EventKind;
use crate::name::Topic;
use crate::store::{Relay, Replay, StoreError};

/// How many events are posted before the cursor moves.
const EVENTS_AT_ONCE: usize = 64;

impl EventHub {
    /// Posts what is new, unless somebody else does.
    pub(super) async fn relay_topic(&self, topic: &Topic) {
        if let Err(error) = self.relay_until_head(topic).await {
            tracing::warn!(error = %error, "a topic's relay is left to who comes next");
        }
    }

    async fn relay_until_head(&self, topic: &Topic) -> Result<(), StoreError> {
        loop {
            if self.is_late() {
                self.hand_relay_over(topic).await;
                return Ok(());
            }
            let Some(relay) = self.store().relay(topic, self.node(), self.lease_term()).await? else {
                // Whoever has it looks again after giving it back.
                return Ok(());
            };
            let from = relay.from;
            let through = match self.store().replay(topic, &from, EVENTS_AT_ONCE).await? {
                Replay::Gap { head } => {
                    self.tell_members_of_gap(topic).await?;
                    head
                }
                Replay::Events { events, .. } => {
                    let (mut batch, mut bytes, mut through) = (Vec::new(), 0, from);
                    for (position, event) in events {
                        bytes += event.payload.bytes().len();
                        if !batch.is_empty() && bytes > BYTES_AT_ONCE {
                            break;
                        }
                        through = position;
                        if event.kind == EventKind::Message {
                            batch.push(Passing { position, event });
                        }
                    }
                    if !batch.is_empty() && !self.spread_in_time(&relay, batch).await {
                        return Ok(());
                    }
                    through
                }
            };
            if !self.store().relay_done(&relay, &through).await? {
                return Ok(());
            }
            // Who published meanwhile found the relay taken, and left it to us.
            match self.store().replay(topic, &through, 1).await? {
                Replay::Events { events, .. } if events.is_empty() => return Ok(()),
                Replay::Events { .. } | Replay::Gap { .. } => {}
            }
        }
    }

    /// Posts a batch, and holds the relay until it is done. `false` if it was not.
    async fn spread_in_time(&self, relay: &Relay, batch: Vec<Passing>) -> bool {
        let began = Instant::now();
        let whole = self.spread(Spread::new(relay.topic.clone(), batch, true)).await;
        if began.elapsed() > self.lease_term() {
            tracing::warn!("posting took longer than the relay was held, another one may have posted the same");
        }
        whole
    }

    async fn hand_relay_over(&self, topic: &Topic) {
        if let Some(continuation) = &self.0.gateways.continuation
            && let Err(error) = continuation.hand_over(Work(Todo::Relay { topic: topic.clone() })).await
        {
            tracing::error!(error = ?error, "a topic's relay waits for the janitor");
        }
    }

    async fn tell_members_of_gap(&self, topic: &Topic) -> Result<(), StoreError> {
        let mut cursor = None;
        loop {
            let page = self.store().members(topic, cursor.as_deref(), crate::hub::PAGE).await?;
            page.items.iter().for_each(|member| self.owe_gap(&member.fence.id, topic));
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }
}
