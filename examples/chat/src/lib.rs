//! A chat: rooms, and an echo and a fan-out for load tests, written once and run by every deployment of Strait.

mod echo;
mod fan;
mod pages;
mod room;
mod store;

use std::time::Duration;

use strait_core::{App, AppBuilder, Limits, RateLimit, Retention};

pub use pages::page;
pub use store::{Store, UnknownStore};

/// How many messages of a room are kept, and for how long.
const KEPT: Retention = Retention { count: 50, age: Duration::from_hours(24) };

/// The chat's endpoints; give it a store, and build it.
pub fn app() -> AppBuilder {
    App::new().endpoint(room::endpoint()).retain(room::LOG_PREFIX, KEPT)
}

/// Adds the endpoints that load tests use, `/echo` and `/fan`. Their limits let one client take all of a node: they are
/// for machines that nobody else reaches.
pub fn with_load_tests(app: AppBuilder) -> AppBuilder {
    app.endpoint(echo::endpoint()).endpoint(fan::endpoint()).retain(fan::KEPT_PREFIX, KEPT)
}

/// The limits of the endpoints that load tests use.
fn quick() -> Limits {
    let rate = RateLimit { per_second: 1_000_000, burst: 1_000_000, ..RateLimit::default() };
    Limits { rate: Some(rate), subscriptions: 100_000, ..Limits::default() }
}
