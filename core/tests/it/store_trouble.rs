//! A store that fails is counted, measured and logged, and makes its node not ready.

use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use strait_core::store::StoreErrorKind;
use strait_core::testkit::Fault;
use strait_core::{App, ChannelId, Endpoint, EventHub, Payload, Publish};
use strait_store_memory::MemoryStore;

use crate::captured::Captured;
use crate::node::{Node, faulty, topic};

const REFUSED: Fault = Fault::Refuse(StoreErrorKind::Unavailable);
const LONG: Duration = Duration::from_secs(60);

fn echo() -> Endpoint {
    Endpoint::new("a", "/").public().on_message(async |text: String| text)
}

async fn publish(hub: &EventHub) -> bool {
    hub.publish(Publish::new(topic("room"), Payload::text("x"))).await.is_ok()
}

/// The value of a metric's line with these labels.
fn value(metrics: &PrometheusHandle, name: &str, labels: &[&str]) -> Option<f64> {
    let text = metrics.render();
    let mut lines = text.lines().filter(|line| line.starts_with(name));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Has a long limit: an outage is over only after seconds of quiet.
async fn wait_for<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = find().await {
            return found;
        }
        assert!(began.elapsed() < LONG, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn refused_publications_are_counted_and_logged_once() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (metrics, _until_the_end) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let log = Captured::begin();
    let (store, faults) = faulty();
    let node = Node::start(App::new().endpoint(echo()).store(store).lease(LONG)).await;
    assert!(publish(node.app.hub()).await);
    faults.always("publish", REFUSED);
    for _ in 0..3 {
        assert!(!publish(node.app.hub()).await);
    }
    let refused = [r#"operation="publish""#, r#"kind="unavailable""#];
    assert_eq!(value(&metrics, "strait_store_errors_total", &refused), Some(3.0), "{}", metrics.render());
    let calls = value(&metrics, "strait_store_call_seconds_count", &[r#"operation="publish""#]);
    assert_eq!(calls, Some(4.0), "{}", metrics.render());
    let [line] = &log.lines("the store fails an operation")[..] else { panic!("one line") };
    assert!(line.contains("WARN") && line.contains("publish") && line.contains("unavailable"), "{line}");
}

#[tokio::test]
async fn a_store_in_the_process_is_not_measured() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (metrics, _until_the_end) = (recorder.handle(), metrics::set_default_local_recorder(&recorder));
    let node = Node::start(App::new().endpoint(echo()).store(MemoryStore::new())).await;
    assert!(publish(node.app.hub()).await);
    assert!(!metrics.render().contains("strait_store"), "{}", metrics.render());
}

#[tokio::test]
async fn the_end_of_an_outage_tells_what_became_of_the_channels() {
    let log = Captured::begin();
    let (store, faults) = faulty();
    let term = Duration::from_secs(2);
    let node = Node::start(App::new().endpoint(echo()).store(store).lease(term)).await;
    let clients = [node.connect("/").await, node.connect("/").await, node.connect("/").await];
    faults.always("lease", REFUSED);
    wait_for("the lease to be unsure", async || (!node.hub().is_sure()).then_some(())).await;
    tokio::time::sleep(term / 2).await;
    assert!(log.lines("the store works again").is_empty());
    faults.next("attach", 1, &REFUSED);
    faults.heal("lease");
    let over = wait_for("the line", async || log.lines("the store works again").pop()).await;
    let count = |field: &str| {
        let value = over.split(field).nth(1).and_then(|rest| rest.split(' ').next());
        value.and_then(|value| value.parse::<usize>().ok()).unwrap_or_else(|| panic!("no {field} in {over}"))
    };
    // On a slow machine the lease may have been lost once more.
    assert!(count("attached_anew=") >= 2 && count("closed=") >= 1, "{over}");
    assert!(over.contains("attach") && over.contains("lease"), "{over}");
    wait_for("the end of the one that was closed", async || clients.iter().find(|client| client.has_ended())).await;
}

#[tokio::test]
async fn a_store_that_refuses_all_writes_makes_the_node_not_ready_until_it_takes_one() {
    let (store, faults) = faulty();
    let node = Node::start(App::new().endpoint(echo()).store(store).lease(LONG)).await;
    let reasons = || node.hub().not_ready().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(reasons(), [""; 0]);
    faults.always("publish", REFUSED);
    faults.always("deliver", REFUSED);
    let nobody = ChannelId::unique();
    let why = wait_for("the node to be not ready", async || {
        assert!(!publish(node.app.hub()).await);
        assert!(node.app.hub().send(&nobody, Payload::text("x")).await.is_err());
        reasons().pop()
    });
    let why = why.await;
    assert!(why.starts_with("the store has refused all writes for "), "{why}");
    assert!(why.ends_with(" s: publish (unavailable), deliver (unavailable)"), "{why}");
    faults.heal("publish");
    faults.heal("deliver");
    assert!(publish(node.app.hub()).await);
    assert_eq!(reasons(), [""; 0]);
}
