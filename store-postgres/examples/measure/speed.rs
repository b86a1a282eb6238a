//! How much goes through, how fast, and what it costs.

use strait_core::Retention;
use strait_store_postgres::sqlx::postgres::PgPool;

use crate::{Fleet, KEEP, Notified, counters, say, sizes, told};

const RUNS: [(&str, Option<Retention>, usize, Option<u32>); 6] = [
    ("quiet, retained", Some(KEEP), 1, Some(160)),
    ("quiet, not retained", None, 1, Some(160)),
    ("full speed, retained, one a slice", Some(KEEP), 1, None),
    ("full speed, retained, 20 a slice", Some(KEEP), 20, None),
    ("full speed, not retained, one a slice", None, 1, None),
    ("full speed, not retained, 20 a slice", None, 20, None),
];

pub(crate) async fn run(url: &str, pool: &PgPool) -> anyhow::Result<()> {
    let fleet = Fleet::start(url).await?;
    for (name, retention, slice, rate) in RUNS {
        let before = counters(pool).await?;
        fleet.took();
        let events = fleet.publish(retention, slice, rate).await?;
        told(pool, &format!("strait, {name}"), before, events, || fleet.took()).await?;
    }
    say(format_args!("largest tables at the end, bytes: {:?}", sizes(pool).await?));
    fleet.end().await;
    let notified = Notified::start(url, pool).await?;
    for (name, rate) in [("quiet", Some(160)), ("full speed", None)] {
        let before = counters(pool).await?;
        let events = notified.send(pool, rate).await?;
        // Nothing is kept, and there are no offsets.
        told(pool, &format!("NOTIFY a message, {name}"), before, events, || notified.took()).await?;
    }
    Ok(())
}
