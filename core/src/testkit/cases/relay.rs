use crate::name::{NodeId, Topic};
use crate::store::Relay;
use crate::testkit::trial::{KEEP, LONG, SHORT, Trial, eventually, indexed, plain, present, topic};

async fn take(t: &Trial, topic: &Topic) -> Option<Relay> {
    t.handle().await.relay(topic, &NodeId::unique(), LONG).await.unwrap()
}

pub async fn a_relay_is_exclusive_and_goes_on(t: Trial) {
    let topic = topic("a");
    let joined = t.join(indexed(t.open().await.fence(), &topic)).await;
    let positions = t.publish_many(&topic, 4, KEEP).await;
    let first = take(&t, &topic).await.expect("nobody has it");
    assert_eq!((&first.topic, first.from), (&topic, joined));
    assert_eq!(take(&t, &topic).await, None);
    assert!(t.store.relay_done(&first, &positions[1], None).await.unwrap());
    let second = take(&t, &topic).await.expect("it was given back");
    assert_eq!(second.from, positions[1]);
    assert_ne!(second.token, first.token);
    assert!(!t.store.relay_done(&first, &positions[3], None).await.unwrap());
    assert!(t.store.relay_done(&second, &positions[3], None).await.unwrap());
    assert!(!t.store.relay_done(&second, &positions[3], None).await.unwrap());
    assert_eq!(take(&t, &topic).await.map(|relay| relay.from), Some(positions[3]));
}

pub async fn a_lost_relay_moves_nothing(t: Trial) {
    let topic = topic("a");
    let joined = t.join(indexed(t.open().await.fence(), &topic)).await;
    let positions = t.publish_many(&topic, 2, KEEP).await;
    let lost = t.store.relay(&topic, &NodeId::unique(), SHORT).await.unwrap().expect("nobody has it");
    let by = NodeId::unique();
    let second = eventually("the relay", async || t.store.relay(&topic, &by, LONG).await.unwrap()).await;
    for keep in [None, Some(LONG)] {
        assert!(!t.store.relay_done(&lost, &positions[1], keep).await.unwrap());
    }
    assert_eq!(take(&t, &topic).await, None, "the second holder has it still");
    assert_eq!(second.from, joined);
    assert!(t.store.relay_done(&second, &positions[0], None).await.unwrap());
    assert_eq!(take(&t, &topic).await.map(|relay| relay.from), Some(positions[0]));
}

pub async fn a_relay_is_held_on_while_its_cursor_moves(t: Trial) {
    let (kept, lapses) = (topic("a"), topic("b"));
    let record = t.open().await;
    for topic in [&kept, &lapses] {
        t.join(indexed(record.fence(), topic)).await;
    }
    let positions = t.publish_many(&kept, 2, KEEP).await;
    let by = NodeId::unique();
    let held = t.store.relay(&kept, &by, SHORT).await.unwrap().expect("nobody has it");
    assert!(t.store.relay_done(&held, &positions[0], Some(LONG)).await.unwrap());
    // Wait as long as the kept relay's first term.
    t.store.relay(&lapses, &by, SHORT).await.unwrap().expect("nobody has it");
    eventually("the other relay", async || take(&t, &lapses).await).await;
    assert_eq!(take(&t, &kept).await, None);
    // A holder that dies keeps the cursor that it stored last.
    assert!(t.store.relay_done(&held, &positions[1], Some(SHORT)).await.unwrap());
    let next = eventually("the relay", async || take(&t, &kept).await).await;
    assert_eq!(next.from, positions[1]);
}

pub async fn of_many_relays_one_is_held(t: Trial) {
    let topic = topic("a");
    t.join(indexed(t.open().await.fence(), &topic)).await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (store, topic) = (t.handle().await, topic.clone());
        tasks.push(tokio::spawn(async move { store.relay(&topic, &NodeId::unique(), LONG).await.unwrap() }));
    }
    let mut held = 0;
    for task in tasks {
        held += usize::from(task.await.unwrap().is_some());
    }
    assert_eq!(held, 1);
}

pub async fn topics_are_relayed_apart(t: Trial) {
    let record = t.open().await;
    for name in ["a", "b"] {
        t.join(indexed(record.fence(), &topic(name))).await;
        assert!(take(&t, &topic(name)).await.is_some());
    }
}

pub async fn without_indexed_members_there_is_no_relay(t: Trial) {
    let (record, topic) = (t.open().await, topic("a"));
    assert_eq!(take(&t, &topic).await, None);
    t.publish_many(&topic, 2, KEEP).await;
    t.join(plain(record.fence(), &topic)).await;
    assert_eq!(take(&t, &topic).await, None);
    // The cursor begins at the first indexed member's join, not before.
    t.subscribe(indexed(record.fence(), &topic)).await;
    assert_eq!(take(&t, &topic).await.map(|relay| relay.from.offset), Some(2));
}

pub async fn the_cursor_goes_with_the_last_member(t: Trial) {
    let (record, topic) = (t.open().await, topic("a"));
    // A channel that is only present is not relayed to.
    t.join(present(t.open().await.fence(), &topic, "ada")).await;
    t.join(indexed(record.fence(), &topic)).await;
    let held = take(&t, &topic).await.expect("nobody has it");
    t.store.unsubscribe(&[(record.fence(), topic.clone())]).await.unwrap();
    let missed = t.publish_many(&topic, 3, KEEP).await[2];
    t.join(indexed(record.fence(), &topic)).await;
    // There was no member for the events in between.
    assert!(!t.store.relay_done(&held, &missed, None).await.unwrap());
    assert_eq!(take(&t, &topic).await.map(|relay| relay.from), Some(missed));
}
