//! The records of channels, and nodes' leases.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis::Value;
use strait_core::store::{
    Attach, AttachAs, Attached, Detached, Fence, Lease, LeaseTerm, Location, Lock, NewChannel, Opened, Patch, Record,
    RecordPhase, StoreError, StoredSession, TokenHash, Versioned, Written,
};
use strait_core::{ChannelId, NodeId, UserId};

use crate::call::Call;
use crate::error::{Failure, conflict};
use crate::event::Foreign;
use crate::links::{Reserve, Reserved};
use crate::place;
use crate::reply::{integer, list, text};
use crate::scripts;
use crate::store::{Inner, milliseconds};

impl Inner {
    /// Stores the record first, then its location if that is noted: after an interruption the record leads to the rest.
    pub(crate) async fn open(&self, new: &NewChannel) -> Result<Opened, StoreError> {
        let keys = self.keys.channel(&new.id);
        let location = place::encode(&new.location);
        let touched = [keys.record(), keys.partition().connected(), keys.partition().due()];
        let mut call = Call::script(&scripts::OPEN, keys.slot(), &touched)
            .arg(new.id.as_str())
            .arg(&location)
            .arg(new.location.node().map_or("", NodeId::as_str));
        call = match new.due {
            Some(time) => call.arg(milliseconds(time)),
            None => call.arg(""),
        };
        call = call.arg(("e", &*new.endpoint)).arg(("o", &*new.opening));
        if let Some(session) = &new.session {
            call = call.arg(("uv", 1)).arg(("ui", session.user.as_str())).arg(("us", &*session.value));
        }
        if let Some(grace) = new.grace {
            call = call.arg(("r", milliseconds(grace)));
        }
        if let Some(token) = new.token {
            call = call.arg(("k", &token.0[..]));
        }
        let answer = self.router.one("open", call).await?;
        let read = || match <[Value; 2]>::try_from(list(answer)?).map_err(|_| Foreign)? {
            [created, record] => Ok((integer(&created)? == 1, parse(&new.id, record)?.ok_or(Foreign)?)),
        };
        let (created, record) = read().map_err(|foreign: Foreign| Failure::from(foreign).store("open"))?;
        if record.location != new.location {
            return Err(conflict("open", "the id is in use at another location, choose a new one"));
        }
        if new.location.node().is_some() {
            return Ok(Opened { record, created });
        }
        let reserve = Reserve { location: &new.location, id: &new.id, time: None };
        match self.reserve("open", reserve).await? {
            Reserved::New | Reserved::Before => Ok(Opened { record, created }),
            Reserved::Taken => {
                if created {
                    let undo = Call::script(&scripts::UNDO_OPEN, keys.slot(), &touched);
                    self.router.one("open", undo.arg(new.id.as_str()).arg(&location)).await?;
                }
                Err(conflict("open", "the location belongs to another channel, give the connection a new id"))
            }
        }
    }

    pub(crate) async fn get(&self, id: &ChannelId) -> Result<Option<Record>, StoreError> {
        let keys = self.keys.channel(id);
        let answer = self.router.one("get", Call::plain("HGETALL", keys.slot()).arg(keys.record())).await?;
        parse(id, answer).map_err(|foreign| Failure::from(foreign).store("get"))
    }

    pub(crate) async fn find(&self, location: &Location) -> Result<Option<Record>, StoreError> {
        let Some(id) = self.at(location).await? else { return Ok(None) };
        let record = self.get(&id).await?;
        Ok(record.filter(|record| record.location == *location))
    }

    pub(crate) async fn attach(&self, id: &ChannelId, attach: &Attach) -> Result<Attached, StoreError> {
        let location = place::encode(&attach.location);
        let noted = attach.location.node().is_none();
        // For a time only: after an interruption the location becomes free again.
        let reserve = Reserve { location: &attach.location, id, time: Some(Duration::from_secs(60)) };
        let reserved = if noted { self.reserve("attach", reserve).await? } else { Reserved::Before };
        if reserved == Reserved::Taken {
            return Err(conflict("attach", "the location belongs to another channel, give the connection a new id"));
        }
        let keys = self.keys.channel(id);
        let touched = [keys.record(), keys.partition().connected(), keys.partition().due()];
        let call = Call::script(&scripts::ATTACH, keys.slot(), &touched)
            .arg(id.as_str())
            .arg(&location)
            .arg(attach.location.node().map_or("", NodeId::as_str))
            .arg(attach.next_token.as_ref().map_or(&[][..], |token| &token.0[..]))
            .once();
        let call = match &attach.by {
            AttachAs::Token(TokenHash(token)) => call.arg(("t", &token[..])),
            AttachAs::Holder { generation } => call.arg(("h", *generation)),
        };
        let answer = self.router.one("attach", call).await?;
        let read = |answer| {
            let mut answer = list(answer)?.into_iter();
            let (Some(displaced), Some(record)) = (answer.next(), answer.next()) else { return Ok(None) };
            let displaced = match text(&displaced)? {
                "" => None,
                location => Some(place::decode(location).ok_or(Foreign)?),
            };
            let left: Result<Vec<String>, Foreign> = answer.map(|left| Ok(text(&left)?.to_owned())).collect();
            Ok(Some((displaced, parse(id, record)?.ok_or(Foreign)?, left?)))
        };
        let attached = read(answer).map_err(|foreign: Foreign| Failure::from(foreign).store("attach"))?;
        let Some((displaced, record, left)) = attached else {
            if reserved == Reserved::New {
                self.vacate("attach", id, &[location]).await?;
            }
            return Ok(Attached::Refused);
        };
        if noted {
            self.reserve("attach", Reserve { time: None, ..reserve }).await?;
        }
        self.vacate("attach", id, &left).await?;
        Ok(Attached::Attached { record: Box::new(record), displaced })
    }

    pub(crate) async fn detach(&self, fence: &Fence, grace: Duration) -> Result<Detached, StoreError> {
        let keys = self.keys.channel(&fence.id);
        let touched = [keys.record(), keys.partition().connected(), keys.partition().due()];
        let call = Call::script(&scripts::DETACH, keys.slot(), &touched)
            .arg(fence.id.as_str())
            .arg(fence.generation)
            .arg(milliseconds(grace));
        let done = self.count("detach", call).await?;
        Ok(if done == 1 { Detached::Done } else { Detached::Stale })
    }

    pub(crate) async fn write(&self, fence: &Fence, patch: &Patch) -> Result<Written, StoreError> {
        let keys = self.keys.channel(&fence.id);
        let mut call = Call::script(&scripts::WRITE, keys.slot(), &[keys.record()])
            .arg(fence.generation)
            .arg(u8::from(patch.opened))
            .arg(u8::from(patch.token_confirmed));
        call = match &patch.state {
            Some(change) => call
                .arg(change.expected)
                .arg(u8::from(change.value.is_some()))
                .arg(change.value.as_deref().unwrap_or_default()),
            None => call.arg(&["", "", ""]),
        };
        call = match &patch.session {
            Some(change) => {
                let session = change.value.as_ref();
                call.arg(change.expected)
                    .arg(u8::from(session.is_some()))
                    .arg(session.map_or("", |session| session.user.as_str()))
                    .arg(session.map_or(&[][..], |session| &session.value[..]))
            }
            None => call.arg(&["", "", "", ""]),
        };
        // A second attempt would find the versions of the first.
        match self.router.one("write", call.once()).await? {
            Value::Int(0) => Ok(Written::Stale),
            Value::Int(_) => Ok(Written::Done),
            record => {
                let record = parse(&fence.id, record).and_then(|record| record.ok_or(Foreign));
                let record = record.map_err(|foreign| Failure::from(foreign).store("write"))?;
                Ok(Written::Conflict(Box::new(record)))
            }
        }
    }

    pub(crate) async fn lock(&self, id: &ChannelId, ttl: Duration) -> Result<Option<Lock>, StoreError> {
        let keys = self.keys.channel(id);
        let token = self.random.next();
        let call = Call::script(&scripts::LOCK, keys.slot(), &[keys.record(), keys.lock()])
            .arg(token)
            .arg(milliseconds(ttl))
            .once();
        let locked = self.count("lock", call).await?;
        Ok((locked == 1).then(|| Lock { id: id.clone(), token }))
    }

    pub(crate) async fn unlock(&self, lock: &Lock) -> Result<bool, StoreError> {
        let keys = self.keys.channel(&lock.id);
        let call = Call::script(&scripts::UNLOCK, keys.slot(), &[keys.lock()]).arg(lock.token).once();
        Ok(self.count("unlock", call).await? == 1)
    }

    pub(crate) async fn lease(&self, node: &NodeId, term: LeaseTerm, ttl: Duration) -> Result<Lease, StoreError> {
        let keys = self.keys.node(node);
        let mut call = Call::plain("SET", keys.slot()).arg(keys.lease()).arg(1);
        if term == LeaseTerm::Renew {
            call = call.arg("XX");
        }
        let answer = self.router.one("lease", call.arg("PX").arg(milliseconds(ttl))).await?;
        Ok(if answer == Value::Nil { Lease::Lost } else { Lease::Held })
    }

    pub(crate) async fn release(&self, node: &NodeId) -> Result<(), StoreError> {
        let keys = self.keys.node(node);
        self.router.one("release", Call::plain("DEL", keys.slot()).arg(keys.lease())).await?;
        Ok(())
    }

    /// Makes a call with a number for an answer.
    pub(crate) async fn count(&self, op: &'static str, call: Call) -> Result<i64, StoreError> {
        let answer = self.router.one(op, call).await?;
        integer(&answer).map_err(|foreign| Failure::from(foreign).store(op))
    }
}

/// The record in a hash; `None` for an empty one. In scripts' answers the hash is a list, in HGETALL's a map.
pub(crate) fn parse(id: &ChannelId, hash: Value) -> Result<Option<Record>, Foreign> {
    let mut fields = HashMap::new();
    for (name, value) in hash.into_map_iter().map_err(|_| Foreign)? {
        let (Value::BulkString(name), Value::BulkString(value)) = (name, value) else { return Err(Foreign) };
        fields.insert(name, value);
    }
    if fields.is_empty() {
        return Ok(None);
    }
    let mut fields = Fields(fields);
    let phase = match fields.text("p")?.as_str() {
        "o" => RecordPhase::Opening,
        "O" => RecordPhase::Open,
        "d" => RecordPhase::Detached { until: time(fields.number("u")?.ok_or(Foreign)?) },
        "x" => RecordPhase::Dead,
        _ => return Err(Foreign),
    };
    let user = fields.0.remove(&b"ui"[..]).map(|user| String::from_utf8(user).map_err(|_| Foreign)).transpose()?;
    let session = match (user, fields.bytes("us")) {
        (Some(user), Some(value)) => Some(StoredSession { user: UserId::new(user).map_err(|_| Foreign)?, value }),
        _ => None,
    };
    Ok(Some(Record {
        id: id.clone(),
        endpoint: Arc::from(fields.text("e")?),
        generation: fields.number("g")?.ok_or(Foreign)?,
        phase,
        location: place::decode(&fields.text("l")?).ok_or(Foreign)?,
        opening: fields.bytes("o").ok_or(Foreign)?,
        state: Versioned { version: fields.number("sv")?.unwrap_or(0), value: fields.bytes("s") },
        session: Versioned { version: fields.number("uv")?.unwrap_or(0), value: session },
        grace: fields.number("r")?.map(Duration::from_millis),
        opened_at: time(fields.number("t")?.ok_or(Foreign)?),
    }))
}

struct Fields(HashMap<Vec<u8>, Vec<u8>>);

impl Fields {
    fn bytes(&mut self, name: &str) -> Option<Bytes> {
        self.0.remove(name.as_bytes()).map(Bytes::from)
    }

    fn text(&mut self, name: &str) -> Result<String, Foreign> {
        String::from_utf8(self.0.remove(name.as_bytes()).ok_or(Foreign)?).map_err(|_| Foreign)
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, Foreign> {
        let Some(value) = self.0.remove(name.as_bytes()) else { return Ok(None) };
        let number = std::str::from_utf8(&value).ok().and_then(|value| value.parse().ok());
        number.map(Some).ok_or(Foreign)
    }
}

/// Milliseconds since 1970.
pub(crate) fn time(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds)
}
