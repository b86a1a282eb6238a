//! Subscriptions, and the topics' rows of their members.
//!
//! A subscription notes the topic with the channel first, then makes its row, then checks the record again. If the
//! channel has died meanwhile, the row is removed. If this process dies meanwhile, the channel's sweep finds the topic.

use redis::Value;
use strait_core::store::{
    Fence, Member, Page, PresenceEntry, Present, RecordPhase, StoreError, StoreErrorKind, Subscribed, Subscription,
};
use strait_core::{ChannelId, EventKind, Position, Topic};

use crate::call::Call;
use crate::due::topics_of;
use crate::error::{BACKEND, Failure};
use crate::event::{self, Foreign};
use crate::records::{parse, time};
use crate::reply::{bytes, integer, list, position, text};
use crate::scripts;
use crate::store::{Inner, milliseconds};

const INDEXED: u8 = 1;
const PRESENT: u8 = 2;

/// The rows of a subscription.
fn rows(subscription: &Subscription) -> u8 {
    (if subscription.indexed { INDEXED } else { 0 }) | (if subscription.presence.is_some() { PRESENT } else { 0 })
}

/// The answer to noting a topic with its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    Dead,
    New,
    Known { rows: u8 },
}

/// One row of a listing.
struct Row {
    number: u64,
    channel: ChannelId,
    holds: Value,
}

/// The most rows that one script reads, so that it does not block Redis for long.
const MOST_ROWS: usize = 1000;

impl Inner {
    pub(crate) async fn subscribe(&self, subscriptions: &[Subscription]) -> Result<Vec<Subscribed>, StoreError> {
        let op = "subscribe";
        let foreign = |foreign| Failure::from(foreign).store(op);
        let mut calls: Vec<Call> = subscriptions.iter().map(|subscription| self.note(subscription)).collect();
        calls.extend(subscriptions.iter().map(|subscription| self.head(&subscription.topic)));
        let mut answers = self.router.all(op, &calls).await?;
        let mut heads = Vec::new();
        for head in answers.split_off(subscriptions.len()) {
            heads.push(position(&head).map_err(foreign)?);
        }
        let mut noted = Vec::new();
        for answer in &answers {
            noted.push(match integer(answer).map_err(foreign)? {
                -1 => Noted::Dead,
                -2 => Noted::New,
                rows => Noted::Known { rows: u8::try_from(rows).map_err(|_| foreign(Foreign))? },
            });
        }
        self.change_rows(subscriptions, &mut noted, &mut heads).await?;
        let answer = |(noted, head)| match noted {
            Noted::Dead => Subscribed::Dead,
            Noted::New => Subscribed::Joined { head },
            Noted::Known { .. } => Subscribed::Already { head },
        };
        Ok(noted.into_iter().zip(heads).map(answer).collect())
    }

    fn note(&self, subscription: &Subscription) -> Call {
        let keys = self.keys.channel(&subscription.fence.id);
        Call::script(&scripts::SUBSCRIBE, keys.slot(), &[keys.record(), keys.topics()])
            .arg(subscription.fence.generation)
            .arg(subscription.topic.as_str())
            .arg(rows(subscription))
    }

    /// Changes the topics' rows to those of the subscriptions, if there are any or were any before.
    async fn change_rows(
        &self,
        subscriptions: &[Subscription],
        noted: &mut [Noted],
        heads: &mut [Position],
    ) -> Result<(), StoreError> {
        let op = "subscribe";
        let foreign = |foreign| Failure::from(foreign).store(op);
        let concerned = |at: &usize| match noted[*at] {
            Noted::Dead => false,
            Noted::New => rows(&subscriptions[*at]) != 0,
            Noted::Known { rows: before } => before != 0 || rows(&subscriptions[*at]) != 0,
        };
        let concerned: Vec<usize> = (0..subscriptions.len()).filter(concerned).collect();
        let calls: Vec<Call> = concerned.iter().map(|at| self.member(&subscriptions[*at])).collect();
        for (at, head) in concerned.iter().zip(self.router.all(op, &calls).await?) {
            heads[*at] = position(&head).map_err(foreign)?;
        }
        let again = |at: &usize| {
            let Subscription { fence, topic, .. } = &subscriptions[*at];
            let keys = self.keys.channel(&fence.id);
            Call::script(&scripts::SUBSCRIBED, keys.slot(), &[keys.record(), keys.topics()])
                .arg(fence.generation)
                .arg(topic.as_str())
                .arg(rows(&subscriptions[*at]))
        };
        let calls: Vec<Call> = concerned.iter().map(again).collect();
        let mut gone = Vec::new();
        for (at, answer) in concerned.iter().zip(self.router.all(op, &calls).await?) {
            let alive = integer(&answer).map_err(foreign)?;
            if alive < 1 {
                noted[*at] = Noted::Dead;
            }
            if alive < 0 {
                let Subscription { fence, topic, .. } = &subscriptions[*at];
                gone.push(self.member_gone(&fence.id, topic, None));
            }
        }
        self.router.all(op, &gone).await?;
        Ok(())
    }

    /// The topic's head; creates it if need be.
    pub(crate) fn head(&self, topic: &Topic) -> Call {
        let keys = self.keys.topic(topic);
        Call::script(&scripts::HEAD, keys.slot(), &[keys.meta(), keys.members()])
            .arg(self.random.epoch())
            .arg(milliseconds(self.config.topic_time))
    }

    fn member(&self, subscription: &Subscription) -> Call {
        let Subscription { fence, topic, indexed, presence } = subscription;
        let call = self.member_call(&fence.id, topic).arg(u8::from(*indexed)).arg(u8::from(presence.is_some()));
        let call = match presence {
            Some(entry) => {
                let (before, after) = shown(&fence.id, entry);
                call.arg(event::encode_entry(entry)).arg(before).arg(after)
            }
            None => call.arg(&["", "", ""]),
        };
        self.with_event(call)
    }

    /// Removes a member; with `only`, just if one of its rows has this number.
    pub(crate) fn member_gone(&self, id: &ChannelId, topic: &Topic, only: Option<u64>) -> Call {
        let call = self.with_event(self.member_call(id, topic).arg(&["0", "0", "", "", ""]));
        match only {
            Some(row) => call.arg(row),
            None => call,
        }
    }

    fn member_call(&self, id: &ChannelId, topic: &Topic) -> Call {
        let keys = self.keys.topic(topic);
        let touched = [keys.meta(), keys.log(), keys.members(), keys.present(), keys.rows()];
        Call::script(&scripts::MEMBER, keys.slot(), &touched).arg(keys.channel()).arg(id.as_str())
    }

    fn with_event(&self, call: Call) -> Call {
        call.arg(self.random.epoch()).arg(self.random.check()).arg(milliseconds(self.config.topic_time))
    }

    pub(crate) async fn unsubscribe(&self, members: &[(Fence, Topic)]) -> Result<Vec<bool>, StoreError> {
        let op = "unsubscribe";
        let call = |(fence, topic): &(Fence, Topic), rows_are_gone: u8| {
            let keys = self.keys.channel(&fence.id);
            Call::script(&scripts::UNSUBSCRIBE, keys.slot(), &[keys.record(), keys.topics()])
                .arg(fence.generation)
                .arg(topic.as_str())
                .arg(rows_are_gone)
        };
        let calls: Vec<Call> = members.iter().map(|member| call(member, 0)).collect();
        let mut left = Vec::new();
        for answer in self.router.all(op, &calls).await? {
            left.push(integer(&answer).map_err(|foreign| Failure::from(foreign).store(op))?);
        }
        let with_rows: Vec<usize> = (0..members.len()).filter(|at| left[*at] == 2).collect();
        let rows: Vec<Call> =
            with_rows.iter().map(|at| self.member_gone(&members[*at].0.id, &members[*at].1, None)).collect();
        self.router.all(op, &rows).await?;
        let calls: Vec<Call> = with_rows.iter().map(|at| call(&members[*at], 1)).collect();
        for (at, answer) in with_rows.iter().zip(self.router.all(op, &calls).await?) {
            left[*at] = integer(&answer).map_err(|foreign| Failure::from(foreign).store(op))?;
        }
        Ok(left.into_iter().map(|left| left == 1).collect())
    }

    pub(crate) async fn topics(&self, id: &ChannelId) -> Result<Vec<Topic>, StoreError> {
        let keys = self.keys.channel(id);
        let call = Call::script(&scripts::TOPICS, keys.slot(), &[keys.record(), keys.topics()]);
        let answer = self.router.one("topics", call).await?;
        topics_of(answer).map_err(|foreign| Failure::from(foreign).store("topics"))
    }

    pub(crate) async fn members(
        &self,
        topic: &Topic,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Member>, StoreError> {
        let foreign = |foreign| Failure::from(foreign).store("members");
        let (rows, next) = self.page("members", topic, cursor, limit, "m").await?;
        let ids: Vec<&ChannelId> = rows.iter().map(|row| &row.channel).collect();
        let look = |id: &&ChannelId| {
            let keys = self.keys.channel(id);
            Call::plain("HGETALL", keys.slot()).arg(keys.record())
        };
        let looks: Vec<Call> = ids.iter().map(look).collect();
        let (mut items, mut stray) = (Vec::new(), Vec::new());
        for (row, answer) in rows.iter().zip(self.router.all("members", &looks).await?) {
            match parse(&row.channel, answer).map_err(foreign)? {
                Some(record) if record.phase == RecordPhase::Dead => {}
                Some(record) => items.push(Member {
                    fence: record.fence(),
                    location: record.location,
                    joined: position(&row.holds).map_err(foreign)?,
                }),
                None => stray.push(self.member_gone(&row.channel, topic, Some(row.number))),
            }
        }
        self.router.all("members", &stray).await?;
        Ok(Page { items, next })
    }

    pub(crate) async fn presence(
        &self,
        topic: &Topic,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Present>, StoreError> {
        let (rows, next) = self.page("presence", topic, cursor, limit, "p").await?;
        let look = |row: &Row| {
            let keys = self.keys.channel(&row.channel);
            Call::plain("HGET", keys.slot()).arg(keys.record()).arg("p")
        };
        let looks: Vec<Call> = rows.iter().map(look).collect();
        let (mut items, mut stray) = (Vec::new(), Vec::new());
        for (row, phase) in rows.into_iter().zip(self.router.all("presence", &looks).await?) {
            match phase {
                Value::Nil => stray.push(self.member_gone(&row.channel, topic, Some(row.number))),
                phase if phase == Value::BulkString(b"x".to_vec()) => {}
                _ => items.push(present(row).map_err(|foreign| Failure::from(foreign).store("presence"))?),
            }
        }
        self.router.all("presence", &stray).await?;
        Ok(Page { items, next })
    }

    /// One page of rows, and the start of the next one.
    async fn page(
        &self,
        op: &'static str,
        topic: &Topic,
        cursor: Option<&str>,
        limit: usize,
        kind: &'static str,
    ) -> Result<(Vec<Row>, Option<String>), StoreError> {
        let refused = |_| StoreError::new(StoreErrorKind::Conflict, BACKEND, op).because("the cursor is of no page");
        let after: u64 = cursor.map_or(Ok(0), str::parse).map_err(refused)?;
        let (keys, limit) = (self.keys.topic(topic), limit.min(MOST_ROWS));
        let listed = if kind == "m" { keys.members() } else { keys.present() };
        let call = Call::script(&scripts::PAGE, keys.slot(), &[listed, keys.rows()]).arg(after).arg(limit).arg(kind);
        let answer = self.router.one(op, call).await?;
        let rows = page_rows(answer).map_err(|foreign| Failure::from(foreign).store(op))?;
        let next = (rows.len() == limit).then(|| rows.last().map(|row| row.number.to_string())).flatten();
        Ok((rows, next))
    }
}

fn page_rows(answer: Value) -> Result<Vec<Row>, Foreign> {
    let mut answer = list(answer)?.into_iter();
    let mut rows = Vec::new();
    while let Some(number) = answer.next() {
        let channel = answer.next().ok_or(Foreign)?;
        rows.push(Row {
            number: u64::try_from(integer(&number)?).map_err(|_| Foreign)?,
            channel: ChannelId::new(text(&channel)?).map_err(|_| Foreign)?,
            holds: answer.next().ok_or(Foreign)?,
        });
    }
    Ok(rows)
}

/// Parses `since`, the length of the entry, the entry, and the part of it that events show.
fn present(row: Row) -> Result<Present, Foreign> {
    let mut holds = bytes(row.holds)?;
    let mut number = || {
        let end = holds.iter().position(|byte| *byte == b' ').ok_or(Foreign)?;
        let digits = holds.split_to(end + 1);
        std::str::from_utf8(&digits[..end]).ok().and_then(|digits| digits.parse::<u64>().ok()).ok_or(Foreign)
    };
    let (since, length) = (number()?, number()?);
    let length = usize::try_from(length).ok().filter(|length| *length <= holds.len()).ok_or(Foreign)?;
    let entry = event::decode_entry(holds.split_to(length))?;
    Ok(Present { channel: row.channel, entry, since: time(since) })
}

/// The join event's text before and after its time, which only Redis knows.
fn shown(channel: &ChannelId, entry: &PresenceEntry) -> (Vec<u8>, Vec<u8>) {
    let present = Present { channel: channel.clone(), entry: entry.clone(), since: std::time::UNIX_EPOCH };
    let event = present.event(EventKind::Join);
    let json = event.payload.bytes();
    // The first match is the member: inside a string the quotes would be escaped, and the data come later.
    let member = br#""since":0"#;
    let at = json.windows(member.len()).position(|window| window == member);
    let at = at.expect("an event of presence has its time") + member.len() - 1;
    (json[..at].to_vec(), json[at + 1..].to_vec())
}
