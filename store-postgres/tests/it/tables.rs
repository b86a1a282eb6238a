//! The contents of the tables: indexes for every query, and no more rows than there must be.

use std::time::Duration;

use strait_core::store::{
    Attach, AttachAs, ChannelStore, EventHubStore, LeaseTerm, Location, NewChannel, PresenceEntry, Publication,
    Subscription,
};
use strait_core::{ChannelId, ConnectionId, NodeId, Payload, Retention};
use strait_store_postgres::sqlx::{Row, query, query_scalar};
use strait_store_postgres::{Outgoing, PostgresStore};
use tokio::task::JoinSet;

use crate::kit::{KEEP, Schema, count_rows, eventually, hearing, publication, publish, topic};

const LONG: Duration = Duration::from_secs(600);

fn new_channel(node: &NodeId) -> NewChannel {
    let id = ChannelId::unique();
    NewChannel {
        location: Location::Node { node: node.clone(), connection: ConnectionId::from(id.clone()) },
        id,
        endpoint: "room".into(),
        opening: "{}".into(),
        session: None,
        grace: Some(LONG),
        token: None,
        due: None,
    }
}

/// Every call of the traits once, on tables with rows in them.
async fn use_everything(store: &PostgresStore, schema: &Schema) {
    let node = NodeId::unique();
    store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap();
    store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap();
    let (_ears, bus) = hearing(store, &["a", "b"]).await;
    let new = new_channel(&node);
    let record = store.open(new.clone()).await.unwrap().record;
    let fence = record.fence();
    store.get(&new.id).await.unwrap();
    store.find(&record.location).await.unwrap();
    let presence = Some(PresenceEntry { user: None, data: None });
    let all = [("a", true, presence.clone()), ("b", false, None), ("c", false, presence)];
    let subscriptions = all.map(|(name, indexed, presence)| Subscription {
        fence: fence.clone(),
        topic: topic(name),
        indexed,
        presence,
    });
    store.subscribe(&subscriptions).await.unwrap();
    store.topics(&new.id).await.unwrap();
    store.members(&topic("a"), None, 10).await.unwrap();
    store.presence(&topic("a"), None, 10).await.unwrap();
    let position = publish(store, Publication { key: Some("k".into()), ..publication("a", "x") }).await;
    store.replay(&topic("a"), &position, 10).await.unwrap();
    store.history(&topic("a"), 10).await.unwrap();
    let mut connection = schema.connection().await;
    let mut transaction = strait_store_postgres::sqlx::Connection::begin(&mut connection).await.unwrap();
    store.publish_in(&mut transaction, &Outgoing::new(topic("b"), Payload::text("x")).retain(KEEP)).await.unwrap();
    transaction.commit().await.unwrap();
    store.wake();
    let sequenced = async || (count_rows(schema, "outbox").await == 0).then_some(());
    eventually("the outbox to be empty", sequenced).await;
    let event = publication("a", "direct").event;
    store.deliver(&[(new.id.clone(), event)]).await.unwrap();
    store.inbox(&new.id, &position, 10).await.unwrap();
    let relay = store.relay(&topic("a"), &node, LONG).await.unwrap().unwrap();
    store.relay_done(&relay, &position, None).await.unwrap();
    let lock = store.lock(&new.id, &node, LONG).await.unwrap().unwrap();
    store.unlock(&lock).await.unwrap();
    store.write(&fence, strait_core::store::Patch { opened: true, ..Default::default() }).await.unwrap();
    store.unsubscribe(&[(fence.clone(), topic("c"))]).await.unwrap();
    bus.interest(&[], &[topic("b")]).await.unwrap();
    bus.send(&NodeId::unique(), &[strait_core::store::Command::Evict { fence: fence.clone() }]).await.unwrap();
    store.detach(&fence, LONG).await.unwrap();
    let by = AttachAs::Holder { generation: 1 };
    let attach = Attach { by, location: record.location, next_token: None };
    store.attach(&new.id, attach).await.unwrap();
    let fence = store.get(&new.id).await.unwrap().unwrap().fence();
    let claim = store.claim(&fence, &node, LONG).await.unwrap().unwrap();
    store.renew(&claim, LONG).await.unwrap();
    store.remove(&[claim]).await.unwrap();
    store.release(&node).await.unwrap();
    store.claim_due(&node, 10, LONG).await.unwrap();
    bus.stop().await;
}

#[tokio::test]
async fn no_call_scans_a_table() {
    let schema = Schema::new();
    let store = schema.store().await;
    let node = NodeId::unique();
    store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap();
    for n in 0..30 {
        let record = store.open(new_channel(&node)).await.unwrap().record;
        let topic = topic(&format!("t{n}"));
        store.subscribe(&[Subscription { fence: record.fence(), topic, indexed: true, presence: None }]).await.unwrap();
        publish(&store, publication(&format!("t{n}"), "x")).await;
    }
    store.close().await;
    let mut connection = schema.connection().await;
    let scans = "SELECT relname::text, seq_scan, seq_tup_read FROM pg_stat_user_tables \
                 WHERE schemaname = $1 AND relname <> 'migration' ORDER BY 1";
    let read = async |connection: &mut _| {
        let rows = query(scans).bind(&schema.name).fetch_all(connection).await.unwrap();
        rows.iter().map(|row| (row.get::<String, _>(0), row.get::<i64, _>(1))).collect::<Vec<_>>()
    };
    // Statistics are counted when sessions end, and at most every second.
    let quiet = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1";
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = read(&mut connection).await;
    let second = PostgresStore::new(schema.config().application_name(&schema.name));
    use_everything(&second, &schema).await;
    second.close().await;
    let ended = async || {
        let mut connection = schema.connection().await;
        query_scalar::<_, bool>(quiet).bind(&schema.name).fetch_one(&mut connection).await.unwrap().then_some(())
    };
    eventually("the sessions' end", ended).await;
    let after = read(&mut connection).await;
    assert!(after.len() > 15);
    let scanned: Vec<_> = after.iter().filter(|row| !before.contains(row)).collect();
    assert!(scanned.is_empty(), "{scanned:?} of {before:?}");
}

#[tokio::test]
async fn a_poll_reads_by_index_only() {
    let schema = Schema::new();
    let _store = schema.store().await;
    let mut connection = schema.connection().await;
    query("SET enable_seqscan = off").execute(&mut connection).await.unwrap();
    for sql in [
        "SELECT * FROM (SELECT * FROM {s}.feed_0 UNION ALL SELECT * FROM {s}.feed_1) f \
         WHERE f.xid >= pg_snapshot_xmax('10:20:10,12') OR f.xid = ANY (ARRAY(SELECT pg_snapshot_xip('10:20:10,12')))",
        "SELECT id FROM {s}.outbox ORDER BY topic, id LIMIT 1",
    ] {
        let plan = query(schema.sql(&format!("EXPLAIN {sql}"))).fetch_all(&mut connection).await.unwrap();
        let lines: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        assert!(lines.iter().any(|line| line.contains("Index")), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("Seq Scan")), "{lines:#?}");
    }
}

#[tokio::test]
async fn many_may_migrate_at_once() {
    let schema = Schema::new();
    let mut connecting = JoinSet::new();
    for _ in 0..8 {
        let config = schema.config();
        connecting.spawn(async move { PostgresStore::new(config).connect().await });
    }
    while let Some(connected) = connecting.join_next().await {
        connected.unwrap().unwrap();
    }
    assert_eq!(count_rows(&schema, "migration").await, 1);
    // A role that must not create anything can connect by now.
    PostgresStore::new(schema.config().migrate(false)).connect().await.unwrap();
    let missing = Schema::new();
    let error = PostgresStore::new(missing.config().migrate(false)).connect().await.unwrap_err();
    assert_eq!(error.kind, strait_core::store::StoreErrorKind::Misconfigured);
}

#[tokio::test]
async fn what_is_over_leaves_nothing_behind() {
    let schema = Schema::new();
    let store = schema.store().await;
    let node = NodeId::unique();
    store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap();
    let record = store.open(new_channel(&node)).await.unwrap().record;
    let subscription = Subscription { fence: record.fence(), topic: topic("a"), indexed: true, presence: None };
    store.subscribe(&[subscription]).await.unwrap();
    store.deliver(&[(record.id.clone(), publication("a", "x").event)]).await.unwrap();
    let short = Some(Retention { count: 5, age: Duration::from_millis(100) });
    for n in 0..20 {
        publish(&store, Publication { retention: short, ..publication("a", n.to_string()) }).await;
    }
    assert!(count_rows(&schema, "log").await <= 6, "five and the inbox's one");
    let claim = store.claim(&record.fence(), &node, LONG).await.unwrap().unwrap();
    store.remove(&[claim]).await.unwrap();
    store.release(&node).await.unwrap();
    let swept = async || {
        store.claim_due(&node, 1, LONG).await.unwrap();
        let mut left = 0;
        for table in ["channel", "member", "topic", "log", "key", "node", "outbox", "hearer", "interest", "mail"] {
            left += count_rows(&schema, table).await;
        }
        (left == 0).then_some(())
    };
    eventually("the sweep", swept).await;
}

#[tokio::test]
async fn what_is_over_goes_as_fast_as_it_comes() {
    let schema = Schema::new();
    // Nothing runs in the background: a store without a node sweeps only behind a claim.
    let _store = schema.store().await;
    let mut connection = schema.connection().await;
    // Each topic had one publication, with a key to remember, long ago.
    let over = "WITH t AS (INSERT INTO {s}.topic (name, epoch) SELECT 't' || n, 1 FROM generate_series(1, 9000) n RETURNING id) \
                INSERT INTO {s}.key SELECT id, '', 1, 1, 1, now() FROM t";
    query(schema.sql(over)).execute(&mut connection).await.unwrap();
    // As in a store's sweep: parts follow each other as long as there is much to do.
    for _ in 0..50 {
        let sweep = schema.sql("SELECT {s}.sweep_topics(200)");
        if !query_scalar::<_, bool>(sweep).fetch_one(&mut connection).await.unwrap() {
            break;
        }
    }
    assert_eq!((count_rows(&schema, "key").await, count_rows(&schema, "topic").await), (0, 0));
}

#[tokio::test]
async fn a_poll_reads_no_interest_but_in_what_it_found() {
    const TOPICS: i64 = 20_000;
    let schema = Schema::new();
    let (store, other) = (schema.store().await, schema.store().await);
    let (ears, bus) = hearing(&store, &["a"]).await;
    let many = "INSERT INTO {s}.interest (topic, node, asked) SELECT -n, h.number, 0 FROM {s}.hearer h, generate_series(1, 20000) n \
                WHERE $1 = ''";
    schema.run(many, "").await;
    let before = index_reads(&schema).await;
    for n in 0..20 {
        publish(&other, publication("a", n.to_string())).await;
        ears.hear(&topic("a"), n + 1).await;
    }
    bus.stop().await;
    store.close().await;
    other.close().await;
    // Sessions report their reads when they end.
    let told = async || Some(index_reads(&schema).await).filter(|reads| *reads > before);
    eventually("the sessions' end", told).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Leaving reads all, once.
    let read = index_reads(&schema).await - before;
    assert!(read < TOPICS * 4, "{read}");
}

/// The number of entries read from the indexes of `interest`.
async fn index_reads(schema: &Schema) -> i64 {
    let sql =
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_all_indexes WHERE schemaname = $1 AND relname = 'interest'";
    query_scalar(sql).bind(&schema.name).fetch_one(&mut schema.connection().await).await.unwrap()
}
