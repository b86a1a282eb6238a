//! How long an event takes from the begin of the transaction that publishes it, against publishing at once.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{EventHubStore, Publication};
use strait_core::{Event, Payload};
use strait_store_postgres::Outgoing;
use strait_store_postgres::sqlx::postgres::PgPool;

use crate::{Fleet, KEEP, in_lanes, percentiles, say, stamp, topic};

const RATE: u32 = 160;
const ROUNDS: usize = 3;

#[derive(Clone, Copy)]
enum Way {
    AtOnce,
    /// In a transaction that does nothing else.
    Transaction {
        woken: bool,
    },
}

const WAYS: [(&str, Way); 3] = [
    ("at once", Way::AtOnce),
    ("in a transaction, then wake", Way::Transaction { woken: true }),
    ("in a transaction, found by a poll", Way::Transaction { woken: false }),
];

pub(crate) async fn run(url: &str, pool: &PgPool) -> anyhow::Result<()> {
    let fleet = Fleet::start(url).await?;
    let mut took = [const { Vec::new() }; 3];
    // The first round opens connections, and has Postgres plan.
    for round in 0..=ROUNDS {
        for ((_, way), took) in WAYS.iter().zip(&mut took) {
            in_lanes(Some(RATE), async |lane| publish(&fleet, pool, lane, *way).await).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let round_took = fleet.took();
            if round > 0 {
                took.extend(round_took);
            }
        }
    }
    for ((name, _), took) in WAYS.iter().zip(took) {
        say(format_args!("{name}, {RATE}/s: {}", percentiles(took)));
    }
    fleet.end().await;
    Ok(())
}

async fn publish(fleet: &Fleet, pool: &PgPool, lane: usize, way: Way) -> anyhow::Result<usize> {
    let payload = Payload::text(stamp(fleet.times.origin));
    match way {
        Way::AtOnce => {
            let event = Arc::new(Event::message(payload));
            let one = Publication { topic: topic(lane), event, retention: Some(KEEP), key: None };
            fleet.publisher.publish(&[one]).await.remove(0)?;
        }
        Way::Transaction { woken } => {
            let mut transaction = pool.begin().await?;
            let event = Outgoing::new(topic(lane), payload);
            fleet.publisher.publish_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            if woken {
                fleet.publisher.wake();
            }
        }
    }
    Ok(1)
}
