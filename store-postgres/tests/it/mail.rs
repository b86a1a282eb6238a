//! Commands to a node, which wait until it has taken them.

use strait_core::store::{BusNode, Command, EventBus, StoreErrorKind};
use strait_core::testkit::Ears;
use strait_core::{ChannelId, Close, NodeId};
use strait_store_postgres::sqlx::{PgConnection, raw_sql};

use crate::kit::{Schema, count_rows, eventually, hearing, publication, publish, topic, turn_feed, waits_for_lock};

fn close() -> Command {
    Command::Close { channel: ChannelId::unique(), close: Close::policy("kicked") }
}

async fn run(connection: &mut PgConnection, schema: &Schema, sql: &str) {
    raw_sql(schema.sql(sql)).execute(connection).await.unwrap();
}

/// Keeps nodes from polling until the connection's transaction ends.
async fn block_polls(schema: &Schema) -> PgConnection {
    let mut connection = schema.connection().await;
    run(&mut connection, schema, "BEGIN; LOCK TABLE {s}.outbox IN ACCESS EXCLUSIVE MODE").await;
    waits_for_lock(schema, "{s}.outbox").await;
    connection
}

async fn send(sending: &dyn BusNode, to: &NodeId) -> Command {
    let command = close();
    assert!(sending.send(to, std::slice::from_ref(&command)).await.unwrap());
    command
}

#[tokio::test]
async fn a_command_waits_for_a_node_that_cannot_read_for_longer_than_the_feed_lasts() {
    let schema = Schema::new();
    let (store, sender) = (schema.store().await, schema.store().await);
    let (id, ears) = (NodeId::unique(), Ears::new());
    let bus = store.start(&id, ears.clone()).await.unwrap();
    bus.interest(&[topic("a")], &[]).await.unwrap();
    let (_, sending) = hearing(&sender, &[]).await;
    publish(&sender, publication("a", "0")).await;
    let mut blocking = block_polls(&schema).await;
    let command = send(&*sending, &id).await;
    // As if the feed's rows had been written long ago: all are emptied.
    let mut aging = schema.connection().await;
    let emptied = async || {
        turn_feed(&schema, &mut aging).await;
        (count_rows(&schema, "feed").await == 0).then_some(())
    };
    eventually("the feed to be empty", emptied).await;
    run(&mut blocking, &schema, "COMMIT").await;
    assert_eq!(ears.obey(1).await, [command]);
    eventually("the mailbox to be empty", async || (count_rows(&schema, "mail").await == 0).then_some(())).await;
}

#[tokio::test]
async fn what_was_taken_is_not_taken_again_while_the_mailbox_cannot_be_emptied() {
    let schema = Schema::new();
    let (store, sender) = (schema.store().await, schema.store().await);
    let (id, ears) = (NodeId::unique(), Ears::new());
    let _bus = store.start(&id, ears.clone()).await.unwrap();
    let (_, sending) = hearing(&sender, &[]).await;
    let mut connection = schema.connection().await;
    run(&mut connection, &schema, "ALTER FUNCTION {s}.take_mail RENAME TO take_no_mail").await;
    let mut sent = Vec::new();
    for n in 1..=5 {
        sent.push(send(&*sending, &id).await);
        assert_eq!(ears.obey(n).await, sent);
    }
    assert_eq!(count_rows(&schema, "mail").await, 5);
    run(&mut connection, &schema, "ALTER FUNCTION {s}.take_no_mail RENAME TO take_mail").await;
    eventually("the mailbox to be empty", async || (count_rows(&schema, "mail").await == 0).then_some(())).await;
    assert_eq!(ears.commands(), sent);
}

#[tokio::test]
async fn a_full_mailbox_is_said_to_be_full_and_what_nobody_understands_holds_nothing_up() {
    let schema = Schema::new();
    let (store, sender) = (schema.store().await, schema.store().await);
    let (id, ears) = (NodeId::unique(), Ears::new());
    let bus = store.start(&id, ears.clone()).await.unwrap();
    let (_, sending) = hearing(&sender, &[]).await;
    let mut blocking = block_polls(&schema).await;
    let many = "INSERT INTO {s}.mail (node, seq, at, kind, format, payload, note) \
                SELECT h.number, nextval('{s}.feed_seq'), now(), 0, 0, '', 'nonsense' \
                FROM {s}.hearer h, generate_series(1, 10000) WHERE h.id = $1";
    schema.run(many, id.as_str()).await;
    let refused = sending.send(&id, &[close()]).await.unwrap_err();
    assert_eq!((refused.kind, refused.is_retryable()), (StoreErrorKind::Unavailable, true));
    run(&mut blocking, &schema, "COMMIT").await;
    eventually("the mailbox to be empty", async || (count_rows(&schema, "mail").await == 0).then_some(())).await;
    let command = send(&*sending, &id).await;
    assert_eq!(ears.obey(1).await, [command]);
    // Mail in the place goes with the place.
    let mut blocking = block_polls(&schema).await;
    send(&*sending, &id).await;
    bus.stop().await;
    assert_eq!(count_rows(&schema, "mail").await, 0);
    run(&mut blocking, &schema, "COMMIT").await;
}
