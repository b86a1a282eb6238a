//! Waiting for a condition, never for a fixed time.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::interrupt;

/// Asks `ready` until it gives a value. `None` after `limit`; fails if `ready` does or a signal
/// comes.
pub(crate) fn wait_until<T>(
    limit: Duration,
    mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let start = Instant::now();
    loop {
        if let Some(value) = ready()? {
            return Ok(Some(value));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        interrupt::check()?;
        thread::sleep(Duration::from_millis(20));
    }
}
