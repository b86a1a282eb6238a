use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Event, Position, Publisher};
use crate::name::{ChannelId, ConnectionId, InvalidName, MAX_NAME, NodeId, Topic, UserId};
use crate::store::{
    Attach, AttachAs, Attached, Command, Delivered, Lease, LeaseTerm, Location, NewChannel, PresenceEntry, Publication,
    StoredSession, Subscribed, Subscription,
};
use crate::testkit::Ears;
use crate::testkit::trial::{
    KEEP, LONG, Trial, events, indexed, message, new_location, plain, present, publication, set_state,
};

/// Names that break strings that are concatenated, and pairs that are easily confused.
fn hostile() -> Vec<String> {
    let mut names: Vec<String> = [
        "a",
        "A",
        " a",
        "a ",
        "a b",
        "'",
        "''",
        "\"",
        "a'; DROP TABLE channels; --",
        "{a}",
        "{}",
        "}{",
        "*",
        "a*",
        "?",
        "[a-z]",
        ":",
        "a:b",
        "a::b",
        "a:b:c",
        "%",
        "%s",
        "_",
        "\\",
        "\\\\",
        "\\'",
        "\\x00",
        "$1",
        "$$",
        "$user:a",
        "#",
        "a/b",
        "../a",
        "a\u{301}",
        "\u{e1}",
        "\u{1D11E}",
        "\u{1F468}\u{200D}\u{1F469}",
        "\u{202E}abc",
        "\u{FEFF}",
        "-1",
        "0",
        "null",
        "NaN",
        "1e9",
        "a,b",
        "a|b",
        "a;b",
        "(a)",
        "<a>",
        "@",
        "&",
        "=",
        "~",
        "`",
        "^",
        "!",
        "\u{FFFD}",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("x".repeat(MAX_NAME));
    names.push("x".repeat(MAX_NAME - 1));
    names.push("\u{1D11E}".repeat(MAX_NAME / 4));
    names.push("'".repeat(MAX_NAME));
    names.push("}".repeat(MAX_NAME));
    names
}

pub async fn what_is_no_name_is_refused(_: Trial) {
    fn refused<N: std::fmt::Debug>(new: impl Fn(&str) -> Result<N, InvalidName>) {
        for bad in ["", "\0", "a\0", "a\nb", "\r", "\t", "\u{7f}", "\u{85}"] {
            assert!(new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(new(&"x".repeat(MAX_NAME + 1)).unwrap_err(), InvalidName::TooLong(MAX_NAME + 1));
        assert!(new(&"\u{1D11E}".repeat(MAX_NAME / 4 + 1)).is_err());
        for name in hostile() {
            new(&name).unwrap();
        }
    }
    refused(|name| ChannelId::new(name));
    refused(|name| ConnectionId::new(name));
    refused(|name| NodeId::new(name));
    refused(|name| UserId::new(name));
    refused(|name| Topic::new(name));
}

pub async fn channels_by_any_name(t: Trial) {
    let by = NodeId::unique();
    let mut records = Vec::new();
    for name in hostile() {
        let id = ChannelId::new(&name).unwrap();
        let new = NewChannel { id, grace: Some(LONG), endpoint: Arc::from(name.as_str()), ..t.new_channel() };
        records.push(t.open_as(new).await);
    }
    for (n, record) in records.iter().enumerate() {
        assert_eq!((t.record(&record.id).await, &*record.endpoint), (record.clone(), record.id.as_str()));
        let fence = record.fence();
        t.store.write(&fence, set_state(0, "1")).await.unwrap();
        t.join(present(fence.clone(), &topic("all"), "ada")).await;
        t.join(indexed(fence.clone(), &topic("all-indexed"))).await;
        let Delivered::At { position: Some(position), .. } =
            t.store.deliver(&[(record.id.clone(), message(n))]).await.unwrap().remove(0)
        else {
            panic!("{record:?} is connected and resumable")
        };
        assert_eq!(position.offset, 1, "{record:?}");
        let lock = t.store.lock(&record.id, &by, LONG).await.unwrap().expect("locked apart");
        assert!(t.store.unlock(&lock).await.unwrap());
        let by = AttachAs::Holder { generation: 1 };
        let attach = Attach { by, location: new_location(), next_token: None };
        assert!(matches!(t.store.attach(&record.id, attach).await.unwrap(), Attached::Attached { .. }));
    }
    let listed = t.store.members(&topic("all-indexed"), None, 1000).await.unwrap().items;
    assert_eq!(listed.len(), records.len());
    for record in &records {
        let inbox = t.store.inbox(&record.id, &Position { epoch: 0, offset: 0, check: 0 }, 10).await.unwrap();
        assert_eq!(events(inbox).0.len(), 1);
        assert_eq!(t.store.topics(&record.id).await.unwrap().len(), 2);
        t.end(&t.record(&record.id).await).await;
        assert_eq!(t.store.get(&record.id).await.unwrap(), None);
    }
    assert_eq!(t.store.presence(&topic("all"), None, 1000).await.unwrap().items, []);
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub async fn connections_by_any_name(t: Trial) {
    let node = t.node().await;
    let mut places = Vec::new();
    for name in hostile() {
        let connection = ConnectionId::new(&name).unwrap();
        places.push(Location::Node { node: node.clone(), connection: connection.clone() });
        places.push(Location::Gateway { endpoint: Arc::from(name.as_str()), connection });
    }
    let mut records = Vec::new();
    for location in places {
        records.push(t.open_as(NewChannel { location, ..t.new_channel() }).await);
    }
    for record in records {
        assert_eq!(t.record(&record.id).await, record);
        if record.location.node().is_none() {
            assert_eq!(t.store.find(&record.location).await.unwrap(), Some(record));
        }
    }
}

pub async fn nodes_by_any_name(t: Trial) {
    let mut nodes = Vec::new();
    for name in hostile() {
        let node = NodeId::new(&name).unwrap();
        assert_eq!(t.store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Lost, "{name}");
        assert_eq!(t.store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap(), Lease::Held);
        let ears = Ears::new();
        let bus = t.store.start(&node, ears.clone()).await.unwrap();
        let record = t.open_on(&node, None).await;
        nodes.push((node, ears, bus, record));
    }
    for (node, _, bus, record) in &nodes {
        let close = Command::Evict { fence: record.fence() };
        assert!(bus.send(node, &[close]).await.unwrap());
    }
    for (node, ears, bus, record) in &nodes {
        assert_eq!(ears.obey(1).await, [Command::Evict { fence: record.fence() }], "{node}");
        assert_eq!(t.store.lease(node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Held);
        t.store.release(node).await.unwrap();
        assert_eq!(t.due(1).await[0].fence.id, record.id, "{node}");
        bus.stop().await;
    }
}

pub async fn topics_by_any_name(t: Trial) {
    let (record, ears, names) = (t.open().await, Ears::new(), hostile());
    let bus = t.store.start(&NodeId::unique(), ears.clone()).await.unwrap();
    let topics: Vec<_> = names.iter().map(|name| topic(name)).collect();
    let heads = bus.interest(&topics, &[]).await.unwrap();
    assert_eq!(heads.iter().map(|head| head.epoch).collect::<HashSet<_>>().len().min(2), 2);
    for (n, topic) in topics.iter().enumerate() {
        t.join(indexed(record.fence(), topic)).await;
        let first = t.publish(publication(topic, n, Some(KEEP))).await;
        assert_eq!((first.position.offset, first.indexed), (1, true), "{topic}");
        t.publish(publication(topic, n, Some(KEEP))).await;
        let (replayed, _) = events(t.replay(topic, &first.position).await);
        assert_eq!(replayed.len(), 1, "{topic}");
    }
    for (n, topic) in topics.iter().enumerate() {
        let heard = ears.hear(topic, 2).await;
        assert!(heard.iter().all(|(_, event)| *event == message(n)), "{topic}");
        assert_eq!(t.store.members(topic, None, 10).await.unwrap().items.len(), 1, "{topic}");
        let relay = t.store.relay(topic, &NodeId::unique(), LONG).await.unwrap().expect("relayed apart");
        assert!(t.store.relay_done(&relay, &heard[1].0, None).await.unwrap());
    }
    let mut listed = t.store.topics(&record.id).await.unwrap();
    let mut expected = topics.clone();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for topic in &topics {
        assert_eq!(t.store.unsubscribe(&[(record.fence(), topic.clone())]).await.unwrap(), [true], "{topic}");
    }
    assert_eq!(t.store.topics(&record.id).await.unwrap(), []);
}

pub async fn users_by_any_name(t: Trial) {
    for name in hostile() {
        let user = UserId::new(&name).unwrap();
        let session = StoredSession { user: user.clone(), value: Bytes::from_static(b"{}") };
        let record = t.open_as(NewChannel { session: Some(session.clone()), ..t.new_channel() }).await;
        assert_eq!(record.session.value, Some(session.clone()));
        assert_eq!(t.record(&record.id).await.session.value, Some(session));
        let entry = PresenceEntry { user: Some(user.clone()), data: None };
        t.join(Subscription { presence: Some(entry.clone()), ..plain(record.fence(), &topic("users")) }).await;
        let present = t.store.presence(&topic("users"), None, 1000).await.unwrap().items;
        assert!(present.iter().any(|present| present.entry == entry), "{name}");
        let Ok(index) = Topic::of_user(&user) else { continue };
        assert!(matches!(t.subscribe(indexed(record.fence(), &index)).await, Subscribed::Joined { .. }));
        assert_eq!(t.store.members(&index, None, 10).await.unwrap().items.len(), 1, "{name}");
    }
}

pub async fn keys_and_events_by_any_name(t: Trial) {
    let topic = topic("a");
    let keyed = |name: &str| {
        let channel = ChannelId::new(name).unwrap();
        let publisher = Some(Publisher { channel: channel.clone(), turn: 1 });
        let event = Event { publisher, exclude: Some(channel), ..(*message(0)).clone() };
        let key = Some(Arc::from(name));
        Publication { topic: topic.clone(), event: Arc::new(event), retention: Some(KEEP), key }
    };
    let mut start = None;
    for (offset, name) in (1..).zip(hostile()) {
        let published = t.publish(keyed(&name)).await;
        assert_eq!((published.duplicate, published.position.offset), (false, offset), "{name}");
        start.get_or_insert(Position { offset: 0, check: 0, ..published.position });
    }
    for name in hostile() {
        assert!(t.publish(keyed(&name)).await.duplicate, "{name}");
    }
    let (kept, _) = events(t.replay(&topic, &start.unwrap()).await);
    let publishers: Vec<_> =
        kept.iter().map(|(_, event)| event.publisher.as_ref().unwrap().channel.to_string()).collect();
    assert_eq!(publishers, hostile());
    assert!(
        kept.iter()
            .all(|(_, event)| event.publisher.as_ref().map(|publisher| &publisher.channel) == event.exclude.as_ref())
    );
}
