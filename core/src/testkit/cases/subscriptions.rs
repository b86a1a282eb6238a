use std::collections::HashSet;

use futures_util::future::join_all;

use crate::name::{ChannelId, NodeId, Topic};
use crate::store::{Fence, Member, Record, Store, Subscribed, Subscription};
use crate::testkit::trial::{KEEP, LONG, Trial, indexed, plain, publication, token, topic};

async fn members(store: &dyn Store, topic: &Topic, limit: usize) -> Vec<Member> {
    let (mut members, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = store.members(topic, cursor.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit);
        members.extend(page.items);
        assert!(members.len() <= 10_000, "the listing ends");
        cursor = page.next;
        if cursor.is_none() {
            return members;
        }
    }
}

fn ids(members: &[Member]) -> Vec<ChannelId> {
    members.iter().map(|member| member.fence.id.clone()).collect()
}

pub async fn a_channel_joins_once(t: Trial) {
    let (record, topic) = (t.open().await, topic("a"));
    let head = t.publish_many(&topic, 3, KEEP).await[2];
    assert_eq!(t.subscribe(plain(record.fence(), &topic)).await, Subscribed::Joined { head });
    assert_eq!(
        t.handle().await.subscribe(&[plain(record.fence(), &topic)]).await.unwrap(),
        [Subscribed::Already { head }]
    );
    let head = t.publish_many(&topic, 1, KEEP).await[0];
    assert_eq!(t.subscribe(plain(record.fence(), &topic)).await, Subscribed::Already { head });
    assert_eq!(t.store.topics(&record.id).await.unwrap(), [topic]);
}

pub async fn an_empty_topic_has_a_head(t: Trial) {
    let topic = topic("a");
    let head = t.join(indexed(t.open().await.fence(), &topic)).await;
    assert_eq!((head.offset, head.check), (0, 0));
    assert!(head.epoch < 1 << 53);
    let first = t.publish_many(&topic, 1, KEEP).await[0];
    assert_eq!((first.epoch, first.offset), (head.epoch, 1));
}

pub async fn only_the_living_join(t: Trial) {
    let topic = topic("a");
    let unknown = Fence { id: ChannelId::unique(), generation: 1 };
    assert_eq!(t.subscribe(indexed(unknown, &topic)).await, Subscribed::Dead);
    let record = t.open().await;
    let claim = t.claim(&record).await;
    assert_eq!(t.subscribe(indexed(record.fence(), &topic)).await, Subscribed::Dead);
    assert_eq!(t.subscribe(indexed(claim.fence.clone(), &topic)).await, Subscribed::Dead);
    t.store.remove(&[claim]).await.unwrap();
    assert_eq!(t.subscribe(indexed(record.fence(), &topic)).await, Subscribed::Dead);
    assert_eq!(members(&*t.store, &topic, 10).await, []);
    assert_eq!(t.store.topics(&record.id).await.unwrap(), []);
}

pub async fn a_channel_leaves_once(t: Trial) {
    let (record, topic) = (t.open().await, topic("a"));
    let member = (record.fence(), topic.clone());
    t.join(indexed(record.fence(), &topic)).await;
    let left = t.store.unsubscribe(&[member.clone(), member.clone()]).await.unwrap();
    assert_eq!(left, [true, false]);
    assert_eq!(t.handle().await.unsubscribe(&[member]).await.unwrap(), [false]);
    assert_eq!(t.store.topics(&record.id).await.unwrap(), []);
    assert_eq!(members(&*t.store, &topic, 10).await, []);
    t.join(indexed(record.fence(), &topic)).await;
}

pub async fn an_unknown_topic_is_empty(t: Trial) {
    let (record, topic) = (t.open().await, topic("nobody"));
    assert_eq!(members(&*t.store, &topic, 10).await, []);
    let present = t.store.presence(&topic, None, 10).await.unwrap();
    assert_eq!((present.items, present.next), (vec![], None));
    assert_eq!(t.store.unsubscribe(&[(record.fence(), topic)]).await.unwrap(), [false]);
    assert_eq!(t.store.topics(&record.id).await.unwrap(), []);
    assert_eq!(t.store.topics(&ChannelId::unique()).await.unwrap(), []);
}

pub async fn each_item_is_answered(t: Trial) {
    let (record, dead) = (t.open().await, t.open().await);
    t.end(&dead).await;
    t.join(plain(record.fence(), &topic("b"))).await;
    let all = [("a", &record), ("b", &dead), ("b", &record), ("c", &record), ("a", &record)];
    let all: Vec<Subscription> = all.into_iter().map(|(name, of)| plain(of.fence(), &topic(name))).collect();
    let answers = t.store.subscribe(&all).await.unwrap();
    let kind = |answer: &Subscribed| match answer {
        Subscribed::Joined { .. } => "joined",
        Subscribed::Already { .. } => "already",
        Subscribed::Dead => "dead",
    };
    assert_eq!(answers.iter().map(kind).collect::<Vec<_>>(), ["joined", "dead", "already", "joined", "already"]);
    assert_eq!(t.store.subscribe(&[]).await.unwrap(), []);
    assert_eq!(t.store.unsubscribe(&[]).await.unwrap(), Vec::<bool>::new());
    let mut topics = t.store.topics(&record.id).await.unwrap();
    topics.sort();
    assert_eq!(topics, [topic("a"), topic("b"), topic("c")]);
    let leave = ["c", "d", "a"].map(|name| (record.fence(), topic(name)));
    assert_eq!(t.store.unsubscribe(&leave).await.unwrap(), [true, false, true]);
    assert_eq!(t.store.topics(&record.id).await.unwrap(), [topic("b")]);
}

pub async fn only_the_indexed_are_listed(t: Trial) {
    let (a, b, topic) = (t.open().await, t.open().await, topic("a"));
    t.publish_many(&topic, 2, KEEP).await;
    t.join(plain(a.fence(), &topic)).await;
    let joined = t.join(indexed(b.fence(), &topic)).await;
    t.publish_many(&topic, 1, KEEP).await;
    let expected = Member { fence: b.fence(), location: b.location, joined };
    assert_eq!(members(&*t.store, &topic, 10).await, [expected]);
}

pub async fn members_are_where_they_are_now(t: Trial) {
    let (record, topic) = (t.open_resumable(token(1)).await, topic("a"));
    t.join(indexed(record.fence(), &topic)).await;
    let attached = t.attached(&record.id, token(1), None).await;
    let members = members(&*t.store, &topic, 10).await;
    assert_eq!(members.len(), 1);
    assert_eq!((&members[0].fence, &members[0].location), (&attached.fence(), &attached.location));
}

pub async fn a_member_can_change_its_index(t: Trial) {
    let (record, topic) = (t.open().await, topic("a"));
    t.join(plain(record.fence(), &topic)).await;
    let head = t.publish_many(&topic, 1, KEEP).await[0];
    assert_eq!(t.subscribe(indexed(record.fence(), &topic)).await, Subscribed::Already { head });
    let listed = members(&*t.store, &topic, 10).await;
    assert_eq!(listed.iter().map(|member| member.joined).collect::<Vec<_>>(), [head]);
    t.publish_many(&topic, 1, KEEP).await;
    t.subscribe(indexed(record.fence(), &topic)).await;
    assert_eq!(members(&*t.store, &topic, 10).await, listed);
    t.subscribe(plain(record.fence(), &topic)).await;
    assert_eq!(members(&*t.store, &topic, 10).await, []);
    assert_eq!(t.store.unsubscribe(&[(record.fence(), topic)]).await.unwrap(), [true]);
}

async fn crowd(t: &Trial, topic: &Topic, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        let some = (records.len()..count).take(50).map(|_| t.open());
        records.extend(join_all(some).await);
    }
    let subscriptions: Vec<_> = records.iter().map(|record| indexed(record.fence(), topic)).collect();
    for slice in subscriptions.chunks(500) {
        t.store.subscribe(slice).await.unwrap();
    }
    records
}

pub async fn thousands_are_listed_in_pages(t: Trial) {
    let topic = topic("crowd");
    let mut expected: Vec<_> = crowd(&t, &topic, 2500).await.into_iter().map(|record| record.id).collect();
    expected.sort();
    for limit in [1000, 33] {
        let mut listed = ids(&members(&*t.store, &topic, limit).await);
        listed.sort();
        assert_eq!(listed, expected);
    }
}

pub async fn who_stays_is_listed_once_while_others_go(t: Trial) {
    let topic = topic("crowd");
    let records = crowd(&t, &topic, 200).await;
    let (stay, go): (Vec<_>, Vec<_>) = records.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let (mut listed, mut cursor, mut go) = (Vec::new(), None::<String>, go.into_iter());
    loop {
        let page = t.store.members(&topic, cursor.as_deref(), 7).await.unwrap();
        listed.extend(ids(&page.items));
        assert!(listed.len() <= 10_000, "the listing ends");
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        for (_, record) in go.by_ref().take(5) {
            assert_eq!(t.store.unsubscribe(&[(record.fence(), topic.clone())]).await.unwrap(), [true]);
        }
        crowd(&t, &topic, 1).await;
    }
    assert_eq!(listed.len(), listed.iter().collect::<HashSet<_>>().len(), "somebody is listed twice");
    for (_, record) in stay {
        assert!(listed.contains(&record.id), "{record:?} stayed and is not listed");
    }
}

pub async fn death_hides_a_member_at_once(t: Trial) {
    let (record, other, topic) = (t.open().await, t.open().await, topic("a"));
    t.join(indexed(record.fence(), &topic)).await;
    t.join(indexed(other.fence(), &topic)).await;
    let claim = t.claim(&record).await;
    assert_eq!(ids(&members(&*t.store, &topic, 1).await), std::slice::from_ref(&other.id));
    assert_eq!(t.store.topics(&record.id).await.unwrap(), []);
    t.store.remove(&[claim]).await.unwrap();
    assert_eq!(ids(&members(&*t.store, &topic, 1).await), [other.id]);
}

pub async fn the_sweep_leaves_nothing(t: Trial) {
    let new = t.new_channel();
    let record = t.open_as(new.clone()).await;
    let topics: Vec<_> = (0..20).map(|n| topic(&format!("t{n}"))).collect();
    for topic in &topics {
        t.join(indexed(record.fence(), topic)).await;
    }
    t.end(&record).await;
    for topic in &topics {
        assert_eq!(members(&*t.store, topic, 10).await, []);
        assert!(!t.publish(publication(topic, 0, None)).await.indexed);
    }
    // A new channel with the same id has none of its memberships.
    let again = t.open_as(new).await;
    assert_eq!(t.store.topics(&again.id).await.unwrap(), []);
    assert_eq!(members(&*t.store, &topics[0], 10).await, []);
    t.join(indexed(again.fence(), &topics[0])).await;
}

pub async fn who_joins_while_dying_leaves_no_row(t: Trial) {
    let topic = topic("a");
    for _ in 0..50 {
        let record = t.open().await;
        let (joining, dying) = (t.handle().await, t.handle().await);
        let join = indexed(record.fence(), &topic);
        let joining = tokio::spawn(async move { joining.subscribe(&[join]).await.unwrap().remove(0) });
        let fence = record.fence();
        let dying = tokio::spawn(async move {
            let claim = dying.claim(&fence, &NodeId::unique(), LONG).await.unwrap();
            dying.remove(&[claim.expect("the only claimer")]).await.unwrap();
        });
        let joined = joining.await.unwrap();
        dying.await.unwrap();
        assert!(matches!(joined, Subscribed::Joined { .. } | Subscribed::Dead), "{joined:?}");
        assert_eq!(t.store.topics(&record.id).await.unwrap(), []);
        assert!(!t.publish(publication(&topic, 0, None)).await.indexed, "after {joined:?} a row is left");
    }
}

pub async fn publications_tell_of_indexed_members(t: Trial) {
    let (a, b, topic) = (t.open().await, t.open().await, topic("a"));
    let is_indexed = async |keep| t.publish(publication(&topic, 0, keep)).await.indexed;
    assert!(!is_indexed(None).await);
    t.join(plain(a.fence(), &topic)).await;
    assert!(!is_indexed(None).await);
    t.join(indexed(b.fence(), &topic)).await;
    assert!(is_indexed(None).await);
    assert!(is_indexed(Some(KEEP)).await);
    t.store.unsubscribe(&[(b.fence(), topic.clone())]).await.unwrap();
    assert!(!is_indexed(Some(KEEP)).await);
}

pub async fn one_channel_may_have_many_topics(t: Trial) {
    let record = t.open().await;
    let mut topics: Vec<_> = (0..1000).map(|n| topic(&format!("t{n}"))).collect();
    let all: Vec<_> = topics.iter().map(|topic| plain(record.fence(), topic)).collect();
    let answers = t.store.subscribe(&all).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Subscribed::Joined { .. })));
    topics.sort();
    let mut listed = t.store.topics(&record.id).await.unwrap();
    listed.sort();
    assert_eq!(listed, topics);
    let claim = t.claim(&record).await;
    assert_eq!(claim.topics.len(), 1000);
    t.store.remove(&[claim]).await.unwrap();
}

pub async fn a_foreign_cursor_is_refused_or_ends(t: Trial) {
    let topic = topic("a");
    t.join(indexed(t.open().await.fence(), &topic)).await;
    for cursor in ["", "x'*{}", "18446744073709551615"] {
        if let Ok(page) = t.store.members(&topic, Some(cursor), 10).await {
            assert!(page.items.len() <= 1 && page.next.is_none());
        }
    }
    assert_eq!(members(&*t.store, &topic, 10).await.len(), 1);
}
