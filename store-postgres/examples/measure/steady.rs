//! How long events take, and publishing does, at a steady rate: what stops everything for a moment shows in the slowest.

use std::time::{Duration, Instant};

use strait_core::Retention;

use crate::{Fleet, KEEP, LANES, Took, in_lanes, percentiles, say, send};

const KINDS: [(&str, Option<Retention>); 2] = [("retained", Some(KEEP)), ("not retained", None)];

/// For so many minutes each.
pub(crate) async fn run(url: &str, rate: u32, minutes: u32) -> anyhow::Result<()> {
    let fleet = Fleet::start(url).await?;
    for (name, retention) in KINDS {
        fleet.took();
        let calls = parking_lot::Mutex::new(Vec::new());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) * minutes {
            in_lanes(Some(rate), async |lane| {
                let sent = fleet.times.origin.elapsed();
                send(&fleet.publisher, fleet.times.origin, lane, retention, 1).await?;
                calls.lock().push(Took { sent, time: fleet.times.origin.elapsed() - sent });
                Ok(1)
            })
            .await?;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        say(format_args!("{name}, {rate}/s in {LANES} lanes, heard: {}", percentiles(fleet.took())));
        say(format_args!("{name}, {rate}/s in {LANES} lanes, published: {}", percentiles(calls.into_inner())));
    }
    fleet.end().await;
    Ok(())
}
