//! The cost of a slice of publications, and the properties that it keeps.

use std::sync::Arc;
use std::time::Duration;

use strait_core::store::{EventBus, EventHubStore, Publication, Replay};
use strait_core::testkit::Ears;
use strait_core::{Event, NodeId, Payload, Position, Retention, Topic};
use strait_store_redis::testkit::Server;
use strait_store_redis::{RedisConfig, RedisStore};

use crate::kit::{calls, quick};

const KEEP: Retention = Retention { count: 1000, age: Duration::from_secs(60) };

fn config(server: &Server) -> RedisConfig {
    quick(RedisConfig::new(server.address().ip().to_string(), server.address().port()))
}

fn publication(topic: &Topic, text: &str, retention: Option<Retention>) -> Publication {
    Publication { topic: topic.clone(), event: Arc::new(Event::message(Payload::text(text))), retention, key: None }
}

#[tokio::test]
async fn what_a_slice_has_of_a_topic_is_one_script_and_one_message_in_its_order() {
    const EACH: usize = 300;
    let server = Server::start(&[]).await;
    let store = RedisStore::new(config(&server));
    let ears = Ears::new();
    let bus = store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    let topics = ["kept", "passing"].map(|name| Topic::new(name).unwrap());
    bus.interest(&topics, &[]).await.unwrap();
    let keep = [Some(KEEP), None];
    let slice: Vec<Publication> =
        (0..2 * EACH).map(|n| publication(&topics[n % 2], &(n / 2).to_string(), keep[n % 2])).collect();
    let _: String = server.ask(&["CONFIG", "RESETSTAT"]).await;
    let published: Vec<Position> =
        store.publish(&slice).await.into_iter().map(|answer| answer.unwrap().position).collect();
    for (n, topic) in topics.iter().enumerate() {
        let heard = ears.hear(topic, EACH).await;
        let positions: Vec<Position> = published.iter().skip(n).step_by(2).copied().collect();
        assert!(positions.iter().map(|position| position.offset).eq(1..=EACH as u64));
        assert!(heard.iter().map(|(position, _)| *position).eq(positions));
        assert!(heard.iter().enumerate().all(|(n, (_, event))| event.payload == Payload::text(n.to_string())));
        assert!(!ears.has_gap(topic));
    }
    // 256 events at most go at once. The bus asks for heads beside them.
    // The first one finds no log.
    assert_eq!(calls(&server, "xadd").await, EACH as u64 + 1);
    let scripts = calls(&server, "evalsha").await;
    assert!((4..10).contains(&scripts), "{scripts}");
    let Replay::Events { events, .. } = store.replay(&topics[0], &published[0], EACH).await.unwrap() else {
        panic!("it is kept")
    };
    assert_eq!(events.len(), EACH - 1);
    assert!(events.iter().map(|(position, _)| *position).eq(published.iter().copied().step_by(2).skip(1)));
}

#[tokio::test]
async fn a_topic_in_use_lives_for_its_whole_time_though_that_is_not_put_off_at_each_event() {
    const TIME: Duration = Duration::from_millis(1600);
    let server = Server::start(&[]).await;
    let store = RedisStore::new(config(&server).topic_time(TIME));
    let keep = Retention { count: 10, age: TIME };
    for (name, retention) in [("kept", Some(keep)), ("passing", None)] {
        let topic = Topic::new(name).unwrap();
        let mut epoch = None;
        let _: String = server.ask(&["CONFIG", "RESETSTAT"]).await;
        let (mut events, mut put_off) = (0, 0);
        // Until the expiry was put off for the third time.
        while put_off < 3 * if retention.is_some() { 2 } else { 1 } {
            let position = store.publish(&[publication(&topic, "x", retention)]).await.remove(0).unwrap().position;
            assert_eq!(*epoch.get_or_insert(position.epoch), position.epoch);
            events += 1;
            let keys: Vec<String> = server.ask(&["KEYS", &format!("*:{name}")]).await;
            assert!(!keys.is_empty());
            for key in keys {
                let left: i64 = server.ask(&["PTTL", &key]).await;
                // The question takes its time.
                assert!(left > TIME.as_millis() as i64 - 50, "{key} lives for {left} ms only");
            }
            put_off = calls(&server, "pexpire").await;
            assert!(events < 10_000, "it is put off now and then");
        }
        assert!(events > 6, "{put_off} times in {events} events");
    }
}

#[tokio::test]
async fn a_publication_that_nothing_keeps_is_four_commands() {
    let server = Server::start(&[]).await;
    let store = RedisStore::new(config(&server));
    let topic = Topic::new("passing").unwrap();
    for _ in 0..2 {
        // The first one begins a counter, the second one's are counted.
        let _: String = server.ask(&["CONFIG", "RESETSTAT"]).await;
        store.publish(&[publication(&topic, "x", None)]).await.remove(0).unwrap();
    }
    let info: String = server.ask(&["INFO", "commandstats"]).await;
    let ran = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let mut ran: Vec<&str> = ran.map(|(command, _)| command).filter(|command| *command != "config|resetstat").collect();
    ran.sort_unstable();
    assert_eq!(ran, ["evalsha", "hmget", "hset", "spublish"], "{info}");
}

#[tokio::test]
async fn what_is_kept_outlives_those_who_look_at_it() {
    let server = Server::start(&[]).await;
    let store = RedisStore::new(config(&server).topic_time(Duration::from_millis(200)));
    let topic = Topic::new("kept").unwrap();
    store.publish(&[publication(&topic, "x", Some(KEEP))]).await.remove(0).unwrap();
    let bus = store.start(&NodeId::unique(), Ears::new()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    bus.interest(&[], std::slice::from_ref(&topic)).await.unwrap();
    let keys: Vec<String> = server.ask(&["KEYS", "*:kept"]).await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in keys {
        let left: i64 = server.ask(&["PTTL", &key]).await;
        assert!(left > KEEP.age.as_millis() as i64, "{key} lives for {left} ms only");
    }
}
