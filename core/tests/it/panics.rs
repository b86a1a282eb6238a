//! A task of the node outlives a panic that its store causes.

use std::sync::Arc;

use strait_core::testkit::{Fault, Faults, Faulty};
use strait_core::{App, AppBuilder, Endpoint, State};
use strait_store_memory::MemoryStore;

use crate::log::{Log, eventually};
use crate::node::{Node, TERM};

fn app(log: &Log) -> AppBuilder {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_message(async |text: String| text)
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    App::new().endpoint(endpoint).state(log.clone()).lease(TERM)
}

async fn node(log: &Log, store: &Arc<MemoryStore>) -> (Node, Faults) {
    let faults = Faults::new();
    (Node::start(app(log).store(Faulty::new(Arc::clone(store), faults.clone()))).await, faults)
}

#[tokio::test]
async fn the_lease_is_kept_after_a_panic() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    let client = node.connect("/").await;
    faults.next("lease", 2, &Fault::Panic);
    let before = faults.calls("lease");
    eventually("it is renewed again and again", || faults.calls("lease") > before + 8).await;
    eventually("it is sure", || node.hub().is_sure()).await;
    assert_eq!(client.ask("well").await, "well");
}

#[tokio::test]
async fn the_dead_are_reaped_after_a_panic() {
    let (ours, theirs, store) = (Log::default(), Log::default(), Arc::new(MemoryStore::new()));
    let dead = Node::start_doomed(app(&theirs).shared_store(store.clone())).await;
    dead.connect("/").await;
    let (_node, faults) = node(&ours, &store).await;
    faults.next("claim_due", 2, &Fault::Panic);
    dead.kill();
    ours.wait_for("disconnect").await;
    assert!(faults.calls("claim_due") > 2);
}

#[tokio::test]
async fn a_channels_end_is_tried_again_after_a_panic() {
    for op in ["claim", "remove"] {
        let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
        let (node, faults) = node(&log, &store).await;
        let client = node.connect("/").await;
        faults.next(op, 2, &Fault::Panic);
        client.close();
        client.ended().await;
        eventually("the record is gone", || store.stats().records == 0).await;
        assert_eq!(log.all(), ["disconnect"], "{op}");
    }
}
