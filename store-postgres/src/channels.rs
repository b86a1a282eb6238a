//! Records of channels.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use strait_core::store::{
    Attach, AttachAs, Attached, ChannelStore, Claim, Detached, Fence, Lease, LeaseTerm, Location, Lock, NewChannel,
    Opened, Page, Patch, Record, Served, StoreError, StoreErrorKind, Written,
};
use strait_core::{ChannelId, NodeId, Topic};

use crate::database::{Lane, Values};
use crate::error::error;
use crate::store::PostgresStore;
use crate::values::{Read, fences, get, location, millis, name, number, parts, record, unsigned};

const TAKEN: &str = "the location belongs to another channel, give the connection a new id";

fn claim(row: &PgRow) -> Read<Claim> {
    let record = record(row)?;
    let topics = get::<Vec<String>>(row, "topics")?.into_iter().map(name::<Topic>).collect::<Read<_>>()?;
    Ok(Claim { fence: record.fence(), record, topics })
}

fn displaced(row: &PgRow) -> Read<Option<Location>> {
    let Some(gateway) = get::<Option<bool>>(row, "o_displaced_gateway")? else { return Ok(None) };
    location(gateway, get(row, "o_displaced_place")?, get(row, "o_displaced_connection")?).map(Some)
}

/// Turns a unique violation into the error for a location in use.
fn say_taken(failure: StoreError) -> StoreError {
    match failure.kind {
        StoreErrorKind::Conflict => error(StoreErrorKind::Conflict, failure.op, TAKEN),
        _ => failure,
    }
}

#[async_trait]
impl ChannelStore for PostgresStore {
    async fn open(&self, new: NewChannel) -> Result<Opened, StoreError> {
        let (gateway, place, connection) = parts(&new.location);
        let values = Values::new()
            .with(new.id.as_str())
            .with(&*new.endpoint)
            .with(gateway)
            .with(place)
            .with(connection)
            .with(&new.opening[..])
            .with(new.session.as_ref().map(|session| session.user.as_str()))
            .with(new.session.as_ref().map(|session| &session.value[..]))
            .with(new.grace.map(millis))
            .with(new.token.map(|token| token.0.to_vec()))
            .with(new.due.map(millis));
        let row = match self.one("open", Lane::Work, &self.inner.sql.open, values).await {
            Ok(row) => row,
            // Of two concurrent calls for one channel, the second may meet the location before the id.
            Err(failure) if failure.kind == StoreErrorKind::Conflict => match self.get(&new.id).await? {
                Some(record) if record.location == new.location => return Ok(Opened { record, created: false }),
                _ => return Err(say_taken(failure)),
            },
            Err(failure) => return Err(failure),
        };
        let status = self.read("open", get::<i16>(&row, "o_status"))?;
        if status == 2 {
            let source = "the id is in use at another location, choose a new one";
            return Err(error(StoreErrorKind::Conflict, "open", source));
        }
        Ok(Opened { record: self.read("open", record(&row))?, created: status == 0 })
    }

    async fn get(&self, id: &ChannelId) -> Result<Option<Record>, StoreError> {
        let rows = self.rows("get", Lane::Work, &self.inner.sql.get, Values::new().with(id.as_str())).await?;
        self.read("get", rows.first().map(record).transpose())
    }

    async fn find(&self, location: &Location) -> Result<Option<Record>, StoreError> {
        let (gateway, place, connection) = parts(location);
        let values = Values::new().with(place).with(connection).with(gateway);
        let rows = self.rows("find", Lane::Work, &self.inner.sql.find, values).await?;
        self.read("find", rows.first().map(record).transpose())
    }

    async fn attach(&self, id: &ChannelId, attach: Attach) -> Result<Attached, StoreError> {
        let (token, generation) = match attach.by {
            AttachAs::Token(token) => (Some(token.0.to_vec()), None),
            AttachAs::Holder { generation } => (None, Some(number(generation))),
        };
        let (gateway, place, connection) = parts(&attach.location);
        let values = Values::new()
            .with(id.as_str())
            .with(token)
            .with(generation)
            .with(gateway)
            .with(place)
            .with(connection)
            .with(attach.next_token.map(|token| token.0.to_vec()));
        let row = self.one("attach", Lane::Work, &self.inner.sql.attach, values).await.map_err(say_taken)?;
        let attached = || match get::<i16>(&row, "o_status")? {
            0 => Ok(Attached::Attached { record: Box::new(record(&row)?), displaced: displaced(&row)? }),
            _ => Ok(Attached::Refused),
        };
        self.read("attach", attached())
    }

    async fn detach(&self, fence: &Fence, grace: Duration) -> Result<Detached, StoreError> {
        let done = self.fenced("detach", &self.inner.sql.detach, fence, grace).await?;
        Ok(if done { Detached::Done } else { Detached::Stale })
    }

    async fn write(&self, fence: &Fence, patch: Patch) -> Result<Written, StoreError> {
        let session = patch.session.as_ref();
        let user = session.and_then(|change| change.value.as_ref());
        let values = Values::new()
            .with(fence.id.as_str())
            .with(number(fence.generation))
            .with(patch.opened)
            .with(patch.token_confirmed)
            .with(patch.state.as_ref().map(|change| number(change.expected)))
            .with(patch.state.as_ref().and_then(|change| change.value.as_deref()))
            .with(session.map(|change| number(change.expected)))
            .with(user.map(|session| session.user.as_str()))
            .with(user.map(|session| &session.value[..]));
        let row = self.one("write", Lane::Work, &self.inner.sql.write, values).await?;
        let written = || match get::<i16>(&row, "o_status")? {
            0 => Ok(Written::Done),
            1 => Ok(Written::Conflict(Box::new(record(&row)?))),
            _ => Ok(Written::Stale),
        };
        self.read("write", written())
    }

    async fn lock(&self, id: &ChannelId, _by: &NodeId, ttl: Duration) -> Result<Option<Lock>, StoreError> {
        let values = Values::new().with(id.as_str()).with(millis(ttl));
        let rows = self.rows("lock", Lane::Work, &self.inner.sql.lock, values).await?;
        let token = self.read("lock", rows.first().map(|row| unsigned(row, "lock_token")).transpose())?;
        Ok(token.map(|token| Lock { id: id.clone(), token }))
    }

    async fn unlock(&self, lock: &Lock) -> Result<bool, StoreError> {
        let values = Values::new().with(lock.id.as_str()).with(number(lock.token));
        Ok(!self.rows("unlock", Lane::Work, &self.inner.sql.unlock, values).await?.is_empty())
    }

    async fn claim(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        let values =
            Values::new().with(fence.id.as_str()).with(number(fence.generation)).with(by.as_str()).with(millis(ttl));
        let rows = self.rows("claim", Lane::Work, &self.inner.sql.claim, values).await?;
        self.read("claim", rows.first().map(claim).transpose())
    }

    async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError> {
        self.fenced("renew", &self.inner.sql.renew, &claim.fence, ttl).await
    }

    async fn remove(&self, claims: &[Claim]) -> Result<(), StoreError> {
        if claims.is_empty() {
            return Ok(());
        }
        let (ids, generations) = fences(claims.iter().map(|claim| &claim.fence));
        let values = Values::new().with(ids).with(generations).with(self.inner.nodes.numbers());
        let row = self.one("remove", Lane::Work, &self.inner.sql.remove, values).await?;
        let wake = self.read("remove", get::<bool>(&row, "remove_channels"))?;
        self.inner.wake(wake, claims.iter().flat_map(|claim| &claim.topics));
        Ok(())
    }

    async fn lease(&self, node: &NodeId, term: LeaseTerm, ttl: Duration) -> Result<Lease, StoreError> {
        let sql = match term {
            LeaseTerm::Acquire => &self.inner.sql.acquire_lease,
            LeaseTerm::Renew => &self.inner.sql.renew_lease,
        };
        let values = Values::new().with(node.as_str()).with(millis(ttl));
        let held = !self.rows("lease", Lane::Vital, sql, values).await?.is_empty();
        Ok(if held { Lease::Held } else { Lease::Lost })
    }

    async fn release(&self, node: &NodeId) -> Result<(), StoreError> {
        let values = Values::new().with(node.as_str());
        self.rows("release", Lane::Vital, &self.inner.sql.release, values).await.map(drop)
    }

    async fn claim_due_of(
        &self,
        _by: &NodeId,
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let names = |served: &Served<'_>| served.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>();
        let values = Values::new()
            .with(number(limit as u64))
            .with(millis(ttl))
            .with(served.map(names))
            .with(served.map(|served| millis(served.patience)));
        let rows = self.rows("claim_due", Lane::Work, &self.inner.sql.claim_due, values).await?;
        // An unreadable row must not keep the other channels from their claims.
        let unreadable = |error: &sqlx::Error| tracing::error!(error = %error, "a channel that is due cannot be read");
        let claims: Vec<_> = rows.iter().filter_map(|row| claim(row).inspect_err(unreadable).ok()).collect();
        // A node of this process sweeps by itself. Without one, sweep here; no claim waits for the sweep or fails with
        // it.
        if claims.len() < limit
            && self.inner.nodes.numbers().is_empty()
            && let Err(error) = self.sweep().await
        {
            tracing::debug!(error = %error.in_full(), "the store could not be swept, trying again");
        }
        Ok(claims)
    }

    async fn connected(
        &self,
        node: &NodeId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<ChannelId>, StoreError> {
        let limit = limit.max(1);
        let values = Values::new().with(node.as_str()).with(cursor.unwrap_or_default()).with(number(limit as u64));
        let rows = self.rows("connected", Lane::Work, &self.inner.sql.connected, values).await?;
        let id = |row: &PgRow| name::<ChannelId>(get(row, "id")?);
        let items: Vec<ChannelId> = self.read("connected", rows.iter().map(id).collect())?;
        let next = if items.len() == limit { items.last().map(ToString::to_string) } else { None };
        Ok(Page { items, next })
    }
}

impl PostgresStore {
    /// Runs a statement for a fence and a time; returns whether it found its row.
    async fn fenced(
        &self,
        op: &'static str,
        sql: &sqlx::SqlStr,
        fence: &Fence,
        time: Duration,
    ) -> Result<bool, StoreError> {
        let values = Values::new().with(fence.id.as_str()).with(number(fence.generation)).with(millis(time));
        Ok(!self.rows(op, Lane::Work, sql, values).await?.is_empty())
    }
}
