//! What somebody else's transactions lose, at the same rates of events.

use std::process::Command;

use strait_store_postgres::sqlx::postgres::PgPool;

use crate::{Fleet, KEEP, Notified, bench, counters, say, told};

const ROUNDS: usize = 3;

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

pub(crate) async fn run(url: &str, pool: &PgPool) -> anyhow::Result<()> {
    let made = Command::new("pgbench").args(["-i", "-q", "-s", "2", url]).output()?;
    anyhow::ensure!(made.status.success(), "pgbench -i failed: {}", String::from_utf8_lossy(&made.stderr));
    let (fleet, notified) = (Fleet::start(url).await?, Notified::start(url, pool).await?);
    for rate in [500, 1000, 2000] {
        let paced = Some(rate);
        let before = counters(pool).await?;
        let events = fleet.publish(Some(KEEP), 1, paced).await?;
        told(pool, &format!("strait at {rate}/s, retained"), before, events, || fleet.took()).await?;
        let before = counters(pool).await?;
        let events = fleet.publish(None, 1, paced).await?;
        told(pool, &format!("strait at {rate}/s, not retained"), before, events, || fleet.took()).await?;
        let before = counters(pool).await?;
        let events = notified.send(pool, paced).await?;
        told(pool, &format!("NOTIFY a message at {rate}/s"), before, events, || notified.took()).await?;
        let mut beside = [const { Vec::new() }; 4];
        let mut sent = [0; 3];
        for _ in 0..ROUNDS {
            beside[0].push(bench(url).await?);
            let (tps, events) = tokio::join!(bench(url), fleet.publish(Some(KEEP), 1, paced));
            beside[1].push(tps?);
            sent[0] += events?;
            let (tps, events) = tokio::join!(bench(url), fleet.publish(None, 1, paced));
            beside[2].push(tps?);
            sent[1] += events?;
            let (tps, events) = tokio::join!(bench(url), notified.send(pool, paced));
            beside[3].push(tps?);
            sent[2] += events?;
        }
        let [alone, kept, passing, notify] = beside.map(median);
        say(format_args!(
            "bystander at {rate}/s, transactions/s: alone {alone:.0}, beside strait retained {kept:.0} ({:.2}), \
             not retained {passing:.0} ({:.2}), beside NOTIFY {notify:.0} ({:.2}); events in all rounds {sent:?}",
            kept / alone,
            passing / alone,
            notify / alone,
        ));
    }
    fleet.end().await;
    Ok(())
}
