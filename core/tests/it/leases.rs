//! The node's lease: nothing is handled while it is unsure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::store::{ChannelStore, StoreErrorKind};
use strait_core::testkit::{Fault, Faults, Faulty, Gate};
use strait_core::{App, AppBuilder, Channel, ChannelState, Endpoint, EventHub, State};
use strait_store_memory::MemoryStore;

use crate::log::{Log, eventually, eventually_async};
use crate::node::{Node, TERM, topic};

fn app(log: &Log) -> AppBuilder {
    let endpoint = Endpoint::new("a", "/")
        .public()
        .on_connect(async |channel: Channel| channel.subscribe(&topic("t")).await)
        .on_message(async |text: String, State(log): State<Log>, count: ChannelState<u32>| {
            log.note(&text);
            count.update(|count| *count += 1).await?;
            Ok::<_, strait_core::Error>(text)
        })
        .on_disconnect(async |State(log): State<Log>| log.note("disconnect"));
    App::new().endpoint(endpoint).state(log.clone()).lease(TERM)
}

async fn node(log: &Log, store: &Arc<MemoryStore>) -> (Node, Faults) {
    let faults = Faults::new();
    (Node::start(app(log).store(Faulty::new(Arc::clone(store), faults.clone()))).await, faults)
}

const REFUSED: Fault = Fault::Refuse(StoreErrorKind::Unavailable);
const UNHEARD: Fault = Fault::LoseAnswer(StoreErrorKind::Timeout);

#[tokio::test]
async fn handling_waits_while_the_lease_is_unsure_and_goes_on_after() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    let client = node.connect("/").await;
    assert_eq!(client.ask("before").await, "before");
    // The store gets the renewals, but its answers do not reach the node.
    faults.always("lease", UNHEARD);
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    client.send("meanwhile");
    client.send("and then");
    assert_eq!(node.refused("/", &[]).await.status, 503);
    tokio::time::sleep(TERM / 4).await;
    assert_eq!(log.all(), ["before"]);
    assert!(!client.has_ended(), "the socket is kept");
    faults.heal("lease");
    client.expect("meanwhile").await;
    client.expect("and then").await;
    assert!(node.hub().is_sure());
    assert_eq!(store.get(&client.id).await.unwrap().unwrap().generation, 1);
}

#[tokio::test]
async fn a_handler_that_takes_its_time_leaves_the_next_message_no_lease_that_has_ended() {
    let log = Log::default();
    let endpoint =
        Endpoint::new("a", "/").public().on_message(async |text: String, State(log): State<Log>, hub: EventHub| {
            log.note(format!("{text} {}", hub.is_sure()));
            if text == "long" {
                // Nothing is renewed meanwhile.
                std::thread::sleep(TERM + TERM / 4);
            }
            text
        });
    let app = App::new().endpoint(endpoint).state(log.clone()).lease(TERM);
    let node = Node::start(app.store(MemoryStore::new())).await;
    let client = node.connect("/").await;
    client.send("long");
    client.send("next");
    client.expect("long").await;
    client.expect("next").await;
    assert_eq!(log.all(), ["long true", "next true"]);
}

#[tokio::test]
async fn after_a_lost_lease_channels_go_on_in_a_new_generation() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    let client = node.connect("/").await;
    assert_eq!(client.ask("before").await, "before");
    faults.always("lease", REFUSED);
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    client.send("meanwhile");
    tokio::time::sleep(TERM / 2).await;
    assert_eq!(log.all(), ["before"]);
    faults.heal("lease");
    client.expect("meanwhile").await;
    let record = store.get(&client.id).await.unwrap().unwrap();
    assert_eq!(record.generation, 2);
    assert_eq!(record.state.value.as_deref(), Some(&b"2"[..]), "the new generation writes");
    node.hub().publish(strait_core::Publish::new(topic("t"), strait_core::Payload::text("event"))).await.unwrap();
    client.expect("event").await;
    client.close();
    client.ended().await;
    assert_eq!(log.all(), ["before", "meanwhile", "disconnect"]);
}

#[tokio::test]
async fn channels_that_were_taken_over_meanwhile_are_closed_with_1012() {
    let (ours, theirs, store) = (Log::default(), Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&ours, &store).await;
    let _other = Node::start(app(&theirs).shared_store(store.clone())).await;
    let client = node.connect("/").await;
    assert_eq!(client.ask("before").await, "before");
    faults.always("lease", REFUSED);
    theirs.wait_for("disconnect").await;
    client.send("too late");
    faults.heal("lease");
    let (code, _) = client.closed().await;
    assert_eq!(code, 1012);
    client.ended().await;
    assert_eq!(ours.all(), ["before"]);
    assert_eq!(theirs.all(), ["disconnect"]);
    let again = node.connect("/").await;
    assert_eq!(again.ask("again").await, "again", "the node is well again");
}

#[tokio::test]
async fn channels_that_cannot_be_attached_again_are_closed_with_1012() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    let client = node.connect("/").await;
    assert_eq!(client.ask("before").await, "before");
    faults.always("lease", REFUSED);
    faults.next("attach", 1, &REFUSED);
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    tokio::time::sleep(TERM / 2).await;
    faults.heal("lease");
    assert_eq!(client.closed().await.0, 1012);
    client.ended().await;
    assert_eq!(log.all(), ["before", "disconnect"]);
}

#[tokio::test]
async fn a_channel_that_ends_while_it_is_attached_again_ends() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    let client = node.connect("/").await;
    assert_eq!(client.ask("before").await, "before");
    let (attach, claim) = (Gate::new(), Gate::new());
    faults.always("lease", REFUSED);
    faults.next("attach", 1, &Fault::Hang(attach.clone()));
    faults.next("claim", 1, &Fault::Hang(claim.clone()));
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    tokio::time::sleep(TERM / 2).await;
    faults.heal("lease");
    eventually("it is attached again", || attach.waiting() == 1).await;
    client.lose();
    eventually("its end is asked for", || claim.waiting() == 1).await;
    // The claim comes second, with the generation before.
    attach.open();
    eventually("the lease is sure", || node.hub().is_sure()).await;
    claim.open();
    log.wait_for("disconnect").await;
    eventually_async("the record is gone", async || store.get(&client.id).await.unwrap().is_none()).await;
    assert_eq!(log.count("disconnect"), 1);
}

#[tokio::test]
async fn a_close_needs_no_sure_lease() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    let client = node.connect("/").await;
    faults.always("lease", UNHEARD);
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    client.send("never handled");
    client.close();
    client.ended().await;
    assert_eq!(log.all(), ["disconnect"]);
}

#[tokio::test]
async fn nobody_is_reaped_before_a_whole_term_has_passed() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let started = Instant::now();
    let (node, faults) = node(&log, &store).await;
    eventually("the janitor comes by", || faults.calls("claim_due") > 0).await;
    assert!(started.elapsed() >= TERM, "{:?}", started.elapsed());
    faults.always("lease", UNHEARD);
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    let before = faults.calls("claim_due");
    faults.heal("lease");
    eventually("the lease is sure", || node.hub().is_sure()).await;
    let sure = Instant::now();
    eventually("the janitor comes by again", || faults.calls("claim_due") > before).await;
    assert!(sure.elapsed() >= TERM - Duration::from_millis(20), "{:?}", sure.elapsed());
}

#[tokio::test]
async fn a_store_that_was_away_for_all_makes_nobody_claim_anybody() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let [(one, a), (two, b)] = [node(&log, &store).await, node(&log, &store).await];
    let clients = [one.connect("/").await, two.connect("/").await];
    for client in &clients {
        client.ask("before").await;
    }
    for faults in [&a, &b] {
        faults.always("lease", REFUSED);
        faults.always("claim_due", REFUSED);
    }
    eventually("both are unsure", || !one.hub().is_sure() && !two.hub().is_sure()).await;
    tokio::time::sleep(TERM).await;
    for faults in [&a, &b] {
        faults.heal("lease");
        faults.heal("claim_due");
    }
    for client in &clients {
        assert_eq!(client.ask("after").await, "after");
        let generation = async || store.get(&client.id).await.unwrap().unwrap().generation == 2;
        eventually_async("a new generation", generation).await;
    }
    tokio::time::sleep(TERM * 2).await;
    assert_eq!(log.count("disconnect"), 0);
    for client in &clients {
        assert_eq!(client.ask("still").await, "still");
    }
}

#[tokio::test]
async fn a_lease_that_hangs_does_not_hold_up_the_next_try() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    let client = node.connect("/").await;
    faults.always("lease", REFUSED);
    eventually("the lease is unsure", || !node.hub().is_sure()).await;
    tokio::time::sleep(TERM / 2).await;
    faults.heal("lease");
    // The next call learns that the lease is lost; the call after it, for a new term, gets no answer.
    faults.next("lease", 1, &Fault::Delay(Duration::ZERO));
    faults.next("lease", 1, &Fault::Hang(Gate::new()));
    assert_eq!(client.ask("well again").await, "well again");
}

#[tokio::test]
async fn a_claim_that_waited_for_the_store_claims_nobody() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let [(one, a), (two, b)] = [node(&log, &store).await, node(&log, &store).await];
    let client = two.connect("/").await;
    client.ask("before").await;
    let gate = Gate::new();
    a.always("claim_due", Fault::Hang(gate.clone()));
    b.always("claim_due", REFUSED);
    eventually("one looks for the dead", || gate.waiting() > 0).await;
    for faults in [&a, &b] {
        faults.always("lease", REFUSED);
    }
    eventually("both are unsure", || !one.hub().is_sure() && !two.hub().is_sure()).await;
    tokio::time::sleep(TERM).await;
    gate.open();
    tokio::time::sleep(TERM / 4).await;
    for faults in [&a, &b] {
        faults.heal("lease");
        faults.heal("claim_due");
    }
    assert_eq!(client.ask("after").await, "after");
    assert_eq!(log.count("disconnect"), 0);
}

#[tokio::test]
async fn nobody_is_reaped_for_a_whole_term_after_the_store_has_not_answered() {
    let (log, store) = (Log::default(), Arc::new(MemoryStore::new()));
    let (node, faults) = node(&log, &store).await;
    eventually("the janitor comes by", || faults.calls("claim_due") > 0).await;
    let before = faults.calls("lease");
    faults.next("lease", 1, &REFUSED);
    // The last look before the failure, on a machine however busy.
    let mut failed = Instant::now();
    let fails = || {
        let fails = faults.calls("lease") > before;
        failed = if fails { failed } else { Instant::now() };
        fails
    };
    eventually("a renewal fails", fails).await;
    let before = faults.calls("claim_due");
    eventually("the janitor comes by again", || faults.calls("claim_due") > before).await;
    assert!(node.hub().is_sure());
    assert!(failed.elapsed() >= TERM, "{:?}", failed.elapsed());
}
