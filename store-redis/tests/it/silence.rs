//! A thread that stands still for longer than a connection may be silent.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{EventBus, EventHubStore, Publication, Sink};
use strait_core::{Event, NodeId, Payload, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::eventually;
use crate::kit::placed::{Placed, listening, probed, runtime};

#[test]
fn a_runtime_that_stood_still_reads_what_came_and_hangs_up_on_nobody() {
    const EVENTS: usize = 500;
    const SILENT: Duration = Duration::from_secs(3);
    let (own, still) = (runtime(), runtime());
    let [near, far] = ["near", "far"].map(|name| Topic::new(name).unwrap());
    let sink = Placed::new(&far, &still);
    own.block_on(async {
        let server = Server::start(&[]).await;
        let config = RedisConfig::new(server.address().ip().to_string(), server.address().port());
        let store = RedisStore::new(config.probe(Duration::from_millis(250), SILENT));
        let bus = store.start(&NodeId::unique(), Arc::clone(&sink) as Arc<dyn Sink>).await.unwrap();
        bus.interest(&[near, far.clone()], &[]).await.unwrap();
        eventually("both places to hear probes", async || probed(&server).await == 2 && bus.health().hears).await;
        let before = listening(&server).await;
        let (standing, stands) = tokio::sync::oneshot::channel();
        let stood = still.spawn(async move {
            standing.send(()).unwrap();
            std::thread::sleep(SILENT + Duration::from_secs(2));
        });
        stands.await.unwrap();
        let event = |n: usize| Arc::new(Event::message(Payload::text(n.to_string())));
        for n in 0..EVENTS {
            let publication = Publication { topic: far.clone(), event: event(n), retention: None, key: None };
            store.publish(&[publication]).await.remove(0).unwrap();
        }
        stood.await.unwrap();
        let heard = sink.ears.hear(&far, EVENTS).await;
        assert!(heard.iter().map(|(position, _)| position.offset).eq(1..=EVENTS as u64));
        eventually("the bus to prove that it hears", async || bus.health().hears).await;
        assert!(!sink.ears.has_gap(&far));
        assert_eq!(listening(&server).await, before, "nobody had to connect anew");
        bus.stop().await;
    });
}
