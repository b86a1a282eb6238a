//! The cases of the suite, grouped as the store's methods are.

pub mod attach;
pub mod bus;
pub mod claims;
pub mod connected;
pub mod direct;
pub mod leases;
pub mod lock;
pub mod log;
pub mod names;
pub mod presence;
pub mod records;
pub mod relay;
pub mod subscriptions;
pub mod unserved;
pub mod values;
