use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::event::{Event, EventKind, Format};
use crate::name::{NodeId, Topic};
use crate::store::{PresenceEntry, Present, Record, Subscribed, Subscription};
use crate::testkit::Ears;
use crate::testkit::trial::{KEEP, Trial, entry, events, indexed, plain, present, publication, topic};

async fn listed(t: &Trial, topic: &Topic) -> Vec<Present> {
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = t.store.presence(topic, cursor.as_deref(), 3).await.unwrap();
        assert!(page.items.len() <= 3);
        all.extend(page.items);
        assert!(all.len() <= 10_000, "the listing ends");
        cursor = page.next;
        if cursor.is_none() {
            return all;
        }
    }
}

fn shown(event: &Event) -> Value {
    assert_eq!(event.payload.format(), Format::Json);
    serde_json::from_slice(event.payload.bytes()).unwrap()
}

pub async fn who_is_present_is_listed(t: Trial) {
    let (record, hidden, topic) = (t.open().await, t.open().await, topic("a"));
    t.join(plain(hidden.fence(), &topic)).await;
    t.join(indexed(t.open().await.fence(), &topic)).await;
    t.join(present(record.fence(), &topic, "ada")).await;
    let all = listed(&t, &topic).await;
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].channel, &all[0].entry), (&record.id, &entry("ada")));
    let since = all[0].since.duration_since(record.opened_at).unwrap();
    assert!(since < Duration::from_secs(60), "{since:?}");
    assert_eq!(t.handle().await.presence(&topic, None, 10).await.unwrap().items, all);
}

pub async fn coming_and_going_are_events(t: Trial) {
    let (node, topic, ears) = (NodeId::unique(), topic("a"), Ears::new());
    let bus = t.store.start(&node, ears.clone()).await.unwrap();
    let before = bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap()[0];
    let record = t.open().await;
    let head = t.join(present(record.fence(), &topic, "ada")).await;
    let since = listed(&t, &topic).await[0].since;
    t.store.unsubscribe(&[(record.fence(), topic.clone())]).await.unwrap();
    let heard = ears.hear(&topic, 2).await;
    assert_eq!(heard.len(), 2);
    let (join, leave) = (&heard[0], &heard[1]);
    assert_eq!((join.0, join.0.epoch, join.0.offset), (head, before.epoch, before.offset + 1));
    assert_eq!((leave.0.epoch, leave.0.offset), (head.epoch, head.offset + 1));
    assert_eq!((join.1.kind, leave.1.kind), (EventKind::Join, EventKind::Leave));
    let since = since.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let expected = json!({"channel": record.id.as_str(), "user": "ada", "since": since as u64, "data": {"mood": 1}});
    assert_eq!(shown(&join.1), expected);
    assert_eq!(shown(&leave.1), expected);
    assert_eq!(listed(&t, &topic).await, []);
}

pub async fn an_entry_may_be_empty(t: Trial) {
    let (topic, ears, record) = (topic("a"), Ears::new(), t.open().await);
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let empty = PresenceEntry { user: None, data: None };
    t.join(Subscription { presence: Some(empty.clone()), ..plain(record.fence(), &topic) }).await;
    assert_eq!(listed(&t, &topic).await[0].entry, empty);
    let heard = shown(&ears.hear(&topic, 1).await[0].1);
    let members: Vec<&String> = heard.as_object().unwrap().keys().collect();
    assert_eq!(members, ["channel", "since"]);
}

pub async fn one_channel_has_one_entry(t: Trial) {
    let (record, topic, ears) = (t.open().await, topic("a"), Ears::new());
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    t.join(present(record.fence(), &topic, "ada")).await;
    let since = listed(&t, &topic).await[0].since;
    let data = Some(Bytes::from_static(b"2"));
    let changed = PresenceEntry { data, ..entry("ada") };
    let again = Subscription { presence: Some(changed.clone()), ..plain(record.fence(), &topic) };
    assert!(matches!(t.subscribe(again).await, Subscribed::Already { .. }));
    assert_eq!(listed(&t, &topic).await, [Present { channel: record.id.clone(), entry: changed, since }]);
    // A sentinel shows that the second call was no event.
    t.publish(publication(&topic, 0, None)).await;
    let kinds: Vec<_> = ears.hear(&topic, 2).await.iter().map(|(_, event)| event.kind).collect();
    assert_eq!(kinds, [EventKind::Join, EventKind::Message]);
}

pub async fn presence_can_begin_and_end_while_a_member(t: Trial) {
    let (record, topic, ears) = (t.open().await, topic("a"), Ears::new());
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    t.join(plain(record.fence(), &topic)).await;
    t.subscribe(present(record.fence(), &topic, "ada")).await;
    assert_eq!(listed(&t, &topic).await.len(), 1);
    t.subscribe(plain(record.fence(), &topic)).await;
    assert_eq!(listed(&t, &topic).await, []);
    let kinds: Vec<_> = ears.hear(&topic, 2).await.iter().map(|(_, event)| event.kind).collect();
    assert_eq!(kinds, [EventKind::Join, EventKind::Leave]);
    assert_eq!(t.store.topics(&record.id).await.unwrap(), [topic]);
}

async fn crowd(t: &Trial, topic: &Topic, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    for n in 0..count {
        let record = t.open().await;
        t.join(present(record.fence(), topic, &format!("user-{n}"))).await;
        records.push(record);
    }
    records
}

pub async fn a_crowd_is_listed_in_pages(t: Trial) {
    let topic = topic("crowd");
    let records = crowd(&t, &topic, 50).await;
    let all = listed(&t, &topic).await;
    let seen: HashSet<_> = all.iter().map(|present| &present.channel).collect();
    assert_eq!((all.len(), seen.len()), (50, 50));
    assert!(records.iter().all(|record| seen.contains(&record.id)));
}

pub async fn death_hides_an_entry_at_once(t: Trial) {
    let (topic, ears) = (topic("a"), Ears::new());
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    let records = crowd(&t, &topic, 5).await;
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let claim = t.claim(&records[2]).await;
    let all = listed(&t, &topic).await;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|present| present.channel != records[2].id));
    // The removal publishes the leave, once.
    t.store.remove(std::slice::from_ref(&claim)).await.unwrap();
    t.store.remove(&[claim]).await.unwrap();
    t.publish(publication(&topic, 0, None)).await;
    let heard = ears.hear(&topic, 2).await;
    assert_eq!(heard.iter().map(|(_, event)| event.kind).collect::<Vec<_>>(), [EventKind::Leave, EventKind::Message]);
    assert_eq!(shown(&heard[0].1)["channel"], records[2].id.as_str());
    assert_eq!(listed(&t, &topic).await, all);
}

pub async fn members_without_presence_come_and_go_in_silence(t: Trial) {
    let (record, topic, ears) = (t.open().await, topic("a"), Ears::new());
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    t.join(indexed(record.fence(), &topic)).await;
    t.store.unsubscribe(&[(record.fence(), topic.clone())]).await.unwrap();
    t.publish(publication(&topic, 0, None)).await;
    assert_eq!(ears.hear(&topic, 1).await[0].1.kind, EventKind::Message);
}

pub async fn a_log_has_comings_and_goings_too(t: Trial) {
    let (record, topic) = (t.open().await, topic("a"));
    let first = t.publish_many(&topic, 1, KEEP).await[0];
    t.join(present(record.fence(), &topic, "ada")).await;
    t.publish_many(&topic, 1, KEEP).await;
    t.end(&record).await;
    let (events, _) = events(t.replay(&topic, &first).await);
    let seen: Vec<_> = events.iter().map(|(position, event)| (position.offset, event.kind)).collect();
    assert_eq!(seen, [(2, EventKind::Join), (3, EventKind::Message), (4, EventKind::Leave)]);
}
