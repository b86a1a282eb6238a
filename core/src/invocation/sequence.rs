//! Messages in the order of the client's counter: early ones are parked, repeated ones are dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Invocation;
use super::message::Body;
use super::order::Lock;
use crate::error::Error;
use crate::event::{Event, Payload, Retention};
use crate::gateway::GatewayConnection;
use crate::hub::EventHub;
use crate::name::{ChannelId, Topic};
use crate::store::{Publication, Record};

/// The most messages that a client may be ahead of the missing one.
const AHEAD: u64 = 64;
/// The log holds the parked messages, and all the notes of handled messages that can come between.
const KEPT: Retention = Retention { count: 4 * AHEAD as u32, age: Duration::from_hours(3) };

/// A line of the log that keeps a channel's place in its sequence.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Note {
    /// This message was handled, and all before it.
    Done(u64),
    /// This message came too early.
    Parked(u64, String),
}

/// A channel's place in its sequence.
#[derive(Default)]
struct Place {
    done: u64,
    parked: BTreeMap<u64, String>,
}

fn log(channel: &ChannelId) -> Result<Topic, Error> {
    Ok(Topic::new(format!("$sequence:{channel}"))?)
}

async fn read(hub: &EventHub, channel: &ChannelId) -> Result<Place, Error> {
    let mut place = Place::default();
    for (_, event) in hub.store().history(&log(channel)?, KEPT.count as usize).await? {
        match serde_json::from_slice(event.payload.bytes())? {
            Note::Done(number) => place.done = place.done.max(number),
            Note::Parked(number, text) => drop(place.parked.insert(number, text)),
        }
    }
    let done = place.done;
    place.parked.retain(|number, _| *number > done);
    Ok(place)
}

async fn write(hub: &EventHub, channel: &ChannelId, note: &Note) -> Result<(), Error> {
    let event = Arc::new(Event::message(Payload::json(note)?));
    let publication = Publication { topic: log(channel)?, event, retention: Some(KEPT), key: None };
    hub.store().publish(&[publication]).await.into_iter().try_for_each(|published| published.map(drop))?;
    Ok(())
}

/// The client's counter in a message.
fn number(text: &str, member: &str) -> Option<u64> {
    let object: std::collections::HashMap<String, &serde_json::value::RawValue> = serde_json::from_str(text).ok()?;
    object.get(member)?.get().parse().ok().filter(|number| *number > 0)
}

impl Invocation {
    pub(super) async fn handle_in_sequence(
        &self,
        at: &GatewayConnection,
        record: &Record,
        member: &str,
        body: Body<'_>,
    ) -> Result<(), Error> {
        // Bytes have no member that could count them.
        let counted = match body {
            Body::Text(text) => number(text, member).map(|number| (number, text)),
            Body::Bytes(_) => None,
        };
        let Some((number, text)) = counted else {
            let error = Error::invalid(format!("the member {member:?} must count the messages, from 1"));
            return self.refuse(at, record, &error).await;
        };
        let (hub, id) = (self.hub(), &record.id);
        let ttl = self.app.endpoint(&record.endpoint).map_or(Duration::ZERO, |endpoint| endpoint.limits.handler);
        let Some(lock) = Lock::take(hub, id, ttl + Lock::MARGIN, self.posts).await? else {
            return self.refuse(at, record, &Error::timeout("earlier messages took too long")).await;
        };
        let handled = self.handle_locked(at, record, number, text).await;
        lock.release().await;
        handled
    }

    async fn handle_locked(
        &self,
        at: &GatewayConnection,
        record: &Record,
        number: u64,
        text: &str,
    ) -> Result<(), Error> {
        let (hub, id) = (self.hub(), &record.id);
        let mut place = read(hub, id).await?;
        if number <= place.done || place.parked.contains_key(&number) {
            tracing::debug!(channel = %id, "a message came again");
            return Ok(());
        }
        if number > place.done + AHEAD {
            let error = Error::rate_limited("too many messages are ahead of one that is missing");
            return self.refuse(at, record, &error).await;
        }
        if number > place.done + 1 {
            return write(hub, id, &Note::Parked(number, text.to_owned())).await;
        }
        place.parked.insert(number, text.to_owned());
        self.handle_parked(at, place, id).await
    }

    /// Handles the next messages of the sequence, as far as it goes.
    async fn handle_parked(&self, at: &GatewayConnection, mut place: Place, id: &ChannelId) -> Result<(), Error> {
        while let Some(text) = place.parked.remove(&(place.done + 1)) {
            // The record after the previous message; a channel that has ended handles no more.
            let Some(record) = self.find(at).await?.filter(|record| record.id == *id) else { return Ok(()) };
            place.done += 1;
            // Write the note first: a message is not handled again if its handler may have run.
            write(self.hub(), id, &Note::Done(place.done)).await?;
            self.handle_now(at, record, Body::Text(&text)).await?;
        }
        Ok(())
    }

    /// Handles parked messages although none is missing: the invocation that should have handled them has failed.
    pub(super) async fn resume_sequence(&self, at: &GatewayConnection, record: &Record) -> Result<(), Error> {
        let (hub, id) = (self.hub(), &record.id);
        let place = read(hub, id).await?;
        if !place.parked.contains_key(&(place.done + 1)) {
            return Ok(());
        }
        let ttl = self.app.endpoint(&record.endpoint).map_or(Duration::ZERO, |endpoint| endpoint.limits.handler);
        let Some(lock) = Lock::take(hub, id, ttl + Lock::MARGIN, self.posts).await? else { return Ok(()) };
        let handled = match read(hub, id).await {
            Ok(place) => self.handle_parked(at, place, id).await,
            Err(error) => Err(error),
        };
        lock.release().await;
        handled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_a_positive_integer_in_an_object() {
        assert_eq!(number(r#"{"seq":3,"action":"x"}"#, "seq"), Some(3));
        for other in [r#"{"seq":0}"#, r#"{"seq":"3"}"#, r#"{"seq":1.5}"#, r#"{"seq":-1}"#, "{}", "[3]", "text"] {
            assert_eq!(number(other, "seq"), None, "{other}");
        }
    }
}
