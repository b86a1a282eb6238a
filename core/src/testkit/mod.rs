//! Tools for testing a store: the conformance suite, and a store that fails on purpose.
//!
//! # The suite
//!
//! [`suite!`] expands to one `#[test]` for each case, in one module for each group of methods. A store of your own
//! implements [`Harness`], which gives a test access to it:
//!
//! ```
//! use std::sync::Arc;
//! use strait_core::Topic;
//! use strait_core::store::Store;
//! use strait_core::testkit::{Harness, async_trait};
//!
//! # mod my_store {
//! #     pub type MyStore = std::sync::Arc<dyn strait_core::store::Store>;
//! #     pub async fn connect(_prefix: &str) -> MyStore { unimplemented!() }
//! #     pub async fn drop_keys(_prefix: &str) {}
//! # }
//! #[derive(Debug)]
//! struct MyHarness {
//!     prefix: String,
//! }
//!
//! #[async_trait]
//! impl Harness for MyHarness {
//!     async fn handle(&self) -> Arc<dyn Store> {
//!         my_store::connect(&self.prefix).await
//!     }
//!
//!     async fn lose_log(&self, topic: &Topic) {
//!         my_store::drop_keys(&format!("{}log:{topic}", self.prefix)).await;
//!     }
//!
//!     async fn clean_up(&self) {
//!         my_store::drop_keys(&self.prefix).await;
//!     }
//! }
//!
//! async fn make() -> MyHarness {
//!     MyHarness { prefix: format!("test:{}:", strait_core::NodeId::unique()) }
//! }
//!
//! strait_core::testkit::suite!(make);
//! # fn main() {}
//! ```
//!
//! Each case runs on its own runtime with two threads, and only through `Arc<dyn Store>`. No event is assumed to arrive
//! at once: cases wait at most ten seconds for an expected event. The absence of an event is shown by a later one that
//! arrives.
//!
//! # Faults
//!
//! [`Faulty`] wraps a store and makes its operations fail, before or after they took effect, wait, or hang, by its
//! [`Faults`]. A [`Proxy`] stands between a store and its server, and delays or cuts the connections.

#![allow(clippy::unwrap_used, reason = "a panic is how a case fails")]

#[doc(hidden)]
pub mod cases;
mod ears;
mod faults;
mod faulty;
mod harness;
mod proxy;
mod suite;
mod trial;

pub use async_trait::async_trait;

#[doc(inline)]
pub use crate::__store_suite as suite;
pub use ears::Ears;
pub use faults::{Fault, Faults, Gate};
pub use faulty::Faulty;
pub use harness::{Harness, run};
pub use proxy::{Proxy, Way};
