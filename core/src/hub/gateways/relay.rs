//! Retained topics at gateways: the holder of a topic's relay posts its events, from the cursor to the head.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::EventHub;
use super::fanout::BYTES_AT_ONCE;
use super::work::{Passing, Spread, Todo, Work};
use crate::event::{Event, EventKind, Position};
use crate::name::Topic;
use crate::store::{Relay, Replay, StoreError};

/// Events that are posted before the cursor moves.
const EVENTS_AT_ONCE: usize = 64;
/// The interval of looks at the topic while members are slow to take posted events.
const LOOK: Duration = Duration::from_millis(250);

/// A relay that this process holds.
struct Held {
    relay: Relay,
    /// Up to here every member has its events: they were posted, handed over, or replaced by a gap notice.
    posted: Mutex<Position>,
    /// The end of the time in which no other process can take the relay.
    until: Mutex<Instant>,
}

/// A batch that slow members have yet to take.
struct Behind {
    through: Position,
    /// Whether every member was posted to, handed over or notified of a gap, once that is known.
    whole: watch::Receiver<Option<bool>>,
}

/// The next batch of events after a position, and the position of its last event.
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
    /// Posts new events, unless another process does.
    pub(super) async fn relay_topic(&self, topic: &Topic) {
        if let Err(error) = self.relay_until_head(topic).await
            && let Some(count) = self.lines().relay_left.count()
        {
            tracing::warn!(count, error = %error.in_full(), "a topic's relay is left to who comes next");
        }
    }

    async fn relay_until_head(&self, topic: &Topic) -> Result<(), StoreError> {
        loop {
            if self.is_late() {
                self.hand_relay_over(topic).await;
                return Ok(());
            }
            let until = Mutex::new(Instant::now() + self.lease_term());
            let Some(relay) = self.store().relay(topic, self.node(), self.lease_term()).await? else {
                // The relay's holder looks again after giving it back.
                return Ok(());
            };
            let held = Held { posted: Mutex::new(relay.from), until, relay };
            let through = match select(pin!(self.post_what_is_new(&held)), pin!(self.hold_on(&held))).await {
                Either::Left((Ok(Some(through)), _)) => through,
                Either::Left((end, _)) => return end.map(drop),
                Either::Right(((), _)) => continue,
            };
            if !self.store().relay_done(&held.relay, &through, None).await? {
                return Ok(());
            }
            // Publishers that found the relay taken meanwhile left their events to this holder.
            match self.store().replay(topic, &through, 1).await? {
                Replay::Events { events, .. } if events.is_empty() => return Ok(()),
                Replay::Events { .. } | Replay::Gap { .. } => {}
            }
        }
    }

    /// Keeps the relay while its events are being posted, and moves its cursor; ends when the relay is lost.
    async fn hold_on(&self, held: &Held) {
        let term = self.lease_term();
        loop {
            sleep(term / 3).await;
            let (asked, posted) = (Instant::now(), *held.posted.lock());
            match self.store().relay_done(&held.relay, &posted, Some(term)).await {
                Ok(true) => *held.until.lock() = asked + term,
                Ok(false) => {
                    tracing::warn!("a topic's relay was lost while its events were being posted, some may come twice");
                    return;
                }
                Err(error) => {
                    if let Some(count) = self.lines().relay_not_kept.count() {
                        tracing::warn!(
                            count,
                            error = %error.in_full(),
                            "a topic's relay could not be kept, it is tried again"
                        );
                    }
                }
            }
        }
    }

    /// Posts one batch, and the later ones while some members are slow to take it. Returns the position up to which
    /// every member was posted to, handed over or notified of a gap; `None` if one was not.
    async fn post_what_is_new(&self, held: &Held) -> Result<Option<Position>, StoreError> {
        let Held { relay, .. } = held;
        let topic = &relay.topic;
        let (mut read, mut behind) = (relay.from, VecDeque::<Behind>::new());
        loop {
            while let Some(first) = behind.front_mut() {
                // Check this first: the last value can still be read after the sender is gone.
                let is_over = first.whole.has_changed().is_err();
                let whole = *first.whole.borrow_and_update();
                match whole {
                    Some(true) => *held.posted.lock() = first.through,
                    None if !is_over => break,
                    Some(false) | None => return Ok(None),
                }
                behind.pop_front();
            }
            let is_first = read == relay.from;
            if !is_first && behind.is_empty() {
                return Ok(Some(read));
            }
            if is_first || (Instant::now() < *held.until.lock() && !self.is_late()) {
                match self.store().replay(topic, &read, EVENTS_AT_ONCE).await? {
                    Replay::Gap { head } if behind.is_empty() => {
                        self.tell_members_of_gap(topic).await?;
                        return Ok(Some(head));
                    }
                    // The relay's next holder finds the gap, too.
                    Replay::Gap { .. } => {}
                    Replay::Events { events, .. } if events.is_empty() && is_first => return Ok(Some(read)),
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
                // Events that other processes publish meanwhile are left to this holder.
                let _ = timeout(LOOK, first.whole.wait_for(Option::is_some)).await;
            }
        }
    }

    /// Posts a batch in the background; returns once all members but the slow ones have it.
    async fn begin_to_post(&self, relay: &Relay, batch: Vec<Passing>, through: Position) -> Behind {
        let (passed, may_pass) = oneshot::channel();
        let (ended, mut whole) = watch::channel(None);
        let (hub, topic) = (self.clone(), relay.topic.clone());
        self.in_background(async move {
            let whole = batch.is_empty() || hub.spread_and_tell(Spread::new(topic, batch, true), Some(passed)).await;
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
            && let Some(count) = self.lines().relay_not_handed_over.count()
        {
            tracing::error!(count, error = %error.in_full(), "a topic's relay waits for the janitor");
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
