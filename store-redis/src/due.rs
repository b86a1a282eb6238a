//! The end of channels: claims, the sweep, and what dead nodes left.

use std::collections::HashSet;
use std::time::Duration;

use redis::Value;
use strait_core::store::{Claim, Fence, StoreError};
use strait_core::{ChannelId, NodeId, Topic};

use crate::call::Call;
use crate::error::Failure;
use crate::event::Foreign;
use crate::keys::CHANNELS;
use crate::records::parse;
use crate::reply::{integer, list, text};
use crate::scripts;
use crate::store::{Inner, milliseconds};

/// How many channels of dead nodes one call looks at, at least.
const ORPHANS_AT_ONCE: usize = 256;

/// By what right a channel is claimed.
enum By<'a> {
    Fence(u64),
    /// Its grace or its claim has run out.
    Due,
    /// Its node has died while it had this generation.
    Orphan(u64, &'a NodeId),
}

/// A channel that is connected to a dead node, as far as one could see.
struct Orphan {
    id: ChannelId,
    node: NodeId,
    generation: u64,
}

impl Inner {
    pub(crate) async fn claim(&self, fence: &Fence, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        let call = self.claim_call(&fence.id, &By::Fence(fence.generation), ttl).once();
        let answer = self.router.one("claim", call).await?;
        claimed(&fence.id, answer).map_err(|foreign| Failure::from(foreign).store("claim"))
    }

    fn claim_call(&self, id: &ChannelId, by: &By<'_>, ttl: Duration) -> Call {
        let keys = self.keys.channel(id);
        let touched = [keys.record(), keys.partition().connected(), keys.partition().due(), keys.topics()];
        let call = Call::script(&scripts::CLAIM, keys.slot(), &touched).arg(id.as_str()).arg(milliseconds(ttl));
        match by {
            By::Fence(generation) => call.arg("fence").arg(*generation),
            By::Due => call.arg("due"),
            By::Orphan(generation, node) => call.arg("orphan").arg(*generation).arg(node.as_str()),
        }
    }

    pub(crate) async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError> {
        let keys = self.keys.channel(&claim.fence.id);
        let call = Call::script(&scripts::RENEW, keys.slot(), &[keys.record(), keys.partition().due()])
            .arg(claim.fence.id.as_str())
            .arg(claim.fence.generation)
            .arg(milliseconds(ttl));
        Ok(self.count("renew", call).await? == 1)
    }

    /// Rows first, then the locations, the record last: whatever breaks off is found by it.
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

    pub(crate) async fn claim_due(&self, limit: usize, ttl: Duration) -> Result<Vec<Claim>, StoreError> {
        // Nodes that come at once begin at different places.
        let first = (self.random.next() % u64::from(CHANNELS)) as u16;
        let partitions: Vec<u16> = (0..CHANNELS).map(|n| (first + n) % CHANNELS).collect();
        let look = |number: &u16| {
            let keys = self.keys.channels(*number);
            Call::script(&scripts::LOOK, keys.slot(), &[keys.connected(), keys.due()]).arg(limit)
        };
        let looks: Vec<Call> = partitions.iter().map(look).collect();
        let (mut due, mut places) = (Vec::new(), Vec::new());
        for (partition, answer) in partitions.into_iter().zip(self.router.all("claim_due", &looks).await?) {
            let (ids, nodes) = looked(answer).map_err(|foreign| Failure::from(foreign).store("claim_due"))?;
            due.extend(ids);
            places.extend(nodes.into_iter().map(|node| (node, partition)));
        }
        due.truncate(limit);
        let mut claims = self.claim_each(due.iter().map(|id| (id, By::Due)), ttl).await?;
        let dead = self.without_lease(places.iter().map(|(node, _)| node)).await?;
        places.retain(|(node, _)| dead.contains(node));
        if claims.len() < limit && !places.is_empty() {
            self.claim_orphans(&places, limit, ttl, &mut claims).await?;
        }
        Ok(claims)
    }

    /// Lists channels of dead nodes, then looks at the leases again, then claims those that are as they were: a node
    /// that came back before the second look keeps its channels, one that came back later has given them a new
    /// generation, or finds them taken.
    async fn claim_orphans(
        &self,
        places: &[(NodeId, u16)],
        limit: usize,
        ttl: Duration,
        claims: &mut Vec<Claim>,
    ) -> Result<(), StoreError> {
        let mut orphans = self.orphans(places, ORPHANS_AT_ONCE.max(limit)).await?;
        let dead = self.without_lease(orphans.iter().map(|orphan| &orphan.node)).await?;
        orphans.retain(|orphan| dead.contains(&orphan.node));
        // Some are only detached: that does not count.
        let mut rest = &orphans[..];
        while claims.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(limit - claims.len()));
            let each = now.iter().map(|orphan| (&orphan.id, By::Orphan(orphan.generation, &orphan.node)));
            claims.extend(self.claim_each(each, ttl).await?);
            rest = later;
        }
        Ok(())
    }

    async fn claim_each<'a>(
        &self,
        channels: impl Iterator<Item = (&'a ChannelId, By<'a>)>,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        let (ids, calls): (Vec<_>, Vec<_>) =
            channels.map(|(id, by)| (id, self.claim_call(id, &by, ttl).once())).unzip();
        let (mut claims, mut failures) = (Vec::new(), Vec::new());
        for (id, answer) in ids.into_iter().zip(self.router.run("claim_due", &calls).await) {
            // What was claimed must be told, whatever became of the others: they come again.
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
        let list_place = |(node, partition): &(NodeId, u16)| {
            let keys = self.keys.channels(*partition);
            // Names hold no control characters.
            let (from, to) = (format!("[{node}\0"), format!("({node}\u{1}"));
            let call = Call::plain("ZRANGE", keys.slot()).arg(keys.connected()).arg(from).arg(to);
            call.arg("BYLEX").arg("LIMIT").arg(0).arg(limit)
        };
        let lists: Vec<Call> = places.iter().map(list_place).collect();
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
            // A row without a record is claimed too, and so goes away.
            let generation = integer(&generation).ok().and_then(|generation| u64::try_from(generation).ok());
            Orphan { id, node, generation: generation.unwrap_or(0) }
        };
        Ok(found.into_iter().zip(generations).map(orphan).collect())
    }
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

/// The places and the topics with rows of a channel that is to be removed.
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

fn looked(answer: Value) -> Result<(Vec<ChannelId>, Vec<NodeId>), Foreign> {
    let [ids, nodes] = <[Value; 2]>::try_from(list(answer)?).map_err(|_| Foreign)?;
    let ids: Result<_, Foreign> = list(ids)?.iter().map(|id| ChannelId::new(text(id)?).map_err(|_| Foreign)).collect();
    let nodes: Result<_, Foreign> =
        list(nodes)?.iter().map(|node| NodeId::new(text(node)?).map_err(|_| Foreign)).collect();
    Ok((ids?, nodes?))
}

fn connected(members: Value) -> Result<Vec<ChannelId>, Foreign> {
    let id = |member: &Value| {
        let (_, id) = text(member)?.split_once('\0').ok_or(Foreign)?;
        ChannelId::new(id).map_err(|_| Foreign)
    };
    list(members)?.iter().map(id).collect()
}
