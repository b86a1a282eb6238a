//! Data that nobody needs is neither read nor sent.

use strait_core::store::{EventHubStore, Replay};
use strait_store_postgres::sqlx::{query, query_scalar};
use strait_store_postgres::{PostgresConfig, PostgresStore};

use crate::kit::proxy::{Proxy, server_of};
use crate::kit::{Schema, eventually, hearing, publication, publish, topic};

/// The number of rows read from a table. Sessions report their reads when they end: so the store is closed first.
async fn reads(table: &str, schema: &Schema, store: &PostgresStore) -> i64 {
    store.close().await;
    let mut connection = schema.connection().await;
    let quiet = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1";
    let ended = async || {
        query_scalar::<_, bool>(quiet).bind(&schema.name).fetch_one(&mut connection).await.unwrap().then_some(())
    };
    eventually("the sessions' end", ended).await;
    let sql = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = $2";
    query_scalar(sql).bind(&schema.name).bind(table).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_replay_reads_what_was_missed_and_no_more() {
    const KEPT: usize = 5000;
    let schema = Schema::new();
    let store = || PostgresStore::new(schema.config().application_name(&schema.name));
    let first = store();
    let slice: Vec<_> = (0..KEPT).map(|n| publication("a", n.to_string())).collect();
    let published: Vec<_> = first.publish(&slice).await.into_iter().map(|answer| answer.unwrap().position).collect();
    let mut before = reads("log", &schema, &first).await;
    for (missed, limit) in [(2, 1000), (KEPT - 1, 2)] {
        let second = store();
        let after = published[KEPT - 1 - missed];
        let Replay::Events { events, .. } = second.replay(&topic("a"), &after, limit).await.unwrap() else {
            panic!("it is kept")
        };
        assert!(events.iter().map(|(position, _)| position.offset).eq(after.offset + 1..=after.offset + 2));
        let now = reads("log", &schema, &second).await;
        assert!((2..=4).contains(&(now - before)), "{} after {after:?}", now - before);
        before = now;
    }
}

/// Both for a table that Postgres has analysed, and for another one.
#[tokio::test]
async fn a_page_reads_what_it_tells_and_no_more() {
    const PAGE: usize = 10;
    let schema = Schema::new();
    let store = || PostgresStore::new(schema.config().application_name(&schema.name));
    let first = store();
    publish(&first, publication("a", "x")).await;
    let channels = "INSERT INTO {s}.channel (id, endpoint, generation, phase, at_gateway, place, connection, opening, \
                    state_version, session_version, opened_at) \
                    SELECT 'c' || n, $1, 1, 1, true, 'https://a.test', 'c' || n, '', 0, 0, now() FROM generate_series(1, 5000) n";
    schema.run(channels, "a").await;
    let members = "INSERT INTO {s}.member (channel, topic, indexed, epoch, number, mark, present, since) \
                   SELECT c.id, t.id, true, t.epoch, 1, 1, true, now() FROM {s}.channel c, {s}.topic t WHERE t.name = $1";
    schema.run(members, "a").await;
    let mut before = reads("member", &schema, &first).await;
    for analysed in [false, true] {
        if analysed {
            let analyse = schema.sql("ANALYZE {s}.member, {s}.channel, {s}.topic");
            query(analyse).execute(&mut schema.connection().await).await.unwrap();
        }
        let listing = store();
        let (mut members, mut present) = (None, None);
        for _ in 0..2 {
            let page = listing.members(&topic("a"), members.as_deref(), PAGE).await.unwrap();
            assert_eq!(page.items.len(), PAGE);
            members = page.next;
            let page = listing.presence(&topic("a"), present.as_deref(), PAGE).await.unwrap();
            assert_eq!(page.items.len(), PAGE);
            present = page.next;
        }
        let now = reads("member", &schema, &listing).await;
        assert!(now - before <= 6 * PAGE as i64, "{} for {} entries", now - before, 4 * PAGE);
        before = now;
    }
}

#[tokio::test]
async fn a_poll_brings_no_event_that_its_node_is_not_interested_in() {
    const EVENTS: usize = 20;
    const LARGE: usize = 50_000;
    let schema = Schema::new();
    let proxy = Proxy::before(&server_of(&schema.url)).await;
    let config = PostgresConfig::from_url(&proxy.url(&schema.url)).unwrap().schema(&schema.name).unwrap();
    let (store, ours) = (schema.store().await, PostgresStore::new(config));
    let (their_ears, _theirs) = hearing(&store, &["theirs"]).await;
    let (ears, _bus) = hearing(&ours, &["ours"]).await;
    publish(&store, publication("ours", "x")).await;
    ears.hear(&topic("ours"), 1).await;
    let before = proxy.brought();
    for _ in 0..EVENTS {
        publish(&store, publication("theirs", "x".repeat(LARGE))).await;
    }
    their_ears.hear(&topic("theirs"), EVENTS).await;
    // The poll that brings this event would have brought the others.
    publish(&store, publication("ours", "x")).await;
    ears.hear(&topic("ours"), 2).await;
    let brought = proxy.brought() - before;
    assert!(brought < LARGE, "{brought} bytes");
}
