//! Reads logs, and relays them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use strait_core::store::{Relay, Replay, StoreError};
use strait_core::{Event, Position, Topic};

use crate::call::Call;
use crate::error::Failure;
use crate::event::{self, Foreign, position_text};
use crate::reply::{bytes, integer, list, position, text};
use crate::scripts;
use crate::store::{Inner, milliseconds};

/// The most events that one script reads, so that it does not block Redis for long.
const PAGE: usize = 256;

impl Inner {
    pub(crate) async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        let keys = self.keys.topic(topic);
        let call = Call::script(&scripts::REPLAY, keys.slot(), &[keys.meta(), keys.log()]);
        self.replay_pages("replay", &call, after, limit).await
    }

    /// Asks for pages of a replay until it is complete or reaches the limit.
    pub(crate) async fn replay_pages(
        &self,
        op: &'static str,
        call: &Call,
        after: &Position,
        limit: usize,
    ) -> Result<Replay, StoreError> {
        let page = async |after: &Position, read: usize| {
            let answer = self.router.one(op, self.from(call.clone(), after, limit - read)).await?;
            replayed(answer).map_err(|foreign| Failure::from(foreign).store(op))
        };
        let mut replay = page(after, 0).await?;
        while let Replay::Events { events: read, head, more: more @ true } = &mut replay
            && read.len() < limit
            && let Some((last, _)) = read.last()
        {
            match page(last, read.len()).await? {
                Replay::Events { events, head: now, more: still } => {
                    if events.is_empty() {
                        break;
                    }
                    read.extend(events);
                    (*head, *more) = (now, still);
                }
                // The events so far are complete; the next replay from their end will report the gap.
                Replay::Gap { .. } => break,
            }
        }
        Ok(replay)
    }

    /// Adds the arguments of a replay.
    pub(crate) fn from(&self, call: Call, after: &Position, limit: usize) -> Call {
        call.arg(self.random.epoch()).arg(after.epoch).arg(after.offset).arg(after.check).arg(limit.min(PAGE))
    }

    pub(crate) async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        let (keys, op) = (self.keys.topic(topic), "history");
        let mut events: Vec<(Position, Arc<Event>)> = Vec::new();
        while events.len() < limit {
            let page = PAGE.min(limit - events.len());
            // Offsets are consecutive: the next page ends before the first offset of this one.
            let upto = match events.last() {
                Some((first, _)) if first.offset <= 1 => break,
                Some((first, _)) => (first.offset - 1).to_string(),
                None => "+".to_owned(),
            };
            let call = Call::script(&scripts::HISTORY, keys.slot(), &[keys.meta(), keys.log()]).arg(page).arg(upto);
            let answer = self.router.one(op, call).await?;
            let read = || {
                let mut answer = list(answer)?.into_iter();
                let Some(epoch) = answer.next() else { return Ok(Vec::new()) };
                entries(text(&epoch)?, answer)
            };
            let found = read().map_err(|foreign: Foreign| Failure::from(foreign).store(op))?;
            let begun_anew = events.last().zip(found.first()).is_some_and(|((a, _), (b, _))| a.epoch != b.epoch);
            let over = begun_anew || found.len() < page;
            if !begun_anew {
                events.extend(found);
            }
            if over {
                break;
            }
        }
        events.reverse();
        Ok(events)
    }

    pub(crate) async fn relay(&self, topic: &Topic, ttl: Duration) -> Result<Option<Relay>, StoreError> {
        let keys = self.keys.topic(topic);
        let token = self.random.next();
        let call = Call::script(&scripts::RELAY, keys.slot(), &[keys.rows()]).arg(token).arg(milliseconds(ttl));
        let answer = self.router.one("relay", call.once()).await?;
        let read = || match &list(answer)?[..] {
            [] => Ok(None),
            [from, ..] => Ok(Some(Relay { topic: topic.clone(), from: position(from)?, token })),
        };
        read().map_err(|foreign: Foreign| Failure::from(foreign).store("relay"))
    }

    pub(crate) async fn relay_done(
        &self,
        relay: &Relay,
        through: &Position,
        keep: Option<Duration>,
    ) -> Result<bool, StoreError> {
        let keys = self.keys.topic(&relay.topic);
        let call = Call::script(&scripts::RELAY_DONE, keys.slot(), &[keys.rows()]);
        let call = call.arg(relay.token).arg(position_text(through)).arg(keep.map_or(0, milliseconds));
        let answer = self.router.one("relay_done", call.once()).await?;
        let done = integer(&answer).map_err(|foreign| Failure::from(foreign).store("relay_done"))?;
        Ok(done == 1)
    }
}

/// Parses the answer of the function `replay` in stream.lua.
fn replayed(answer: Value) -> Result<Replay, Foreign> {
    let mut answer = list(answer)?.into_iter();
    let (kind, head) = (answer.next().ok_or(Foreign)?, answer.next().ok_or(Foreign)?);
    let head_text = text(&head)?;
    let head = position(&head)?;
    if integer(&kind)? == 0 {
        return Ok(Replay::Gap { head });
    }
    let more = integer(&answer.next().ok_or(Foreign)?)? == 1;
    let epoch = head_text.split('-').next().unwrap_or_default();
    Ok(Replay::Events { events: entries(epoch, answer)?, head, more })
}

/// Parses alternating ids and events.
fn entries(epoch: &str, mut of: impl Iterator<Item = Value>) -> Result<Vec<(Position, Arc<Event>)>, Foreign> {
    let mut entries = Vec::new();
    while let Some(id) = of.next() {
        let at = event::parse_position(&format!("{epoch}-{}", text(&id)?)).ok_or(Foreign)?;
        let blob: Bytes = bytes(of.next().ok_or(Foreign)?)?;
        entries.push((at, Arc::new(event::decode(blob)?)));
    }
    Ok(entries)
}
