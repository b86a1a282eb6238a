//! Retries of store calls that are safe to repeat while a client waits.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::hub::lease::jittered;
use crate::store::StoreError;

/// Attempts at the store before a message, or a handshake, is given up. The first may use a connection that died in
/// silence while the process was frozen.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Asks again after errors that may pass, while there is time.
pub(crate) async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
    until: Instant,
    mut call: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let (mut tries, mut pause) = (1, FIRST_PAUSE);
    loop {
        match call().await {
            Err(error) if error.is_retryable() && tries < TRIES && Instant::now() + pause < until => {
                // The failure itself is logged where the store is observed.
                tracing::debug!(error = %error.in_full(), "the store is asked again");
                tokio::time::sleep(jittered(pause)).await;
                (tries, pause) = (tries + 1, pause * 2);
            }
            answer => return answer,
        }
    }
}
