//! The store traits: the interface to a memory, a Redis or a Postgres.
//!
//! A store is three traits on one value: [`ChannelStore`] keeps the records of channels, [`EventHubStore`] keeps
//! subscriptions and the logs of topics, [`EventBus`] carries publications and commands between nodes. Every type with
//! all three is a [`Store`].
//!
//! Methods take slices and answer item by item, so that Redis can pipeline a slice and Postgres can make it one
//! transaction. Every method may be called again after an error: none of them counts an attempt.

mod bus;
mod channel;
mod error;
mod hub;
mod record;

pub use bus::{BusNode, Command, EventBus, Health, Sink};
pub use channel::{
    Attach, AttachAs, Attached, ChannelStore, Claim, Detached, Ended, Lease, LeaseTerm, Lock, NewChannel, Opened,
    Patch, Served, Written,
};
pub use error::{StoreError, StoreErrorKind};
pub use hub::{
    Delivered, EventHubStore, MAX_KEY, MAX_PAYLOAD, Member, Page, PresenceEntry, Present, Publication, Published,
    Relay, Replay, Subscribed, Subscription,
};
pub use record::{Change, Fence, Location, Record, RecordPhase, StoredSession, TokenHash, Versioned};

/// The whole interface of a deployment to its store.
pub trait Store: ChannelStore + EventHubStore + EventBus {}

impl<T: ChannelStore + EventHubStore + EventBus + ?Sized> Store for T {}
