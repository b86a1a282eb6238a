//! Topics: members, presence, logs, direct sends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use strait_core::store::{
    Delivered, EventHubStore, Fence, Member, Page, PresenceEntry, Present, Publication, Published, Relay, Replay,
    StoreError, StoreErrorKind, Subscribed, Subscription,
};
use strait_core::{ChannelId, Event, NodeId, Position, Topic, UserId, in_full};

use crate::database::{Lane, Values};
use crate::error::error;
use crate::store::PostgresStore;
use crate::values::{
    EventColumns, Read, corrupt, event, fences, get, location, millis, name, number, position, time, unsigned,
};

fn at(row: &PgRow) -> Read<Position> {
    position(row, "o_epoch", "o_number", "o_mark")
}

fn positioned(row: &PgRow) -> Read<(Position, Arc<Event>)> {
    Ok((at(row)?, Arc::new(event(row, "o_")?)))
}

fn say_unreadable(error: &sqlx::Error) {
    tracing::error!(error = %error, "an event of a log cannot be read, it is missing there");
}

/// The rows of a slice in the order of its items.
fn in_order<T>(rows: &[PgRow], length: usize, read: impl Fn(&PgRow) -> Read<T>) -> Read<Vec<T>> {
    let mut answers: Vec<Option<T>> = (0..length).map(|_| None).collect();
    for row in rows {
        let item = usize::try_from(get::<i64>(row, "o_item")?).map_err(corrupt)?;
        let place = item.checked_sub(1).and_then(|item| answers.get_mut(item));
        *place.ok_or_else(|| corrupt("an answer to no item"))? = Some(read(row)?);
    }
    answers.into_iter().map(|answer| answer.ok_or_else(|| corrupt("an item without an answer"))).collect()
}

fn any(rows: &[PgRow], column: &str) -> Read<bool> {
    rows.iter().try_fold(false, |found, row| Ok(found || get(row, column)?))
}

fn subscribed(row: &PgRow) -> Read<Subscribed> {
    Ok(match get::<i16>(row, "o_answer")? {
        0 => Subscribed::Joined { head: at(row)? },
        1 => Subscribed::Already { head: at(row)? },
        _ => Subscribed::Dead,
    })
}

fn published(row: &PgRow) -> Read<Published> {
    Ok(Published { position: at(row)?, indexed: get(row, "o_indexed")?, duplicate: get(row, "o_duplicate")? })
}

fn delivered(row: &PgRow) -> Read<Delivered> {
    let status = get::<i16>(row, "o_status")?;
    if status == 0 {
        return Ok(Delivered::Absent);
    }
    let position = get::<Option<i64>>(row, "o_number")?.map(|_| at(row)).transpose()?;
    Ok(match (status, position) {
        (1, Some(position)) => Delivered::Stored(position),
        (_, position) => {
            let location = location(get(row, "o_gateway")?, get(row, "o_place")?, get(row, "o_connection")?)?;
            Delivered::At { location, position }
        }
    })
}

fn replayed(rows: &[PgRow]) -> Read<Replay> {
    let (first, rest) = rows.split_first().ok_or_else(|| corrupt("a replay without a head"))?;
    let head = at(first)?;
    if get(first, "o_gap")? {
        return Ok(Replay::Gap { head });
    }
    let Ok(events) = rest.iter().map(positioned).collect::<Read<Vec<_>>>().inspect_err(say_unreadable) else {
        return Ok(Replay::Gap { head });
    };
    // No events: either none follow the position, or none were asked for.
    Ok(Replay::Events { events, head, more: false })
}

/// Whether there are more events before the head than were read.
fn with_more(replay: Replay, after: u64) -> Replay {
    match replay {
        Replay::Events { events, head, .. } => {
            let last = events.last().map_or(after, |(position, _)| position.offset);
            Replay::Events { more: last < head.offset, events, head }
        }
        gap @ Replay::Gap { .. } => gap,
    }
}

fn member(row: &PgRow) -> Read<Member> {
    Ok(Member {
        fence: Fence { id: name(get(row, "id")?)?, generation: unsigned(row, "generation")? },
        location: location(get(row, "at_gateway")?, get(row, "place")?, get(row, "connection")?)?,
        joined: position(row, "epoch", "number", "mark")?,
    })
}

fn present(row: &PgRow) -> Read<Present> {
    let user = get::<Option<String>>(row, "user_id")?.map(name::<UserId>).transpose()?;
    let entry = PresenceEntry { user, data: get::<Option<Vec<u8>>>(row, "data")?.map(Into::into) };
    Ok(Present { channel: name(get(row, "channel")?)?, entry, since: time(row, "since")? })
}

/// Whether data can stand in an event unchanged.
fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok()
}

#[async_trait]
impl EventHubStore for PostgresStore {
    async fn subscribe(&self, subscriptions: &[Subscription]) -> Result<Vec<Subscribed>, StoreError> {
        if subscriptions.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, generations) = fences(subscriptions.iter().map(|one| &one.fence));
        let entries = || subscriptions.iter().map(|one| one.presence.as_ref());
        let data = || entries().map(|entry| entry.and_then(|entry| entry.data.as_deref()));
        let values = Values::new()
            .with(ids)
            .with(generations)
            .with(subscriptions.iter().map(|one| one.topic.as_str()).collect::<Vec<_>>())
            .with(subscriptions.iter().map(|one| one.indexed).collect::<Vec<_>>())
            .with(entries().map(|entry| entry.is_some()).collect::<Vec<_>>())
            .with(entries().map(|entry| entry?.user.as_ref().map(UserId::as_str)).collect::<Vec<_>>())
            .with(data().collect::<Vec<_>>())
            .with(data().map(|data| data.is_some_and(is_json)).collect::<Vec<_>>())
            .with(self.inner.nodes.numbers());
        let rows = self.rows("subscribe", Lane::Work, &self.inner.sql.subscribe, values).await?;
        let wake = self.read("subscribe", any(&rows, "o_wake"))?;
        self.inner.wake(wake, subscriptions.iter().map(|one| &one.topic));
        self.read("subscribe", in_order(&rows, subscriptions.len(), subscribed))
    }

    async fn unsubscribe(&self, members: &[(Fence, Topic)]) -> Result<Vec<bool>, StoreError> {
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, generations) = fences(members.iter().map(|(fence, _)| fence));
        let topics: Vec<_> = members.iter().map(|(_, topic)| topic.as_str()).collect();
        let values = Values::new().with(ids).with(generations).with(topics).with(self.inner.nodes.numbers());
        let rows = self.rows("unsubscribe", Lane::Work, &self.inner.sql.unsubscribe, values).await?;
        let wake = self.read("unsubscribe", any(&rows, "o_wake"))?;
        self.inner.wake(wake, members.iter().map(|(_, topic)| topic));
        self.read("unsubscribe", in_order(&rows, members.len(), |row| get(row, "o_left")))
    }

    async fn topics(&self, id: &ChannelId) -> Result<Vec<Topic>, StoreError> {
        let rows = self.rows("topics", Lane::Work, &self.inner.sql.topics, Values::new().with(id.as_str())).await?;
        self.read("topics", rows.iter().map(|row| name(get(row, "name")?)).collect())
    }

    async fn members(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Member>, StoreError> {
        self.page("members", &self.inner.sql.members, topic, cursor, limit, member).await
    }

    async fn presence(&self, topic: &Topic, cursor: Option<&str>, limit: usize) -> Result<Page<Present>, StoreError> {
        self.page("presence", &self.inner.sql.presence, topic, cursor, limit, present).await
    }

    async fn publish(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>> {
        match self.publish_slice(publications).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            // One topic's row or one event is corrupt: the other topics must not fail with it.
            Err(failure) if failure.kind == StoreErrorKind::Corrupt && publications.len() > 1 => {
                self.publish_each(publications).await
            }
            // A slice is one transaction: none of it has happened, unless only the answer was lost.
            Err(failure) => {
                let source: Arc<str> = match std::error::Error::source(&failure) {
                    Some(source) => Arc::from(in_full(source).to_string()),
                    None => Arc::from(""),
                };
                let each =
                    |_| Err(StoreError::new(failure.kind, failure.backend, failure.op).because(String::from(&*source)));
                publications.iter().map(each).collect()
            }
        }
    }

    async fn replay(&self, topic: &Topic, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.replay_from("replay", Lane::Work, topic.as_str(), after, limit).await
    }

    async fn history(&self, topic: &Topic, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        let values = Values::new().with(topic.as_str()).with(number(limit as u64));
        let rows = self.rows("history", Lane::Work, &self.inner.sql.history, values).await?;
        Ok(rows.iter().filter_map(|row| positioned(row).inspect_err(say_unreadable).ok()).collect())
    }

    async fn deliver(&self, sends: &[(ChannelId, Arc<Event>)]) -> Result<Vec<Delivered>, StoreError> {
        if sends.is_empty() {
            return Ok(Vec::new());
        }
        let mut events = EventColumns::default();
        sends.iter().for_each(|(_, event)| events.push(event));
        let values = Values::new().with(sends.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>());
        let inbox = self.inner.config.inbox;
        let values = events.bind(values).with(i64::from(inbox.count)).with(millis(inbox.age));
        let rows = self.rows("deliver", Lane::Work, &self.inner.sql.deliver, values).await?;
        self.read("deliver", in_order(&rows, sends.len(), delivered))
    }

    async fn inbox(&self, id: &ChannelId, after: &Position, limit: usize) -> Result<Replay, StoreError> {
        self.replay_from("inbox", Lane::Work, id.as_str(), after, limit).await
    }

    async fn relay(&self, topic: &Topic, _by: &NodeId, ttl: Duration) -> Result<Option<Relay>, StoreError> {
        let values = Values::new().with(topic.as_str()).with(millis(ttl));
        let rows = self.rows("relay", Lane::Work, &self.inner.sql.relay, values).await?;
        let relay = |row: &PgRow| {
            let from = position(row, "relay_epoch", "relay_number", "relay_mark")?;
            Ok(Relay { topic: topic.clone(), from, token: unsigned(row, "relay_token")? })
        };
        self.read("relay", rows.first().map(relay).transpose())
    }

    async fn relay_done(&self, relay: &Relay, through: &Position, keep: Option<Duration>) -> Result<bool, StoreError> {
        let values = Values::new()
            .with(relay.topic.as_str())
            .with(number(relay.token))
            .with(number(through.epoch))
            .with(number(through.offset))
            .with(i64::from(through.check))
            .with(keep.map(millis));
        Ok(!self.rows("relay_done", Lane::Work, &self.inner.sql.relay_done, values).await?.is_empty())
    }
}

impl PostgresStore {
    async fn publish_each(&self, publications: &[Publication]) -> Vec<Result<Published, StoreError>> {
        let mut answers = Vec::with_capacity(publications.len());
        for publication in publications {
            let answer = self.publish_slice(std::slice::from_ref(publication)).await;
            answers.push(answer.and_then(|published| {
                let nothing = || error(StoreErrorKind::Corrupt, "publish", "a publication without an answer");
                published.into_iter().next().ok_or_else(nothing)
            }));
        }
        answers
    }

    async fn publish_slice(&self, publications: &[Publication]) -> Result<Vec<Published>, StoreError> {
        if publications.is_empty() {
            return Ok(Vec::new());
        }
        let mut events = EventColumns::default();
        publications.iter().for_each(|one| events.push(&one.event));
        let topics: Vec<_> = publications.iter().map(|one| one.topic.as_str()).collect();
        let retentions = || publications.iter().map(|one| one.retention);
        let values = events
            .bind(Values::new().with(topics))
            .with(retentions().map(|kept| kept.map(|kept| i64::from(kept.count))).collect::<Vec<_>>())
            .with(retentions().map(|kept| kept.map(|kept| millis(kept.age))).collect::<Vec<_>>())
            .with(publications.iter().map(|one| one.key.as_deref().map(str::as_bytes)).collect::<Vec<_>>())
            .with(self.inner.nodes.numbers());
        let rows = self.rows("publish", Lane::Work, &self.inner.sql.publish, values).await?;
        let wake = self.read("publish", any(&rows, "o_wake"))?;
        self.inner.wake(wake, publications.iter().map(|one| &one.topic));
        self.read("publish", in_order(&rows, publications.len(), published))
    }

    /// The events after a position in a topic or, depending on the operation, in a channel's inbox.
    pub(crate) async fn replay_from(
        &self,
        op: &'static str,
        lane: Lane,
        of: &str,
        after: &Position,
        limit: usize,
    ) -> Result<Replay, StoreError> {
        let sql = if op == "inbox" { &self.inner.sql.inbox } else { &self.inner.sql.replay };
        let values = Values::new()
            .with(of)
            .with(number(after.epoch))
            .with(number(after.offset))
            .with(i64::from(after.check))
            .with(number(limit as u64));
        let rows = self.rows(op, lane, sql, values).await?;
        Ok(with_more(self.read(op, replayed(&rows))?, after.offset))
    }

    /// One page of a listing; its cursor is the seat of the last row.
    async fn page<T>(
        &self,
        op: &'static str,
        sql: &sqlx::SqlStr,
        topic: &Topic,
        cursor: Option<&str>,
        limit: usize,
        read: impl Fn(&PgRow) -> Read<T> + Send,
    ) -> Result<Page<T>, StoreError> {
        let after = cursor
            .map_or(Ok(0), str::parse::<i64>)
            .map_err(|_| error(StoreErrorKind::Conflict, op, "the cursor is not one that a page gave"))?;
        let limit = limit.max(1);
        let values = Values::new().with(topic.as_str()).with(after).with(number(limit as u64).saturating_add(1));
        let mut rows = self.rows(op, Lane::Work, sql, values).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| more).map(|row| get::<i64>(row, "seat"));
        let next = self.read(op, last.transpose())?.map(|seat| seat.to_string());
        Ok(Page { items: self.read(op, rows.iter().map(read).collect())?, next })
    }
}
