use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;
use super::hub::Page;
use super::record::{Change, Fence, Location, Record, StoredSession, TokenHash};
use crate::name::{ChannelId, NodeId, Topic};

/// A channel that is about to be opened.
#[derive(Debug, Clone)]
pub struct NewChannel {
    /// Its id.
    pub id: ChannelId,
    /// The name of its endpoint.
    pub endpoint: Arc<str>,
    /// The place of its connection.
    pub location: Location,
    /// Path and query, as JSON.
    pub opening: Bytes,
    /// The client's session, if authentication gave one. Stored as version 1.
    pub session: Option<StoredSession>,
    /// The time that the channel may stay without a connection, if it is resumable.
    pub grace: Option<Duration>,
    /// The hash of its first resume token.
    pub token: Option<TokenHash>,
    /// The channel is due after this time, unless it was attached, detached or ended before. Channels at a gateway need
    /// it: no node's lease tells that they ended. `None` for never.
    pub due: Option<Duration>,
}

/// The answer to [`ChannelStore::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The record, new or as it was.
    pub record: Record,
    /// Whether this call made it.
    pub created: bool,
}

/// The proof that a connection may take over a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachAs {
    /// The client shows a resume token: the present one, or the previous one while it is not confirmed.
    Token(TokenHash),
    /// The node that lost its lease still holds the socket of this generation, and no connection took the channel
    /// since.
    Holder {
        /// The generation that it held.
        generation: u64,
    },
}

/// A connection that takes over a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The connection's proof.
    pub by: AttachAs,
    /// The place of the new connection.
    pub location: Location,
    /// The hash of the token that replaces the present one. The one shown stays valid until it is confirmed.
    pub next_token: Option<TokenHash>,
}

/// The answer to [`ChannelStore::attach`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// The channel is at the new location, with a new generation.
    Attached {
        /// The record after it.
        record: Box<Record>,
        /// The connection that had the channel until now, if it was another one and not detached.
        displaced: Option<Location>,
    },
    /// The channel is dead or unknown, or the right does not hold.
    Refused,
}

/// The answer to [`ChannelStore::detach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The grace runs.
    Done,
    /// The fence is older than the record, or the channel is dead.
    Stale,
}

/// The changes of one [`ChannelStore::write`]. The store applies all of them or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// `on_connect` has ended: from opening to open.
    pub opened: bool,
    /// The client has shown that it got its token: the previous one is no longer valid.
    pub token_confirmed: bool,
    /// The channel's state.
    pub state: Option<Change<Bytes>>,
    /// The session.
    pub session: Option<Change<StoredSession>>,
}

/// The answer to [`ChannelStore::write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Everything was written; versions went up by 1.
    Done,
    /// A version was not the expected one, and the record is unchanged.
    Conflict(Box<Record>),
    /// The fence is older than the record, or the channel is dead or unknown.
    Stale,
}

/// A lock on one channel, for handling its messages one at a time across processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The channel.
    pub id: ChannelId,
    /// Tells this holding of the lock from every other one.
    pub token: u64,
}

/// The right to end a channel. Its holder runs `on_disconnect` and then removes the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Writes of `on_disconnect` go through this fence; it is stale once another claimer took over.
    pub fence: Fence,
    /// The record at its death.
    pub record: Record,
    /// The topics to which the channel was subscribed.
    pub topics: Vec<Topic>,
}

/// The outcome of [`ChannelStore::end`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The store has removed the channel entirely.
    Removed,
    /// The caller holds the claim and must remove the channel.
    Claimed(Box<Claim>),
}

/// Whether a call begins a lease or renews it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseTerm {
    /// Begin a new term, even if another one has ended or still runs.
    Acquire,
    /// Go on with the present term.
    Renew,
}

/// The answer to [`ChannelStore::lease`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// The node holds its lease for the asked time, from now.
    Held,
    /// The term had ended: others may have claimed the node's channels.
    Lost,
}

/// The endpoints of the channels that a node can end.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// Their names.
    pub endpoints: &'a [Arc<str>],
    /// Channels of other endpoints are left to other nodes for this time after they fall due.
    pub patience: Duration,
}

/// Keeps the records of channels.
///
/// A record dies in one atomic step ([`claim`](Self::claim), [`claim_due`](Self::claim_due)): it becomes a tombstone
/// with a new generation. The tombstone refuses every write of older generations and every subscription. Finally
/// [`remove`](Self::remove) deletes its topic rows and, last, the record itself.
///
/// All durations run on the store's clock.
#[async_trait]
pub trait ChannelStore: Debug + Send + Sync + 'static {
    /// Whether the store is in this process's memory and answers at once. An application measures the calls of every
    /// other store, and counts and logs their failures.
    fn is_in_process(&self) -> bool {
        false
    }

    /// Makes a record of generation 1, in phase opening. Opening the same id at the same location again answers the
    /// record as it is.
    ///
    /// # Errors
    /// `Conflict` when the id is in use at another location, or the location, one at a gateway, by another channel.
    async fn open(&self, new: NewChannel) -> Result<Opened, StoreError>;

    /// The record of a channel, also when it is dead and not yet removed.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn get(&self, id: &ChannelId) -> Result<Option<Record>, StoreError>;

    /// Finds the channel by the gateway location of its present or last connection. A store need not index locations on
    /// a node, nor refuse two channels at one: the node itself names its connections and knows their channels.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn find(&self, location: &Location) -> Result<Option<Record>, StoreError>;

    /// Moves a living channel to a new connection, with the next generation. Detached becomes open; opening stays
    /// opening. After the grace has ended, a channel can still be attached until it is claimed.
    ///
    /// A repeated call after a lost answer succeeds again: the token is still the previous one. A holder may then name
    /// the generation before the present one, while the channel is at its location.
    ///
    /// # Errors
    /// `Conflict` when the location belongs to another channel; the store cannot answer. A right that does not hold is
    /// [`Attached::Refused`].
    async fn attach(&self, id: &ChannelId, attach: Attach) -> Result<Attached, StoreError>;

    /// Marks the connection as gone; the channel stays for `grace`. The generation stays too, so its holder may go on
    /// writing. A second detach does not move the deadline.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn detach(&self, fence: &Fence, grace: Duration) -> Result<Detached, StoreError>;

    /// Applies all of a patch to a record, or none of it. A claim's fence may write to the tombstone that it holds.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn write(&self, fence: &Fence, patch: Patch) -> Result<Written, StoreError>;

    /// Locks a living channel for `ttl`; `None` while another holder has the lock. A holder loses the lock after its
    /// `ttl`.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn lock(&self, id: &ChannelId, by: &NodeId, ttl: Duration) -> Result<Option<Lock>, StoreError>;

    /// Gives a lock back; `false` if it was lost before.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn unlock(&self, lock: &Lock) -> Result<bool, StoreError>;

    /// Ends a channel: a tombstone and a claim for `ttl` in one step. `None` if the fence is stale, the channel is
    /// unknown, or another claimant holds a claim that has not run out.
    ///
    /// `by` names the claimant. After a lost answer, the claimant may repeat the call with the same fence. It gets the
    /// same claim for another `ttl`, unless the claim was taken over. Two claimants that may end a channel at the same
    /// time use different names.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn claim(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Claim>, StoreError>;

    /// Does the same as [`claim`](Self::claim) for a channel that needs no further work. A store may remove the
    /// channel in the same step; by default it only claims it.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn end(&self, fence: &Fence, by: &NodeId, ttl: Duration) -> Result<Option<Ended>, StoreError> {
        let claim = self.claim(fence, by, ttl).await?;
        Ok(claim.map(|claim| Ended::Claimed(Box::new(claim))))
    }

    /// Extends a claim to `ttl` from now; `false` if another claimant took it over.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn renew(&self, claim: &Claim, ttl: Duration) -> Result<bool, StoreError>;

    /// Removes the rest of claimed channels: topic rows, presence (with its leave events) and, last, the record. The
    /// store skips claims that were taken over and channels that are gone already. Callers may repeat the call.
    ///
    /// # Errors
    /// The store cannot answer; [`claim_due`](Self::claim_due) finds the rest again.
    async fn remove(&self, claims: &[Claim]) -> Result<(), StoreError>;

    /// Begins or renews a node's lease.
    ///
    /// # Errors
    /// The store cannot answer: the node counts on its own clock how long it still holds it.
    async fn lease(&self, node: &NodeId, term: LeaseTerm, ttl: Duration) -> Result<Lease, StoreError>;

    /// Gives a node's lease back; channels that are still on it are due at once.
    ///
    /// # Errors
    /// The store cannot answer; the lease ends by itself.
    async fn release(&self, node: &NodeId) -> Result<(), StoreError>;

    /// Claims up to `limit` due channels: those on nodes without a lease, and those with an expired grace, claim or
    /// time at a gateway ([`NewChannel::due`]). An open resumable channel on a node without a lease is
    /// detached instead, and due when its grace ends. The call may answer fewer channels than are due, even none:
    /// callers repeat it.
    ///
    /// With `served`, the store leaves channels of other endpoints to other nodes, until they have been due for the
    /// node's patience. On a node without a lease they still die: they become tombstones that are due at once. However
    /// many channels are left to others, the served ones have their turn.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn claim_due_of(
        &self,
        by: &NodeId,
        served: Option<&Served<'_>>,
        limit: usize,
        ttl: Duration,
    ) -> Result<Vec<Claim>, StoreError>;

    /// Does the same as [`claim_due_of`](Self::claim_due_of) for the channels of all endpoints.
    ///
    /// # Errors
    /// The store cannot answer.
    async fn claim_due(&self, by: &NodeId, limit: usize, ttl: Duration) -> Result<Vec<Claim>, StoreError> {
        self.claim_due_of(by, None, limit, ttl).await
    }

    /// The channels that are connected to a node, opening ones too, in pages of at most `limit`. A channel that stays
    /// connected from the first page to the last is listed; others may be missing.
    ///
    /// # Errors
    /// `Conflict` when the cursor is not one that a page gave; the store cannot answer.
    async fn connected(&self, node: &NodeId, cursor: Option<&str>, limit: usize)
    -> Result<Page<ChannelId>, StoreError>;
}
