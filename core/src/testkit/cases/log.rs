use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Event, EventKind, Payload, Position, Publisher, Retention};
use crate::name::{ChannelId, NodeId};
use crate::store::{MAX_KEY, Publication, Replay};
use crate::testkit::Ears;
use crate::testkit::trial::{
    KEEP, LONG, SHORT, Trial, events, eventually, indexed, is_gap, message, number, publication, topic,
};

fn keyed(name: &str, number: usize, key: &str) -> Publication {
    Publication { key: Some(Arc::from(key)), ..publication(&topic(name), number, Some(KEEP)) }
}

pub async fn offsets_count_up_by_one(t: Trial) {
    let positions = t.publish_many(&topic("a"), 20, KEEP).await;
    let epoch = positions[0].epoch;
    assert!(epoch < 1 << 53);
    for (offset, position) in (1..).zip(&positions) {
        assert_eq!((position.epoch, position.offset), (epoch, offset));
    }
    let mut checks: Vec<_> = positions.iter().map(|position| position.check).collect();
    checks.sort_unstable();
    checks.dedup();
    assert!(checks.len() > 15, "checks are random: {checks:?}");
}

pub async fn concurrent_publishers_leave_no_gap(t: Trial) {
    let topic = topic("a");
    let mut tasks = Vec::new();
    for publisher in 0..4 {
        let (store, topic) = (t.handle().await, topic.clone());
        tasks.push(tokio::spawn(async move {
            let mut published = Vec::new();
            for n in 0..10 {
                let slice: Vec<_> =
                    (0..5).map(|m| publication(&topic, publisher * 1000 + n * 5 + m, Some(KEEP))).collect();
                for (publication, answer) in slice.iter().zip(store.publish(&slice).await) {
                    published.push((answer.unwrap().position, number(&publication.event)));
                }
            }
            published
        }));
    }
    let mut published = Vec::new();
    for task in tasks {
        let own = task.await.unwrap();
        assert!(own.is_sorted_by_key(|(position, _)| position.offset), "one publisher's order is kept");
        published.extend(own);
    }
    published.sort_by_key(|(position, _)| position.offset);
    assert!((1..=200).eq(published.iter().map(|(position, _)| position.offset)));
    let start = Position { offset: 0, check: 0, ..published[0].0 };
    let (replayed, _) = events(t.replay(&topic, &start).await);
    assert!(published.into_iter().eq(replayed.iter().map(|(position, event)| (*position, number(event)))));
}

pub async fn slices_are_answered_in_order(t: Trial) {
    let (a, b) = (topic("a"), topic("b"));
    let slice = [&a, &b, &a, &a, &b].map(|topic| publication(topic, 0, Some(KEEP)));
    let answers = t.store.publish(&slice).await;
    let offsets: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().position.offset).collect();
    assert_eq!(offsets, [1, 1, 2, 3, 2]);
    assert!(t.store.publish(&[]).await.is_empty());
}

pub async fn every_position_replays(t: Trial) {
    let topic = topic("a");
    let positions = t.publish_many(&topic, 10, KEEP).await;
    let store = t.handle().await;
    let start = Position { offset: 0, check: 0, ..positions[0] };
    for (from, after) in std::iter::once(&start).chain(&positions).enumerate() {
        for limit in [1, 3, 9, 10, 11] {
            let Replay::Events { events, head, more } = store.replay(&topic, after, limit).await.unwrap() else {
                panic!("nothing is lost after {from}")
            };
            let expected: Vec<_> = (from..10).take(limit).collect();
            assert_eq!(events.iter().map(|(_, event)| number(event)).collect::<Vec<_>>(), expected);
            assert!(events.iter().map(|(position, _)| position).eq(&positions[from..from + expected.len()]));
            assert_eq!((head, more), (positions[9], from + limit < 10), "from {from}, at most {limit}");
        }
    }
}

pub async fn history_is_the_last_that_is_kept(t: Trial) {
    let topic = topic("a");
    assert!(t.store.history(&topic, 10).await.unwrap().is_empty());
    let positions = t.publish_many(&topic, 12, Retention { count: 5, age: LONG }).await;
    let store = t.handle().await;
    for limit in [0, 1, 4, 5, 6, 100] {
        let kept = store.history(&topic, limit).await.unwrap();
        let expected = positions.iter().enumerate().skip(12 - limit.min(5));
        assert!(kept.iter().map(|(position, event)| (number(event), position)).eq(expected), "the last {limit}");
    }
}

pub async fn retention_by_count(t: Trial) {
    let topic = topic("a");
    let positions = t.publish_many(&topic, 12, Retention { count: 5, age: LONG }).await;
    // Offset 7 is no longer kept, but nothing after it is lost.
    let (trimmed, kept) = positions.split_at(6);
    for (n, position) in kept.iter().enumerate() {
        assert_eq!(events(t.replay(&topic, position).await).0.len(), 5 - n);
    }
    for position in trimmed {
        assert_eq!(t.replay(&topic, position).await, Replay::Gap { head: positions[11] });
    }
}

pub async fn less_retention_drops_more(t: Trial) {
    let topic = topic("a");
    let positions = t.publish_many(&topic, 10, KEEP).await;
    t.publish_many(&topic, 1, Retention { count: 2, age: LONG }).await;
    assert!(is_gap(&t.replay(&topic, &positions[7]).await));
    assert_eq!(events(t.replay(&topic, &positions[8]).await).0.len(), 2);
}

pub async fn retention_by_age(t: Trial) {
    let topic = topic("a");
    // A member keeps the topic known when its log has run out.
    t.join(indexed(t.open().await.fence(), &topic)).await;
    let positions = t.publish_many(&topic, 3, Retention { count: 100, age: SHORT * 2 }).await;
    let aged = async || is_gap(&t.replay(&topic, &positions[0]).await).then_some(());
    eventually("the log to run out", aged).await;
    let head = async || match t.replay(&topic, &positions[2]).await {
        Replay::Events { events, head, more } => Some((events, head, more)),
        Replay::Gap { .. } => None,
    };
    assert_eq!(head().await, Some((vec![], positions[2], false)), "nothing is lost after the head");
    let next = t.publish_many(&topic, 1, KEEP).await[0];
    assert_eq!((next.epoch, next.offset), (positions[2].epoch, 4));
}

pub async fn the_young_outlive_the_old(t: Trial) {
    let topic = topic("a");
    let old = t.publish_many(&topic, 2, Retention { count: 100, age: SHORT }).await;
    let young = async || {
        let published = t.publish_many(&topic, 1, Retention { count: 1000, age: SHORT }).await[0];
        is_gap(&t.replay(&topic, &old[0]).await).then_some(published)
    };
    let young = eventually("the old to run out", young).await;
    let before = Position { offset: young.offset, ..young };
    assert!(!is_gap(&t.replay(&topic, &before).await));
}

pub async fn a_wrong_check_is_a_gap(t: Trial) {
    let topic = topic("a");
    let positions = t.publish_many(&topic, 4, KEEP).await;
    let start = Position { offset: 0, check: 0, ..positions[0] };
    for position in std::iter::once(&start).chain(&positions) {
        let wrong = Position { check: position.check ^ 1, ..*position };
        assert_eq!(t.replay(&topic, &wrong).await, Replay::Gap { head: positions[3] }, "{wrong:?}");
    }
}

pub async fn a_position_of_another_log_is_a_gap(t: Trial) {
    let topic = topic("a");
    let head = t.publish_many(&topic, 3, KEEP).await[2];
    let others = [
        Position { offset: 4, ..head },
        Position { offset: u64::MAX, ..head },
        Position { epoch: head.epoch ^ 1, ..head },
        Position { epoch: 0, offset: 0, check: 0 },
        Position { epoch: u64::MAX, ..head },
    ];
    for other in others {
        assert_eq!(t.replay(&topic, &other).await, Replay::Gap { head }, "{other:?}");
    }
}

pub async fn an_unknown_topic_is_a_gap(t: Trial) {
    let head = t.publish_many(&topic("a"), 3, KEEP).await[2];
    assert!(is_gap(&t.replay(&topic("b"), &head).await));
}

pub async fn a_lost_log_has_another_epoch(t: Trial) {
    let topic = topic("a");
    t.join(indexed(t.open().await.fence(), &topic)).await;
    let lost = t.publish_many(&topic, 5, KEEP).await;
    t.lose_log(&topic).await;
    assert!(is_gap(&t.replay(&topic, &lost[2]).await));
    assert!(is_gap(&t.replay(&topic, &lost[4]).await));
    let next = t.publish_many(&topic, 5, KEEP).await;
    assert_ne!(next[0].epoch, lost[0].epoch);
    assert!((1..=5).eq(next.iter().map(|position| position.offset)));
    for position in &lost {
        assert!(is_gap(&t.replay(&topic, position).await));
    }
    assert_eq!(events(t.replay(&topic, &next[0]).await).0.len(), 4);
}

pub async fn an_event_that_is_not_kept_ends_the_log(t: Trial) {
    let topic = topic("a");
    let kept = t.publish_many(&topic, 3, KEEP).await;
    // A member keeps the topic known.
    t.join(indexed(t.open().await.fence(), &topic)).await;
    let passed = t.publish(publication(&topic, 3, None)).await.position;
    assert_eq!((passed.epoch, passed.offset), (kept[2].epoch, 4));
    assert!(is_gap(&t.replay(&topic, &kept[2]).await));
    let next = t.publish_many(&topic, 1, KEEP).await[0];
    assert_eq!(next.offset, 5);
    assert!(is_gap(&t.replay(&topic, &kept[2]).await));
    assert_eq!(events(t.replay(&topic, &passed).await).0.len(), 1);
}

pub async fn a_retention_of_nothing_keeps_nothing(t: Trial) {
    let topic = topic("a");
    t.join(indexed(t.open().await.fence(), &topic)).await;
    let positions = t.publish_many(&topic, 2, Retention { count: 0, age: LONG }).await;
    assert_eq!(positions[1].offset, 2);
    assert!(is_gap(&t.replay(&topic, &positions[0]).await));
}

pub async fn a_key_is_published_once(t: Trial) {
    let (topic, ears) = (topic("a"), Ears::new());
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let first = t.publish(keyed("a", 0, "k")).await;
    assert!(!first.duplicate);
    for _ in 0..2 {
        let again = t.handle().await.publish(&[keyed("a", 1, "k")]).await.remove(0).unwrap();
        assert!(again.duplicate);
        assert_eq!(again.position, first.position);
    }
    let other = t.publish(keyed("a", 2, "K")).await;
    assert!(!other.duplicate);
    assert_eq!(other.position.offset, first.position.offset + 1);
    let heard: Vec<_> = ears.hear(&topic, 2).await.iter().map(|(_, event)| number(event)).collect();
    assert_eq!(heard, [0, 2]);
    assert_eq!(events(t.replay(&topic, &first.position).await).0.len(), 1);
}

pub async fn long_keys_are_told_apart(t: Trial) {
    let (one, other) = ("k".repeat(MAX_KEY), format!("{}x", "k".repeat(MAX_KEY - 1)));
    for key in [&one, &other] {
        assert!(!t.publish(keyed("a", 0, key)).await.duplicate);
    }
    for key in [&one, &other] {
        assert!(t.publish(keyed("a", 0, key)).await.duplicate);
    }
}

pub async fn a_key_is_its_topics_own(t: Trial) {
    assert!(!t.publish(keyed("a", 0, "k")).await.duplicate);
    assert!(!t.publish(keyed("b", 0, "k")).await.duplicate);
    let twice = t.store.publish(&[keyed("c", 0, "k"), keyed("c", 0, "k")]).await;
    assert_eq!(twice.into_iter().map(|answer| answer.unwrap().duplicate).collect::<Vec<_>>(), [false, true]);
}

pub async fn a_key_holds_without_retention(t: Trial) {
    let publication = Publication { retention: None, ..keyed("a", 0, "k") };
    let first = t.publish(publication.clone()).await;
    let again = t.publish(publication).await;
    assert_eq!((first.duplicate, again.duplicate, again.position), (false, true, first.position));
}

pub async fn of_many_with_one_key_one_is_published(t: Trial) {
    let mut tasks = Vec::new();
    for n in 0..8 {
        let store = t.handle().await;
        tasks.push(tokio::spawn(async move { store.publish(&[keyed("a", n, "k")]).await.remove(0).unwrap() }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|published| !published.duplicate).count(), 1);
    assert!(answers.iter().all(|published| published.position == answers[0].position));
}

pub async fn events_are_kept_as_they_are(t: Trial) {
    let topic = topic("a");
    let payloads = [
        Payload::json(&serde_json::json!({"n": 1.5, "s": "𝄞\"\\\n"})).unwrap(),
        Payload::text("{not json} \u{1F600} '\"; --"),
        Payload::text(""),
        Payload::binary(Bytes::from((0..=255).collect::<Vec<u8>>())),
        Payload::binary(Bytes::from(vec![0; 200_000])),
    ];
    let channel = |name| ChannelId::new(name).unwrap();
    let publisher = |name, turn| Some(Publisher { channel: channel(name), turn });
    let callers = [
        (None, None),
        (publisher("p", 1), None),
        (None, Some(channel("e{}'"))),
        (publisher("p", u32::MAX), Some(channel("p"))),
    ];
    let ears = Ears::new();
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let mut sent = Vec::new();
    for payload in &payloads {
        for (publisher, exclude) in callers.clone() {
            sent.push(Arc::new(Event { kind: EventKind::Message, payload: payload.clone(), publisher, exclude }));
        }
    }
    let mut start = None;
    for event in &sent {
        let event = Arc::clone(event);
        let published = t.publish(Publication { topic: topic.clone(), event, retention: Some(KEEP), key: None }).await;
        start.get_or_insert(Position { offset: 0, check: 0, ..published.position });
    }
    let (replayed, _) = events(t.replay(&topic, &start.unwrap()).await);
    assert!(replayed.iter().map(|(_, event)| event).eq(&sent));
    assert_eq!(ears.hear(&topic, sent.len()).await, replayed);
}

pub async fn topics_count_apart(t: Trial) {
    let (a, b) = (t.publish_many(&topic("a"), 3, KEEP).await, t.publish_many(&topic("b"), 2, KEEP).await);
    assert_eq!((a[2].offset, b[1].offset), (3, 2));
    assert!(is_gap(&t.replay(&topic("b"), &a[2]).await));
    assert!(is_gap(&t.replay(&topic("b"), &a[0]).await));
    assert_eq!(*message(1), *events(t.replay(&topic("b"), &b[0]).await).0[0].1);
}
