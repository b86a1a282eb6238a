//! Reading what is kept, and relaying it.

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

/// More events are not asked for at once.
const MOST: usize = 100_000;

impl Inner {
    pub(crate) async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        let keys = self.keys.topic(topic);
        let call = Call::script(&scripts::REPLAY, keys.slot(), &[keys.meta(), keys.log()]);
        let answer = self.router.one("replay", self.from(call, after, limit)).await?;
        replayed(answer).map_err(|foreign| Failure::from(foreign).store("replay"))
    }

    /// What a replay is asked with.
    pub(crate) fn from(&self, call: Call, after: &Position, limit: usize) -> Call {
        call.arg(self.random.epoch()).arg(after.epoch).arg(after.offset).arg(after.check).arg(limit.min(MOST))
    }

    pub(crate) async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let keys = self.keys.topic(topic);
        let call = Call::script(&scripts::HISTORY, keys.slot(), &[keys.meta(), keys.log()]).arg(limit.min(MOST));
        let answer = self.router.one("history", call).await?;
        let read = || {
            let mut answer = list(answer)?.into_iter();
            let Some(epoch) = answer.next() else { return Ok(Vec::new()) };
            let mut events = entries(text(&epoch)?, answer)?;
            events.reverse();
            Ok(events)
        };
        read().map_err(|foreign: Foreign| Failure::from(foreign).store("history"))
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

/// What the function `replay` of stream.lua answers.
pub(crate) fn replayed(answer: Value) -> Result<Replay, Foreign> {
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

/// Ids and events in turn.
fn entries(epoch: &str, mut of: impl Iterator<Item = Value>) -> Result<Vec<(Position, Arc<Event>)>, Foreign> {
    let mut entries = Vec::new();
    while let Some(id) = of.next() {
        let at = event::parse_position(&format!("{epoch}-{}", text(&id)?)).ok_or(Foreign)?;
        let blob: Bytes = bytes(of.next().ok_or(Foreign)?)?;
        entries.push((at, Arc::new(event::decode(blob)?)));
    }
    Ok(entries)
}
