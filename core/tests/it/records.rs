//! Records and reality: a node and its store come to the same end, whatever one of them has lost.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::StoreErrorKind;
use strait_core::testkit::{Fault, Faults, Faulty};
use strait_core::{App, AppBuilder, DisconnectReason, Endpoint, State};
use strait_store_memory::MemoryStore;

use crate::log::Log;
use crate::node::Node;

/// Nothing that a test waits for is a lease away.
const LONG: Duration = Duration::from_secs(60);

fn app(log: &Log) -> AppBuilder {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_connect(async |State(log): State<Log>| log.note("connect"))
        .on_message(async |text: String| text)
        .on_disconnect(async |reason: DisconnectReason, State(log): State<Log>| log.note(format!("{reason:?}")));
    App::new().endpoint(endpoint).state(log.clone())
}

#[tokio::test]
async fn an_end_whose_claim_was_not_answered_is_the_nodes_own_at_once() {
    let (log, store, faults) = (Log::default(), Arc::new(MemoryStore::new()), Faults::new());
    let node = Node::start(app(&log).store(Faulty::new(Arc::clone(&store), faults.clone())).lease(LONG)).await;
    let client = node.connect("/").await;
    log.wait_for("connect").await;
    faults.next("claim", 2, &Fault::LoseAnswer(StoreErrorKind::Timeout));
    client.close();
    client.ended().await;
    assert_eq!(log.all(), ["connect", "Client"]);
    assert_eq!(store.stats().records, 0);
    assert_eq!(faults.calls("claim"), 3);
}
