//! Links from a gateway's location to its channel. A link and the record are in different slots, so each use checks the
//! link against the record. A location at a node has no link: only the node itself looks for its channels. A connect to
//! it is then one round trip.

use std::time::Duration;

use redis::Value;
use strait_core::ChannelId;
use strait_core::store::{Location, StoreError};

use crate::call::Call;
use crate::error::Failure;
use crate::event::Foreign;
use crate::place;
use crate::reply::{integer, list, text};
use crate::scripts;
use crate::store::{Inner, milliseconds};

/// The reservation of a location for a channel: for good, or for a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserve<'a> {
    pub(crate) location: &'a Location,
    pub(crate) id: &'a ChannelId,
    pub(crate) time: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    New,
    /// The channel already had the location.
    Before,
    /// Another channel has the location, or is about to get it.
    Taken,
}

impl Inner {
    /// The channel that was last noted at a location.
    pub(crate) async fn at(&self, location: &Location) -> Result<Option<ChannelId>, StoreError> {
        if location.node().is_some() {
            return Ok(None);
        }
        let (key, slot) = self.keys.location(location);
        match self.router.one("find", Call::plain("GET", slot).arg(key)).await? {
            Value::Nil => Ok(None),
            id => channel(&id).map(Some).map_err(|foreign| Failure::from(foreign).store("find")),
        }
    }

    /// Reserves a location. A link to a channel that is gone is replaced.
    pub(crate) async fn reserve(&self, op: &'static str, reserve: Reserve<'_>) -> Result<Reserved, StoreError> {
        let mut instead = None::<ChannelId>;
        loop {
            let (key, slot) = self.keys.location(reserve.location);
            let call = Call::script(&scripts::RESERVE, slot, &[key])
                .arg(reserve.id.as_str())
                .arg(instead.as_ref().map_or("", ChannelId::as_str))
                .arg(reserve.time.map_or(String::new(), |time| milliseconds(time).to_string()));
            let answer = self.router.one(op, call).await?;
            let foreign = |foreign| Failure::from(foreign).store(op);
            let (reserved, holder) = reserved(answer).map_err(foreign)?;
            let Some(holder) = holder else { return Ok(reserved) };
            let there = self.get(&holder).await?.is_some_and(|record| record.location == *reserve.location);
            if there || instead.as_ref() == Some(&holder) {
                return Ok(Reserved::Taken);
            }
            instead = Some(holder);
        }
    }

    /// Frees locations that a channel has left.
    pub(crate) async fn vacate(&self, op: &'static str, id: &ChannelId, left: &[String]) -> Result<(), StoreError> {
        let call = |location: &String| {
            let (key, slot) = self.keys.encoded_location(location);
            Call::script(&scripts::VACATE, slot, &[key]).arg(id.as_str())
        };
        let calls: Vec<Call> = left.iter().filter(|location| place::is_at_gateway(location)).map(call).collect();
        self.router.all(op, &calls).await?;
        Ok(())
    }
}

/// The outcome, and the other holder of the location if its link may be taken over.
fn reserved(answer: Value) -> Result<(Reserved, Option<ChannelId>), Foreign> {
    match &list(answer)?[..] {
        [done] => Ok((if integer(done)? == 1 { Reserved::New } else { Reserved::Before }, None)),
        [_, holder, timed] => {
            let holder = channel(holder)?;
            Ok((Reserved::Taken, (integer(timed)? == 0).then_some(holder)))
        }
        _ => Err(Foreign),
    }
}

fn channel(id: &Value) -> Result<ChannelId, Foreign> {
    ChannelId::new(text(id)?).map_err(|_| Foreign)
}
