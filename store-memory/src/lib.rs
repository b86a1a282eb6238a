//! The embedded store of Strait: channels, topics and the bus in one process's memory.
//!
//! A [`MemoryStore`] is cheap to clone, and clones share everything: several nodes of one process that share a store
//! form a cluster. Nothing survives the process.
//!
//! It runs no task and no thread. Expired entries are dropped when they are next touched, and by a sweep. Every
//! retained publication, replay, lease and [`claim_due`](strait_core::store::ChannelStore::claim_due) does a small part
//! of the sweep: a topic that nobody uses any more goes away as long as a node renews its lease.
//!
//! ```
//! # use strait_store_memory::MemoryStore;
//! # use std::time::Duration;
//! let store = MemoryStore::builder().inbox(64, Duration::from_secs(60)).build();
//! let same = store.clone();
//! assert_eq!(same.stats(), store.stats());
//! ```

mod bus;
mod channel;
mod channels;
mod clock;
mod deadlines;
mod hub;
mod idempotency;
mod index;
mod limits;
mod map;
mod nodes;
mod random;
mod records;
mod sorted;
mod stats;
mod store;
mod stream;
mod topic;
mod topics;

pub use clock::{Clock, ManualClock, MonotonicClock};
pub use limits::Builder;
pub use stats::Stats;
pub use store::MemoryStore;
