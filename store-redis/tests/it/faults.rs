//! The bus and the calls while the server, or the way to it, is down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::store::{
    BusNode, ChannelStore, Command, EventBus, EventHubStore, LeaseTerm, Publication, Replay, StoreErrorKind,
};
use strait_core::testkit::{Ears, Proxy, Way};
use strait_core::{ChannelId, Close, Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::{eventually, quick};

const KEEP: Retention = Retention { count: 100, age: Duration::from_secs(60) };

/// A node that hears through a proxy, and a store that goes straight to the server.
struct Scene {
    server: Server,
    proxy: Proxy,
    straight: RedisStore,
    far: RedisStore,
    node: NodeId,
    ears: Arc<Ears>,
    bus: Arc<dyn BusNode>,
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn config(address: std::net::SocketAddr) -> RedisConfig {
    let timeout = Duration::from_millis(400);
    quick(RedisConfig::new(address.ip().to_string(), address.port()).connect_timeout(timeout).command_timeout(timeout))
}

fn close(reason: &'static str) -> Command {
    Command::Close { channel: ChannelId::new("c").unwrap(), close: Close::policy(reason) }
}

async fn publish(store: &RedisStore, topic: &Topic, text: &str, retention: Option<Retention>) -> Position {
    let event = Arc::new(Event::message(Payload::text(text)));
    let publication = Publication { topic: topic.clone(), event, retention, key: None };
    store.publish(&[publication]).await.remove(0).unwrap().position
}

impl Scene {
    async fn new(options: &[&str]) -> Self {
        let server = Server::start(options).await;
        let proxy = Proxy::before(server.address()).await;
        let (straight, far) = (RedisStore::new(config(server.address())), RedisStore::new(config(proxy.address())));
        let (node, ears) = (NodeId::unique(), Ears::new());
        let bus = far.start(&node, ears.clone()).await.unwrap();
        let scene = Self { server, proxy, straight, far, node, ears, bus };
        scene.hears().await;
        scene
    }

    async fn hears(&self) {
        eventually("the bus to hear", async || self.bus.health().hears).await;
    }

    async fn is_deaf(&self) {
        eventually("the bus to know that it is deaf", async || !self.bus.health().hears).await;
    }

    /// Publishes until an event is heard: then the topic is heard again.
    async fn is_heard(&self, topic: &Topic) {
        eventually("the topic to be heard", async || {
            let before = self.ears.events(topic).len();
            publish(&self.straight, topic, "again", None).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.ears.events(topic).len() > before
        })
        .await;
    }

    /// Another node sends this one a command.
    async fn command(&self, reason: &'static str) {
        let other = self.straight.start(&NodeId::unique(), Ears::new()).await.unwrap();
        eventually("the command to be sent", async || other.send(&self.node, &[close(reason)]).await.unwrap()).await;
        other.stop().await;
    }

    /// Prints the time until everything was heard again, for the book's table.
    async fn heard_again(&self, what: &str, since: Instant) {
        self.hears().await;
        eprintln!("{what}: the bus hears again after {:?}", since.elapsed());
    }

    async fn gap(&self, topic: &Topic) {
        eventually("a gap", async || self.ears.has_gap(topic)).await;
    }
}

#[tokio::test]
async fn a_cut_connection_is_made_again_and_what_was_missed_is_told() {
    let scene = Scene::new(&[]).await;
    let (missed, quiet) = (topic("missed"), topic("quiet"));
    scene.bus.interest(&[missed.clone(), quiet.clone()], &[]).await.unwrap();
    let last = publish(&scene.straight, &missed, "before", Some(KEEP)).await;
    scene.ears.hear(&missed, 1).await;
    scene.proxy.set(Way::Closed);
    scene.proxy.cut();
    publish(&scene.straight, &missed, "missed", Some(KEEP)).await;
    scene.command("while away").await;
    scene.is_deaf().await;
    scene.proxy.set(Way::Open);
    let open = Instant::now();
    scene.gap(&missed).await;
    scene.heard_again("cut", open).await;
    assert_eq!(scene.ears.obey(1).await, [close("while away")], "commands wait in the mailbox");
    // Missed events can be replayed from the last position heard.
    let Replay::Events { events, .. } = scene.far.replay(&missed, &last, 10).await.unwrap() else {
        panic!("it is kept")
    };
    assert_eq!(events[0].1.payload, Payload::text("missed"));
    publish(&scene.straight, &missed, "after", Some(KEEP)).await;
    let heard = scene.ears.hear(&missed, 2).await;
    assert_eq!(heard[1].1.payload, Payload::text("after"));
    publish(&scene.straight, &quiet, "first", None).await;
    scene.ears.hear(&quiet, 1).await;
    assert!(!scene.ears.has_gap(&quiet), "nothing of it was missed");
}

#[tokio::test]
async fn a_half_open_connection_is_found_out_and_left() {
    let scene = Scene::new(&[]).await;
    let (a, b) = (topic("a"), topic("b"));
    scene.bus.interest(&[a.clone(), b.clone()], &[]).await.unwrap();
    let connections = scene.proxy.accepted();
    scene.proxy.set(Way::Stalled);
    publish(&scene.straight, &a, "missed", None).await;
    let stalled = Instant::now();
    scene.is_deaf().await;
    eprintln!("half-open: found out after {:?}", stalled.elapsed());
    assert!(stalled.elapsed() < Duration::from_secs(3), "{:?}", stalled.elapsed());
    eventually("a new attempt to connect", async || scene.proxy.accepted() > connections).await;
    scene.proxy.set(Way::Open);
    let open = Instant::now();
    // On a slow machine the connection may still be alive: then it brings the event.
    eventually("the event, or a gap", async || scene.ears.has_gap(&a) || !scene.ears.events(&a).is_empty()).await;
    scene.heard_again("half-open", open).await;
    scene.is_heard(&b).await;
    assert!(!scene.ears.has_gap(&b));
}

#[tokio::test]
async fn a_slow_way_is_lag_and_no_deafness() {
    let scene = Scene::new(&[]).await;
    let topic = topic("a");
    scene.bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    scene.proxy.set(Way::Slow(Duration::from_millis(20)));
    for n in 0..5 {
        publish(&scene.straight, &topic, &n.to_string(), None).await;
    }
    scene.ears.hear(&topic, 5).await;
    let slow = async || scene.bus.health().lag.is_some_and(|lag| lag >= Duration::from_millis(20));
    eventually("the lag to tell", slow).await;
    assert!(scene.bus.health().hears);
    assert!(!scene.ears.has_gap(&topic));
}

#[tokio::test]
async fn a_killed_client_comes_back() {
    let scene = Scene::new(&[]).await;
    let topic = topic("a");
    scene.bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    for kind in ["pubsub", "normal", "pubsub"] {
        let _: i64 = scene.server.ask(&["CLIENT", "KILL", "TYPE", kind]).await;
        let killed = Instant::now();
        scene.is_heard(&topic).await;
        scene.heard_again("CLIENT KILL", killed).await;
        scene.command("still there").await;
    }
    assert_eq!(scene.ears.obey(3).await.len(), 3);
    scene.hears().await;
}

#[tokio::test]
async fn forgotten_scripts_are_taught_again() {
    let scene = Scene::new(&[]).await;
    let topic = topic("a");
    publish(&scene.straight, &topic, "before", Some(KEEP)).await;
    let _: String = scene.server.ask(&["SCRIPT", "FLUSH"]).await;
    let event = |text: &str| Arc::new(Event::message(Payload::text(text)));
    let one = |text: &str| Publication { topic: topic.clone(), event: event(text), retention: Some(KEEP), key: None };
    let slice: Vec<Publication> = (0..50).map(|n| one(&n.to_string())).collect();
    let offsets: Vec<u64> =
        scene.straight.publish(&slice).await.into_iter().map(|answer| answer.unwrap().position.offset).collect();
    assert!((2..=51).eq(offsets), "and in order");
}

#[tokio::test]
async fn a_server_that_lost_its_data_begins_another_epoch_and_that_is_told() {
    let mut scene = Scene::new(&[]).await;
    let (kept, passing) = (topic("kept"), topic("passing"));
    scene.bus.interest(&[kept.clone(), passing.clone()], &[]).await.unwrap();
    let before = publish(&scene.straight, &kept, "before", Some(KEEP)).await;
    publish(&scene.straight, &passing, "before", None).await;
    scene.ears.hear(&kept, 1).await;
    scene.ears.hear(&passing, 1).await;
    scene.server.kill();
    scene.is_deaf().await;
    scene.server.run().await;
    let back = Instant::now();
    scene.gap(&kept).await;
    scene.gap(&passing).await;
    scene.heard_again("restart without data", back).await;
    let after = publish(&scene.straight, &kept, "after", Some(KEEP)).await;
    assert_ne!(after.epoch, before.epoch);
    assert!(matches!(scene.far.replay(&kept, &before, 10).await.unwrap(), Replay::Gap { .. }));
    assert_eq!(scene.ears.hear(&kept, 2).await[1].0, after);
    // The node is on the bus again, though the server had lost its registration.
    scene.command("again").await;
    scene.ears.obey(1).await;
    scene.hears().await;
}

#[tokio::test]
async fn a_server_that_kept_its_data_goes_on() {
    let mut scene = Scene::new(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let topic = topic("kept");
    scene.bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let before = publish(&scene.straight, &topic, "before", Some(KEEP)).await;
    scene.ears.hear(&topic, 1).await;
    scene.server.kill();
    scene.is_deaf().await;
    scene.server.run().await;
    scene.heard_again("restart with data", Instant::now()).await;
    let after = publish(&scene.straight, &topic, "after", Some(KEEP)).await;
    assert_eq!((after.epoch, after.offset), (before.epoch, before.offset + 1));
    assert_eq!(scene.ears.hear(&topic, 2).await[1].0, after);
    // A restart may lose the last writes even if the heads agree: subscribers of kept topics look into the log.
    scene.gap(&topic).await;
    let Replay::Events { events, .. } = scene.far.replay(&topic, &before, 10).await.unwrap() else {
        panic!("nothing was lost")
    };
    assert!(events.iter().map(|(position, _)| *position).eq([after]));
}

#[tokio::test]
async fn a_wiped_server_is_told_of_and_served_again() {
    let scene = Scene::new(&[]).await;
    let topic = topic("a");
    scene.bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    publish(&scene.straight, &topic, "before", Some(KEEP)).await;
    scene.ears.hear(&topic, 1).await;
    let _: String = scene.server.ask(&["FLUSHALL"]).await;
    publish(&scene.straight, &topic, "after", Some(KEEP)).await;
    scene.gap(&topic).await;
    assert_eq!(scene.ears.hear(&topic, 2).await[1].0.offset, 1);
    scene.command("again").await;
    assert_eq!(scene.ears.obey(1).await, [close("again")]);
}

#[tokio::test]
async fn while_the_server_is_away_calls_fail_in_time_and_may_be_made_again() {
    let mut scene = Scene::new(&[]).await;
    let (topic, node) = (topic("a"), NodeId::unique());
    for way in ["away", "stopped", "stalled"] {
        match way {
            "away" => scene.server.kill(),
            "stopped" => scene.server.signal("-STOP"),
            _ => scene.proxy.set(Way::Stalled),
        }
        for _ in 0..3 {
            let began = Instant::now();
            let event = Arc::new(Event::message(Payload::text("x")));
            let publication = Publication { topic: topic.clone(), event, retention: None, key: None };
            let mut errors = vec![scene.far.publish(&[publication]).await.remove(0).unwrap_err()];
            errors.push(scene.far.lease(&node, LeaseTerm::Renew, KEEP.age).await.unwrap_err());
            errors.push(scene.far.claim_due(&node, 10, KEEP.age).await.unwrap_err());
            errors.push(scene.bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap_err());
            errors.push(scene.bus.send(&node, &[close("x")]).await.unwrap_err());
            for error in &errors {
                assert!(error.is_retryable(), "{way}: {error:?}");
                assert!(matches!(error.kind, StoreErrorKind::Unavailable | StoreErrorKind::Timeout));
            }
            assert!(began.elapsed() < Duration::from_millis(400) * 8, "{way}: {:?}", began.elapsed());
        }
        match way {
            "away" => scene.server.run().await,
            "stopped" => scene.server.signal("-CONT"),
            _ => scene.proxy.set(Way::Open),
        }
        eventually("the store to answer again", async || {
            scene.far.lease(&node, LeaseTerm::Acquire, KEEP.age).await.is_ok()
        })
        .await;
        scene.hears().await;
    }
    scene.bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    scene.is_heard(&topic).await;
}
