//! How large tables grow at a modest rate, with and without an old snapshot that keeps Postgres from clearing up.

use std::time::{Duration, Instant};

use strait_core::Payload;
use strait_store_postgres::Outgoing;
use strait_store_postgres::sqlx::Connection;
use strait_store_postgres::sqlx::postgres::{PgConnection, PgPool};
use strait_store_postgres::sqlx::{query, raw_sql};

use crate::{Fleet, KEEP, say, sizes, stamp, topic};

const RATE: u32 = 200;
const EVERY: Duration = Duration::from_secs(30);

/// The old snapshot is there in the second third of the time.
pub(crate) async fn run(url: &str, pool: &PgPool, minutes: u32) -> anyhow::Result<()> {
    let fleet = Fleet::start(url).await?;
    let time = Duration::from_secs(60) * minutes;
    let began = Instant::now();
    let mut told = Instant::now();
    let mut old: Option<PgConnection> = None;
    let mut events = 0;
    while began.elapsed() < time {
        let rounds = [Some(KEEP), None].map(|retention| fleet.publish(retention, 1, Some(RATE)));
        for published in futures_util::future::join_all(rounds).await {
            events += published?;
        }
        for lane in 0..crate::LANES {
            let mut transaction = pool.begin().await?;
            let event = Outgoing::new(topic(lane), Payload::text(stamp(fleet.times.origin)));
            fleet.publisher.publish_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            events += 1;
        }
        let is_second = (time / 3..time * 2 / 3).contains(&began.elapsed());
        if is_second && old.is_none() {
            let mut connection = PgConnection::connect(url).await?;
            raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut connection).await?;
            query("SELECT txid_current()").execute(&mut connection).await?;
            old = Some(connection);
        } else if !is_second && let Some(connection) = old.take() {
            connection.close().await?;
        }
        if told.elapsed() >= EVERY {
            told = Instant::now();
            let held = if old.is_some() { ", an old snapshot is held" } else { "" };
            let seconds = began.elapsed().as_secs();
            say(format_args!(
                "{seconds} s, {events} events{held}: {:?}; {}",
                sizes(pool).await?,
                crate::percentiles(fleet.took())
            ));
        }
    }
    fleet.end().await;
    Ok(())
}
