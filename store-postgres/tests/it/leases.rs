//! Leases under renewal while others look for dead nodes.

use std::time::Duration;

use strait_core::store::{ChannelStore, LeaseTerm, Location, NewChannel};
use strait_core::{ChannelId, ConnectionId, NodeId};
use strait_store_postgres::sqlx::{query, raw_sql};

use crate::kit::Schema;

const LONG: Duration = Duration::from_secs(600);

/// The renewal began in time, but commits after the term is over.
#[tokio::test]
async fn a_renewal_under_way_keeps_its_nodes_channels() {
    let schema = Schema::new();
    let store = schema.store().await;
    let node = NodeId::unique();
    store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap();
    let id = ChannelId::unique();
    let new = NewChannel {
        location: Location::Node { node: node.clone(), connection: ConnectionId::from(id.clone()) },
        id: id.clone(),
        endpoint: "room".into(),
        opening: "{}".into(),
        session: None,
        grace: None,
        token: None,
        due: None,
    };
    let record = store.open(new).await.unwrap().record;
    schema.run("UPDATE {s}.node SET until = now() - interval '1 second' WHERE id = $1", node.as_str()).await;
    let mut renewing = schema.connection().await;
    raw_sql("BEGIN").execute(&mut renewing).await.unwrap();
    let renew = schema.sql("UPDATE {s}.node SET until = now() + interval '10 minutes' WHERE id = $1");
    query(renew).bind(node.as_str()).execute(&mut renewing).await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap(), []);
    }
    raw_sql("COMMIT").execute(&mut renewing).await.unwrap();
    assert_eq!(store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap(), []);
    assert_eq!(store.get(&id).await.unwrap().unwrap(), record);
    // Once the lease has ended it is claimed as usual.
    schema.run("UPDATE {s}.node SET until = now() - interval '1 second' WHERE id = $1", node.as_str()).await;
    assert_eq!(store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap().len(), 1);
}
