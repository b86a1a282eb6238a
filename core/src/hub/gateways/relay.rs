//! Retained topics at gateways: posted by the holder of the topic's relay, from the cursor to the head.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::EventHub;
use super::fanout::BYTES_AT_ONCE;
use super::work::{Passing, Spread, Todo, Work};
use crate::event::{Event, EventKind, Position};
use crate::name::Topic;
use crate::store::{Relay, Replay, StoreError};

/// How many events are posted before the cursor moves.
const EVENTS_AT_ONCE: usize = 64;
/// How often the topic is looked at while members are slow to take what was posted.
const LOOK: Duration = Duration::from_millis(250);

/// A batch that slow members have yet to take.
struct Behind {
    through: Position,
    /// Whether everybody was posted to, handed over or told, once that is known.
    whole: watch::Receiver<Option<bool>>,
}

/// What is posted together of the events after a position, and the last one of it.
fn batch(events: Vec<(Position, Arc<Event>)>, after: Position) -> (Vec<Passing>, Position) {
    let (mut batch, mut bytes, mut through) = (Vec::new(), 0, after);
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
    (batch, through)
}

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
            let Some(through) = self.post_what_is_new(&relay).await? else { return Ok(()) };
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

    /// Posts one batch, and while some members are slow to take it those that come after it. Tells how far every member
    /// was posted to, handed over or told; `None` if somebody was not.
    async fn post_what_is_new(&self, relay: &Relay) -> Result<Option<Position>, StoreError> {
        let topic = &relay.topic;
        // Who is slow has this much time, and by then the relay must be given back.
        let patience = self.gateway().map(|gateway| gateway.capabilities().patience).unwrap_or_default();
        let reading = Instant::now() + self.lease_term().saturating_sub(patience);
        let (mut read, mut posted, mut behind) = (relay.from, relay.from, VecDeque::<Behind>::new());
        loop {
            while let Some(first) = behind.front_mut() {
                // Looked at first: what was told last can still be read.
                let is_over = first.whole.has_changed().is_err();
                let whole = *first.whole.borrow_and_update();
                match whole {
                    Some(true) => posted = first.through,
                    None if !is_over => break,
                    Some(false) | None => return Ok(None),
                }
                behind.pop_front();
            }
            let is_first = read == relay.from;
            if !is_first && behind.is_empty() {
                return Ok(Some(posted));
            }
            if is_first || (Instant::now() < reading && !self.is_late()) {
                match self.store().replay(topic, &read, EVENTS_AT_ONCE).await? {
                    Replay::Gap { head } if behind.is_empty() => {
                        self.tell_members_of_gap(topic).await?;
                        return Ok(Some(head));
                    }
                    // The next one to hold the relay finds it too.
                    Replay::Gap { .. } => {}
                    Replay::Events { events, .. } if events.is_empty() && is_first => return Ok(Some(posted)),
                    Replay::Events { events, .. } if events.is_empty() => {}
                    Replay::Events { events, .. } => {
                        let (batch, through) = batch(events, read);
                        read = through;
                        behind.push_back(self.begin_to_post(relay, batch, through).await);
                        continue;
                    }
                }
            }
            if let Some(first) = behind.front_mut() {
                // What others publish meanwhile is left to us.
                let _ = tokio::time::timeout(LOOK, first.whole.wait_for(Option::is_some)).await;
            }
        }
    }

    /// Posts a batch in the background, and returns once all members but those that are slow have it.
    async fn begin_to_post(&self, relay: &Relay, batch: Vec<Passing>, through: Position) -> Behind {
        let (passed, may_pass) = oneshot::channel();
        let (ended, mut whole) = watch::channel(None);
        let (hub, topic, began) = (self.clone(), relay.topic.clone(), Instant::now());
        self.in_background(async move {
            let whole = batch.is_empty() || hub.spread_and_tell(Spread::new(topic, batch, true), Some(passed)).await;
            if began.elapsed() > hub.lease_term() {
                tracing::warn!("posting took longer than the relay was held, another one may have posted the same");
            }
            let _ = ended.send(Some(whole));
        });
        if may_pass.await.is_err() {
            let _ = whole.wait_for(Option::is_some).await;
        }
        Behind { through, whole }
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
