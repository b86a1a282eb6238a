//! The end of channels: claims, the sweep, and the channels of dead nodes.

use std::collections::HashSet;
use std::time::Duration;

use redis::Value;
use strait_core::store::{Claim, Fence, Page, Served, StoreError};
use strait_core::{ChannelId, NodeId, Topic};

use crate::call::Call;
use crate::error::{Failure, conflict};
use crate::event::Foreign;
use crate::keys::CHANNELS;
use crate::records::parse;
use crate::reply::{integer, list, text};
use crate::scripts;
use crate::store::{Inner, milliseconds};

/// One call checks at least this many channels of dead nodes.
const ORPHANS_AT_ONCE: usize = 256;

/// The right to claim a channel.
enum By<'a> {
    Fence(u64, &'a NodeId),
    /// Its grace or its claim has expired.
    Due,
    /// Its node has died while it had this generation.
    Orphan(u64, &'a NodeId),
}

/// A channel of a node that seems dead.
struct Orphan {
    id: ChannelId,
    node: NodeId,
    generation: u64,
}

impl Inner {
    pub(crate) async fn claim(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        let call = self.claim_call(&fence.id, &By::Fence(fence.generation, by), None, ttl);
        let answer = self.router.one("claim", call).await?;
        claimed(&fence.id, answer).map_err(|foreign| Failure::from(foreign).store("claim"))
    }

    fn claim_call(&self, id: &ChannelId, by: &By<'_>, served: Option<&Served<'_>>, ttl: Duration) -> Call {
        let keys = self.keys.channel(id);
        let touched = [keys.record(), keys.partition().connected(), keys.partition().due(), keys.topics()];
        let call = Call::script(&scripts::CLAIM, keys.slot(), &touched).arg(id.as_str()).arg(milliseconds(ttl));
        let call = match by {
            By::Fence(generation, by) => call.arg("fence").arg(*generation).arg(by.as_str()),
            By::Due => call.arg(&["due", "", ""]),
            By::Orphan(generation, node) => call.arg("orphan").arg(*generation).arg(node.as_str()),
        };
        let Some(served) = served else { return call };
        served.endpoints.iter().fold(call.arg(milliseconds(served.patience)), |call, endpoint| call.arg(&**endpoint))
    }

    pub(crate) async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError> {
        let keys = self.keys.channel(&claim.fence.id);
        let call = Call::script(&scripts::RENEW, keys.slot(), &[keys.record(), keys.partition().due()])
            .arg(claim.fence.id.as_str())
            .arg(claim.fence.generation)
            .arg(milliseconds(ttl));
        Ok(self.count("renew", call).await? == 1)
    }

    /// Removes rows first, then the locations, the record last: after an interruption the record still leads to the
    /// rest.
    pub(crate) async fn remove(&self, claims: &[Claim]) -> Result<(), StoreError> {
        let look = |claim: &Claim| {
            let keys = self.keys.channel(&claim.fence.id);
            Call::script(&scripts::SWEEP, keys.slot(), &[keys.record(), keys.topics()]).arg(claim.fence.generation)
        };
        let looks: Vec<Call> = claims.iter().map(look).collect();
        let found = self.router.all("remove", &looks).await?;
        let (mut rows, mut held) = (Vec::new(), Vec::new());
        for (claim, found) in claims.iter().zip(found) {
            let left = left(found).map_err(|foreign| Failure::from(foreign).store("remove"))?;
            let Some((places, topics)) = left else { continue };
            rows.extend(topics.iter().map(|topic| self.member_gone(&claim.fence.id, topic, None)));
            held.push((claim, places));
        }
        self.router.all("remove", &rows).await?;
        for (claim, places) in &held {
            self.vacate("remove", &claim.fence.id, places).await?;
        }
        let remove = |(claim, _): &(&Claim, Vec<String>)| {
            let keys = self.keys.channel(&claim.fence.id);
            let (inbox, due) = ([keys.inbox(), keys.inbox_log(), keys.lock()], keys.partition().due());
            let mut touched = vec![keys.record(), keys.topics()];
            touched.extend(inbox);
            touched.push(due);
            Call::script(&scripts::REMOVE, keys.slot(), &touched)
                .arg(claim.fence.id.as_str())
                .arg(claim.fence.generation)
        };
        let removes: Vec<Call> = held.iter().map(remove).collect();
        self.router.all("remove", &removes).await?;
        Ok(())
    }

    pub(crate) async fn claim_due(
        &self,
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        // Concurrent sweeps begin at different partitions.
        let first = (self.random.next() % u64::from(CHANNELS)) as u16;
        let mut open: Vec<(u16, String)> = (0..CHANNELS).map(|n| ((first + n) % CHANNELS, String::new())).collect();
        let (mut due, mut places) = (Vec::new(), Vec::new());
        while !open.is_empty() {
            let look = |(partition, after): &(u16, String)| {
                let keys = self.keys.channels(*partition);
                let due = if after.is_empty() { limit } else { 0 };
                let call = Call::script(&scripts::LOOK, keys.slot(), &[keys.connected(), keys.due()]);
                call.arg(due).arg(&after[..]).arg(self.random.check())
            };
            let looks: Vec<Call> = open.iter().map(look).collect();
            let answers = self.router.all("claim_due", &looks).await?;
            for ((partition, after), answer) in std::mem::take(&mut open).into_iter().zip(answers) {
                let (ids, nodes, last) = looked(answer).map_err(|foreign| Failure::from(foreign).store("claim_due"))?;
                due.extend(ids);
                places.extend(nodes.into_iter().map(|node| (node, partition)));
                // A partition with many nodes takes several calls.
                if !last.is_empty() && last != after {
                    open.push((partition, last));
                }
            }
        }
        // Some are left to other nodes: those do not count.
        let (mut claims, mut rest) = (Vec::new(), &due[..]);
        while claims.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(limit - claims.len()));
            claims.extend(self.claim_each(now.iter().map(|id| (id, By::Due)), served, ttl).await?);
            rest = later;
        }
        let dead = self.without_lease(places.iter().map(|(node, _)| node)).await?;
        places.retain(|(node, _)| dead.contains(node));
        if claims.len() < limit && !places.is_empty() {
            self.claim_orphans(&places, served, limit, ttl, &mut claims).await?;
        }
        Ok(claims)
    }

    /// Lists channels of dead nodes, then checks the leases again, then claims the unchanged channels. A node that came
    /// back before the second check keeps its channels. A node that came back later has given them a new generation, or
    /// finds them taken.
    async fn claim_orphans(
        &self,
        places: &[(NodeId, u16)],
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
        claims: &mut Vec<Claim>,
    ) -> Result<(), StoreError> {
        let mut orphans = self.orphans(places, ORPHANS_AT_ONCE.max(limit)).await?;
        let dead = self.without_lease(orphans.iter().map(|orphan| &orphan.node)).await?;
        orphans.retain(|orphan| dead.contains(&orphan.node));
        // Some are only detached, or left to other nodes: those do not count.
        let mut rest = &orphans[..];
        while claims.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(limit - claims.len()));
            let each = now.iter().map(|orphan| (&orphan.id, By::Orphan(orphan.generation, &orphan.node)));
            claims.extend(self.claim_each(each, served, ttl).await?);
            rest = later;
        }
        Ok(())
    }

    /// One page, which is of one partition; the cursor holds the partition's number and the last channel.
    pub(crate) async fn connected(
        &self,
        node: &NodeId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<ChannelId>, StoreError> {
        let (partition, after) = match cursor {
            None => (0, ""),
            Some(cursor) => place_of(cursor).ok_or_else(|| conflict("connected", "the cursor is of no page"))?,
        };
        let limit = limit.max(1);
        let members = self.router.one("connected", self.list(node, partition, after, limit)).await?;
        let items = connected(members).map_err(|foreign| Failure::from(foreign).store("connected"))?;
        let next = match items.last() {
            Some(last) if items.len() == limit => Some(format!("{partition}:{last}")),
            _ => Some(partition + 1).filter(|next| *next < CHANNELS).map(|next| format!("{next}:")),
        };
        Ok(Page { items, next })
    }

    /// Lists the channels of a partition that are connected to a node, after one of them, or from the first one on.
    fn list(&self, node: &NodeId, partition: u16, after: &str, limit: usize) -> Call {
        let keys = self.keys.channels(partition);
        // Names hold no control characters.
        let (from, to) = (format!("({node}\0{after}"), format!("({node}\u{1}"));
        let call = Call::plain("ZRANGE", keys.slot()).arg(keys.connected()).arg(from).arg(to);
        call.arg("BYLEX").arg("LIMIT").arg(0).arg(limit)
    }

    async fn claim_each<'a>(
        &self,
        channels: impl Iterator<Item = (&'a ChannelId, By<'a>)>,
        served: Option<&Served<'_>>,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let (ids, calls): (Vec<_>, Vec<_>) =
            channels.map(|(id, by)| (id, self.claim_call(id, &by, served, ttl).once())).unzip();
        let (mut claims, mut failures) = (Vec::new(), Vec::new());
        for (id, answer) in ids.into_iter().zip(self.router.run("claim_due", &calls).await) {
            // Return the claims that were made, even if other calls failed: the other channels come again.
            match answer {
                Ok(answer) => {
                    claims.extend(claimed(id, answer).map_err(|foreign| Failure::from(foreign).store("claim_due"))?);
                }
                Err(error) => failures.push(error),
            }
        }
        if let Some(error) = failures.first() {
            let count = failures.len();
            tracing::warn!(count, error = %error.in_full(), "channels that are due could not be claimed");
        }
        Ok(claims)
    }

    async fn without_lease<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) -> Result<HashSet<NodeId>, StoreError> {
        let nodes: HashSet<&NodeId> = nodes.collect();
        let look = |node: &&NodeId| {
            let keys = self.keys.node(node);
            Call::plain("EXISTS", keys.slot()).arg(keys.lease())
        };
        let looks: Vec<Call> = nodes.iter().map(look).collect();
        let leases = self.router.all("claim_due", &looks).await?;
        let dead = nodes.into_iter().zip(leases).filter(|(_, lease)| *lease == Value::Int(0));
        Ok(dead.map(|(node, _)| node.clone()).collect())
    }

    async fn orphans(&self, places: &[(NodeId, u16)], limit: usize) -> Result<Vec<Orphan>, StoreError> {
        let lists: Vec<Call> = places.iter().map(|(node, partition)| self.list(node, *partition, "", limit)).collect();
        let mut found = Vec::new();
        for ((node, _), members) in places.iter().zip(self.router.all("claim_due", &lists).await?) {
            let ids = connected(members).map_err(|foreign| Failure::from(foreign).store("claim_due"))?;
            found.extend(ids.into_iter().map(|id| (id, node.clone())));
        }
        found.truncate(limit);
        let look = |(id, _): &(ChannelId, NodeId)| {
            let keys = self.keys.channel(id);
            Call::plain("HGET", keys.slot()).arg(keys.record()).arg("g")
        };
        let looks: Vec<Call> = found.iter().map(look).collect();
        let generations = self.router.all("claim_due", &looks).await?;
        let orphan = |((id, node), generation): (_, Value)| {
            // A row without a record is claimed too, and so removed.
            let generation = integer(&generation).ok().and_then(|generation| u64::try_from(generation).ok());
            Orphan { id, node, generation: generation.unwrap_or(0) }
        };
        Ok(found.into_iter().zip(generations).map(orphan).collect())
    }
}

/// The partition and the channel of a cursor.
fn place_of(cursor: &str) -> Option<(u16, &str)> {
    let (partition, after) = cursor.split_once(':')?;
    let partition = partition.parse().ok().filter(|partition| *partition < CHANNELS)?;
    Some((partition, after))
}

fn claimed(id: &ChannelId, answer: Value) -> Result<Option<Claim>, Foreign> {
    let mut answer = list(answer)?.into_iter();
    let (Some(record), Some(topics)) = (answer.next(), answer.next()) else { return Ok(None) };
    let record = parse(id, record)?.ok_or(Foreign)?;
    Ok(Some(Claim { fence: record.fence(), record, topics: topics_of(topics)? }))
}

pub(crate) fn topics_of(names: Value) -> Result<Vec<Topic>, Foreign> {
    list(names)?.iter().map(|name| Topic::new(text(name)?).map_err(|_| Foreign)).collect()
}

/// The locations of a channel that is to be removed, and the topics with its rows.
fn left(answer: Value) -> Result<Option<(Vec<String>, Vec<Topic>)>, Foreign> {
    let mut answer = list(answer)?.into_iter();
    let (Some(places), Some(topics)) = (answer.next(), answer.next()) else { return Ok(None) };
    let places: Result<Vec<String>, Foreign> = list(places)?.iter().map(|place| Ok(text(place)?.to_owned())).collect();
    let mut with_rows = Vec::new();
    for (topic, rows) in topics.into_map_iter().map_err(|_| Foreign)? {
        if integer(&rows)? != 0 {
            with_rows.push(Topic::new(text(&topic)?).map_err(|_| Foreign)?);
        }
    }
    Ok(Some((places?, with_rows)))
}

fn looked(answer: Value) -> Result<(Vec<ChannelId>, Vec<NodeId>, String), Foreign> {
    let [ids, nodes, last] = <[Value; 3]>::try_from(list(answer)?).map_err(|_| Foreign)?;
    let ids: Result<_, Foreign> = list(ids)?.iter().map(|id| ChannelId::new(text(id)?).map_err(|_| Foreign)).collect();
    let nodes: Result<_, Foreign> =
        list(nodes)?.iter().map(|node| NodeId::new(text(node)?).map_err(|_| Foreign)).collect();
    Ok((ids?, nodes?, text(&last)?.to_owned()))
}

fn connected(members: Value) -> Result<Vec<ChannelId>, Foreign> {
    let id = |member: &Value| {
        let (_, id) = text(member)?.split_once('\0').ok_or(Foreign)?;
        ChannelId::new(id).map_err(|_| Foreign)
    };
    list(members)?.iter().map(id).collect()
}
