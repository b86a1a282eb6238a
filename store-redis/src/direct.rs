//! Direct sends, and the inboxes that keep them.

use std::sync::Arc;

use redis::Value;
use strait_core::store::{Delivered, Replay, StoreError};
use strait_core::{ChannelId, Event, Position};

use crate::call::Call;
use crate::error::Failure;
use crate::event::{self, Foreign};
use crate::place;
use crate::reply::{list, position, text};
use crate::scripts;
use crate::store::{Inner, milliseconds};

impl Inner {
    pub(crate) async fn deliver(&self, sends: &[(ChannelId, Arc<Event>)]) -> Result<Vec<Delivered>, StoreError> {
        let call = |(id, event): &(ChannelId, Arc<Event>)| {
            let keys = self.keys.channel(id);
            let touched = [keys.record(), keys.inbox(), keys.inbox_log()];
            Call::script(&scripts::DELIVER, keys.slot(), &touched)
                .arg(event::encode(event))
                .arg(self.random.epoch())
                .arg(self.random.check())
                .arg(self.config.inbox.count)
                .arg(milliseconds(self.config.inbox.age))
                .once()
        };
        let calls: Vec<Call> = sends.iter().map(call).collect();
        let answers = self.router.all("deliver", &calls).await?;
        let read = |answer| delivered(answer).map_err(|foreign| Failure::from(foreign).store("deliver"));
        answers.into_iter().map(read).collect()
    }

    pub(crate) async fn inbox(&self, id: &ChannelId, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        let keys = self.keys.channel(id);
        let touched = [keys.record(), keys.inbox(), keys.inbox_log()];
        let call = Call::script(&scripts::INBOX, keys.slot(), &touched);
        self.replay_pages("inbox", &call, after, limit).await
    }
}

fn delivered(answer: Value) -> Result<Delivered, Foreign> {
    let answer = list(answer)?;
    let [location, at] = &answer[..] else { return Ok(Delivered::Absent) };
    let at = match text(at)? {
        "" => None,
        _ => Some(position(at)?),
    };
    match (text(location)?, at) {
        ("", Some(at)) => Ok(Delivered::Stored(at)),
        ("", None) => Err(Foreign),
        (location, position) => Ok(Delivered::At { location: place::decode(location).ok_or(Foreign)?, position }),
    }
}
