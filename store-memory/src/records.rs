use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use strait_core::store::{
    Attach, Attached, ChannelStore, Claim, Detached, Ended, Fence, Lease, LeaseTerm, Location, Lock, NewChannel,
    Opened, Page, Patch, Record, Served, StoreError, Written,
};
use strait_core::{ChannelId, NodeId};

use crate::channel::{Channel, Phase};
use crate::channels::Taken;
use crate::clock::{self, Tick, after};
use crate::store::{Inner, MemoryStore, conflict};

/// How many channels of dead nodes one call looks at, at least.
const ORPHANS_AT_ONCE: usize = 1024;

impl Inner {
    fn open(&self, new: NewChannel) -> Result<Opened, StoreError> {
        let due = new.due;
        let channel = Arc::new(Mutex::new(Channel::new(new, self.time.now())));
        loop {
            let made = |channel: &mut Channel| {
                if let Some(time) = due {
                    self.channels.schedule(channel, after(self.time.now(), time));
                }
                channel.record(&self.time)
            };
            match self.channels.insert(&channel, made) {
                Ok(record) => return Ok(Opened { record, created: true }),
                Err(Taken::Location) => {
                    return Err(conflict(
                        "open",
                        "the location belongs to another channel, give the connection a new id",
                    ));
                }
                Err(Taken::Id) => {}
            }
            let (id, location) = {
                let channel = channel.lock();
                (channel.id.clone(), channel.location.clone())
            };
            let found = self.channels.with(&id, |found| (found.location == location).then(|| found.record(&self.time)));
            match found {
                Some(Some(record)) => return Ok(Opened { record, created: false }),
                Some(None) => return Err(conflict("open", "the id is in use at another location, choose a new one")),
                // Removed in between: try again.
                None => {}
            }
        }
    }

    fn attach(&self, channel: &mut Channel, attach: &Attach) -> Result<Attached, StoreError> {
        if !channel.admits(&attach.by, &attach.location) {
            return Ok(Attached::Refused);
        }
        if !self.channels.reserve(&attach.location, &channel.id) {
            return Err(conflict("attach", "the location belongs to another channel, give the connection a new id"));
        }
        let moved = attach.location != channel.location;
        let displaced = (moved && channel.phase != Phase::Detached).then(|| channel.location.clone());
        self.channels.disconnect(channel);
        if moved {
            self.channels.vacate(&channel.location);
            channel.location = attach.location.clone();
        }
        if channel.phase == Phase::Detached {
            channel.phase = Phase::Open;
        }
        self.channels.schedule(channel, 0);
        if let Some(node) = channel.node() {
            self.channels.nodes.add(node, &channel.id);
        }
        channel.generation += 1;
        channel.replace_token(&attach.by, attach.next_token);
        Ok(Attached::Attached { record: Box::new(channel.record(&self.time)), displaced })
    }

    fn detach(&self, channel: &mut Channel, grace: Duration, now: Tick) {
        if channel.phase != Phase::Detached {
            self.channels.disconnect(channel);
            channel.phase = Phase::Detached;
            self.channels.schedule(channel, after(now, grace));
        }
    }

    fn write(&self, channel: &mut Channel, fence: &Fence, patch: Patch) -> Written {
        if channel.generation != fence.generation {
            return Written::Stale;
        }
        if !channel.expects(patch.state.as_ref(), patch.session.as_ref()) {
            return Written::Conflict(Box::new(channel.record(&self.time)));
        }
        if patch.opened && channel.phase == Phase::Opening {
            channel.phase = Phase::Open;
        }
        if patch.token_confirmed {
            channel.confirm_token();
        }
        if let Some(change) = patch.state {
            channel.change_state(change.value);
        }
        if let Some(change) = patch.session {
            channel.change_session(change.value);
        }
        Written::Done
    }

    /// Whether the holder of this fence may claim the channel.
    fn is_free(&self, channel: &Channel, fence: &Fence) -> bool {
        channel.generation == fence.generation && (channel.is_alive() || channel.due <= self.time.now())
    }

    fn claim(&self, channel: &mut Channel, fence: &Fence, by: &NodeId, ttl: Duration) -> Option<Claim> {
        let now = self.time.now();
        if self.is_free(channel, fence) {
            return Some(self.bury(channel, Some(by), now, ttl));
        }
        channel.was_claimed(fence, by).then(|| {
            self.channels.schedule(channel, after(now, ttl));
            self.claim_of(channel)
        })
    }

    /// Makes a channel a tombstone, or takes a tombstone over.
    fn bury(&self, channel: &mut Channel, by: Option<&NodeId>, now: Tick, ttl: Duration) -> Claim {
        self.channels.disconnect(channel);
        channel.phase = Phase::Dead;
        channel.generation += 1;
        channel.set_claimant(by);
        self.channels.schedule(channel, after(now, ttl));
        self.claim_of(channel)
    }

    fn claim_of(&self, channel: &Channel) -> Claim {
        Claim {
            fence: channel.fence(),
            record: channel.record(&self.time),
            topics: channel.topics.keys().cloned().collect(),
        }
    }

    fn remove(&self, channel: &mut Channel) {
        for (topic, row) in channel.topics.take() {
            self.topics.existing(&topic, |topic| {
                topic.leave(row, &self.time);
                self.topics.queue(topic, self.time.now());
            });
        }
        self.channels.remove(channel);
    }

    fn claim_due(&self, served: Option<&Served<'_>>, limit: usize, ttl: Duration) -> Vec<Claim> {
        let now = self.time.now();
        self.topics.sweep(now);
        let mut claims = Vec::new();
        let mut after = None;
        while claims.len() < limit {
            let due = self.channels.deadlines.due(after, now, limit - claims.len());
            after = due.last().cloned();
            if after.is_none() {
                break;
            }
            for (_, id) in due {
                let claim = self.channels.with(&id, |channel| {
                    let due = channel.due != 0 && channel.due <= now;
                    let overdue = || served.is_none_or(|served| clock::after(channel.due, served.patience) <= now);
                    let claimed = due && (channel.is_served(served) || overdue());
                    claimed.then(|| self.bury(channel, None, now, ttl))
                });
                claims.extend(claim.flatten());
            }
        }
        for id in self.channels.nodes.orphans(now, ORPHANS_AT_ONCE.max(limit)) {
            if claims.len() >= limit {
                break;
            }
            let claim = self.channels.with(&id, |channel| {
                // The channel may have moved since.
                if !channel.node().is_some_and(|node| self.channels.nodes.is_dead(node, now)) {
                    return None;
                }
                match channel.grace {
                    Some(grace) if channel.phase == Phase::Open => {
                        self.detach(channel, grace, now);
                        None
                    }
                    _ if channel.is_served(served) => Some(self.bury(channel, None, now, ttl)),
                    _ => {
                        // Its end is left to other nodes, at once.
                        self.bury(channel, None, now, Duration::ZERO);
                        None
                    }
                }
            });
            claims.extend(claim.flatten());
        }
        claims
    }
}

#[async_trait]
impl ChannelStore for MemoryStore {
    fn is_in_process(&self) -> bool {
        true
    }

    async fn open(&self, new: NewChannel) -> Result<Opened, StoreError> {
        self.inner.open(new)
    }

    async fn get(&self, id: &ChannelId) -> Result<Option<Record>, StoreError> {
        Ok(self.inner.channels.with(id, |channel| channel.record(&self.inner.time)))
    }

    async fn find(&self, location: &Location) -> Result<Option<Record>, StoreError> {
        let Some(id) = self.inner.channels.at(location) else { return Ok(None) };
        let record = self.inner.channels.with(&id, |channel| {
            let here = channel.location == *location;
            here.then(|| channel.record(&self.inner.time))
        });
        Ok(record.flatten())
    }

    async fn attach(&self, id: &ChannelId, attach: Attach) -> Result<Attached, StoreError> {
        let attached = self.inner.channels.with(id, |channel| self.inner.attach(channel, &attach));
        attached.unwrap_or(Ok(Attached::Refused))
    }

    async fn detach(&self, fence: &Fence, grace: Duration) -> Result<Detached, StoreError> {
        let detached = self.inner.channels.with(&fence.id, |channel| {
            if !channel.obeys(fence) {
                return Detached::Stale;
            }
            self.inner.detach(channel, grace, self.inner.time.now());
            Detached::Done
        });
        Ok(detached.unwrap_or(Detached::Stale))
    }

    async fn write(&self, fence: &Fence, patch: Patch) -> Result<Written, StoreError> {
        let written = self.inner.channels.with(&fence.id, |channel| self.inner.write(channel, fence, patch));
        Ok(written.unwrap_or(Written::Stale))
    }

    async fn lock(&self, id: &ChannelId, _by: &NodeId, ttl: Duration) -> Result<Option<Lock>, StoreError> {
        let token = self.inner.topics.random.unique();
        let locked = self.inner.channels.with(id, |channel| {
            let now = self.inner.time.now();
            channel.is_alive() && channel.lock(token, now, after(now, ttl))
        });
        Ok((locked == Some(true)).then(|| Lock { id: id.clone(), token }))
    }

    async fn unlock(&self, lock: &Lock) -> Result<bool, StoreError> {
        let unlocked = self.inner.channels.with(&lock.id, |channel| channel.unlock(lock.token, self.inner.time.now()));
        Ok(unlocked == Some(true))
    }

    async fn claim(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Claim>, StoreError> {
        let claim = self.inner.channels.with(&fence.id, |channel| self.inner.claim(channel, fence, by, ttl));
        Ok(claim.flatten())
    }

    async fn end(&self, fence: &Fence, _by: &NodeId, _ttl: Duration) -> Result<Option<Ended>, StoreError> {
        let ended = self.inner.channels.with(&fence.id, |channel| {
            self.inner.is_free(channel, fence).then(|| {
                self.inner.remove(channel);
                Ended::Removed
            })
        });
        Ok(ended.flatten())
    }

    async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError> {
        let renewed = self.inner.channels.with(&claim.fence.id, |channel| {
            let held = holds(claim, channel);
            if held {
                self.inner.channels.schedule(channel, after(self.inner.time.now(), ttl));
            }
            held
        });
        Ok(renewed == Some(true))
    }

    async fn remove(&self, claims: &[Claim]) -> Result<(), StoreError> {
        for claim in claims {
            self.inner.channels.with(&claim.fence.id, |channel| {
                if holds(claim, channel) {
                    self.inner.remove(channel);
                }
            });
        }
        Ok(())
    }

    async fn lease(&self, node: &NodeId, term: LeaseTerm, ttl: Duration) -> Result<Lease, StoreError> {
        let now = self.inner.time.now();
        self.inner.topics.sweep(now);
        let nodes = &self.inner.channels.nodes;
        Ok(match term {
            LeaseTerm::Acquire => {
                nodes.acquire(node, after(now, ttl));
                Lease::Held
            }
            LeaseTerm::Renew if nodes.renew(node, now, after(now, ttl)) => Lease::Held,
            LeaseTerm::Renew => Lease::Lost,
        })
    }

    async fn release(&self, node: &NodeId) -> Result<(), StoreError> {
        self.inner.channels.nodes.release(node);
        Ok(())
    }

    async fn claim_due_of(
        &self,
        _by: &NodeId,
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError> {
        Ok(self.inner.claim_due(served, limit, ttl))
    }

    async fn connected(
        &self,
        node: &NodeId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<ChannelId>, StoreError> {
        let limit = limit.max(1);
        let items = self.inner.channels.nodes.connected(node, cursor, limit);
        let next = if items.len() == limit { items.last().map(ToString::to_string) } else { None };
        Ok(Page { items, next })
    }
}

fn holds(claim: &Claim, channel: &Channel) -> bool {
    !channel.is_alive() && channel.generation == claim.fence.generation
}
