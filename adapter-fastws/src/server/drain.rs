use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::ServerLimits;
use crate::peer::flag;
use crate::registry::Registry;

/// The longest spread of a drain for each connection.
const MOST_A_CONNECTION: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(10);

/// The stages of a server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    Serve,
    Drain,
    Stop,
}

/// Ends a server. Clones belong to the same server.
#[derive(Debug, Clone)]
pub struct ServerHandle(pub(super) watch::Sender<Stage>);

impl ServerHandle {
    /// Admits no client any more, lets running handlers finish, closes connections with 1012 over some time, and then
    /// ends the server.
    pub fn drain(&self) {
        self.0.send_if_modified(|stage| {
            let drains = *stage == Stage::Serve;
            if drains {
                *stage = Stage::Drain;
            }
            drains
        });
    }

    /// Ends the server at once, and cuts its connections.
    pub fn stop(&self) {
        self.0.send_replace(Stage::Stop);
    }

    /// Drains at the first SIGINT or SIGTERM, and stops at the second.
    ///
    /// # Errors
    /// The signals cannot be listened for.
    #[cfg(unix)]
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let handle = self.clone();
        tokio::spawn(async move {
            for end in [Self::drain, Self::stop] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                end(&handle);
            }
        });
        Ok(())
    }
}

/// Waits for the stage, calls `begins`, then drains; returns when all connections have ended or the time is over.
pub(super) async fn when_told(
    mut stage: watch::Receiver<Stage>,
    registry: &Arc<Registry>,
    limits: &ServerLimits,
    begins: impl FnOnce(),
) {
    // The sender lives as long as the server; without a sender there is no need to wait either.
    let _ = stage.wait_for(|stage| *stage >= Stage::Drain).await;
    begins();
    registry.begin_drain();
    tokio::select! {
        () = drain(registry, limits) => {}
        () = async { drop(stage.wait_for(|stage| *stage == Stage::Stop).await.map(drop)) } => {}
    }
    registry.peers().iter().for_each(|peer| peer.flag(flag::STOP));
    // The woken tasks see the flag and end.
    let _ = timeout(Duration::from_secs(1), gone(registry)).await;
}

async fn drain(registry: &Arc<Registry>, limits: &ServerLimits) {
    let peers = registry.peers();
    let start = Instant::now();
    let pause = (limits.spread / u32::try_from(peers.len().max(1)).unwrap_or(u32::MAX)).min(MOST_A_CONNECTION);
    for (at, peer) in peers.iter().enumerate() {
        let due = start + pause * u32::try_from(at).unwrap_or(u32::MAX);
        // The timer is no finer than a millisecond: several connections may be due at once.
        if due > Instant::now() + Duration::from_millis(1) {
            tokio::time::sleep_until(due).await;
        }
        peer.flag(flag::DRAIN);
    }
    drop(peers);
    let _ = timeout(limits.drain, gone(registry)).await;
}

async fn gone(registry: &Registry) {
    while registry.count() > 0 {
        sleep(LOOK).await;
    }
}
