use std::sync::Arc;

use crate::close::Close;
use crate::event::Position;
use crate::name::{ChannelId, NodeId};
use crate::store::{BusNode, Command, Fence, Store, StoreErrorKind};
use crate::testkit::Ears;
use crate::testkit::trial::{KEEP, Trial, events, eventually, message, number, publication, topic};

async fn start(store: &dyn Store) -> (NodeId, Arc<Ears>, Arc<dyn BusNode>) {
    let (node, ears) = (NodeId::unique(), Ears::new());
    let bus = store.start(&node, ears.clone()).await.unwrap();
    (node, ears, bus)
}

fn close(number: usize) -> Command {
    Command::Close { channel: ChannelId::new(number.to_string()).unwrap(), close: Close::policy("kicked") }
}

pub async fn a_node_hears_what_it_is_interested_in(t: Trial) {
    let (topic, other) = (topic("a"), t.handle().await);
    let (_, ears, bus) = start(&*t.store).await;
    let before = t.publish_many(&topic, 2, KEEP).await;
    let heads = bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    assert_eq!(heads, [before[1]]);
    let mut published = Vec::new();
    for (n, keep) in [(0, Some(KEEP)), (1, None), (2, Some(KEEP))] {
        published.push(other.publish(&[publication(&topic, n, keep)]).await.remove(0).unwrap().position);
    }
    let heard = ears.hear(&topic, 3).await;
    assert_eq!(heard.iter().map(|(position, _)| *position).collect::<Vec<_>>(), published);
    assert_eq!(heard.iter().map(|(_, event)| number(event)).collect::<Vec<_>>(), [0, 1, 2]);
}

pub async fn a_node_hears_itself(t: Trial) {
    let topic = topic("a");
    let (_, ears, bus) = start(&*t.store).await;
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let position = t.publish(publication(&topic, 5, None)).await.position;
    let heard = ears.hear(&topic, 1).await;
    assert_eq!((heard[0].0, number(&heard[0].1)), (position, 5));
}

pub async fn a_node_hears_nothing_else(t: Trial) {
    let (a, b) = (topic("a"), topic("b"));
    let (_, ears, bus) = start(&*t.store).await;
    bus.interest(std::slice::from_ref(&a), &[]).await.unwrap();
    t.publish(publication(&b, 0, None)).await;
    t.publish(publication(&a, 1, None)).await;
    assert_eq!(ears.hear(&a, 1).await.len(), 1);
    assert_eq!(ears.events(&b), []);
}

pub async fn interest_ends(t: Trial) {
    let (a, b) = (topic("a"), topic("b"));
    let (_, ears, bus) = start(&*t.store).await;
    bus.interest(&[a.clone(), b.clone()], &[]).await.unwrap();
    t.publish(publication(&a, 0, None)).await;
    ears.hear(&a, 1).await;
    bus.interest(&[], std::slice::from_ref(&a)).await.unwrap();
    t.publish(publication(&a, 1, None)).await;
    t.publish(publication(&b, 2, None)).await;
    ears.hear(&b, 1).await;
    assert_eq!(ears.events(&a).len(), 1);
    // Interest begins again; ending one that is not there has no effect.
    bus.interest(std::slice::from_ref(&a), &[topic("c"), b]).await.unwrap();
    t.publish(publication(&a, 3, None)).await;
    assert_eq!(number(&ears.hear(&a, 2).await[1].1), 3);
}

pub async fn interest_twice_hears_once(t: Trial) {
    let (topic, sentinel) = (topic("a"), topic("b"));
    let (_, ears, bus) = start(&*t.store).await;
    let first = bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    assert_eq!(bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap(), first);
    let numbers = async |count| {
        let heard = ears.hear(&topic, count).await;
        heard.iter().map(|(_, event)| number(event)).collect::<Vec<_>>()
    };
    for n in 0..2 {
        t.publish(publication(&topic, n, None)).await;
    }
    assert_eq!(numbers(2).await, [0, 1]);
    // A call that ends and begins interest keeps it.
    let both = std::slice::from_ref(&topic);
    bus.interest(both, both).await.unwrap();
    t.publish(publication(&topic, 2, None)).await;
    assert_eq!(numbers(3).await, [0, 1, 2]);
    // One end is enough.
    bus.interest(&[], both).await.unwrap();
    bus.interest(std::slice::from_ref(&sentinel), &[]).await.unwrap();
    t.publish(publication(&topic, 3, None)).await;
    t.publish(publication(&sentinel, 4, None)).await;
    ears.hear(&sentinel, 1).await;
    assert_eq!(ears.events(&topic).len(), 3);
}

pub async fn interest_answers_each_head(t: Trial) {
    let (_, _ears, bus) = start(&*t.store).await;
    let head = t.publish_many(&topic("b"), 3, KEEP).await[2];
    let heads = bus.interest(&[topic("a"), topic("b"), topic("c")], &[]).await.unwrap();
    assert_eq!((heads.len(), heads[0].offset, heads[1], heads[2].offset), (3, 0, head, 0));
    let first = t.publish_many(&topic("a"), 1, KEEP).await[0];
    assert_eq!((first.epoch, first.offset), (heads[0].epoch, 1));
    assert_eq!(bus.interest(&[], &[]).await.unwrap(), []);
}

pub async fn all_nodes_hear_one_order(t: Trial) {
    let topic = topic("a");
    let (_, one, first) = start(&*t.store).await;
    let (_, two, second) = start(&*t.handle().await).await;
    for bus in [&first, &second] {
        bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    }
    let mut tasks = Vec::new();
    for publisher in 0..4 {
        let (store, topic) = (t.handle().await, topic.clone());
        tasks.push(tokio::spawn(async move {
            for n in 0..50 {
                let keep = (publisher % 2 == 0).then_some(KEEP);
                store.publish(&[publication(&topic, publisher * 100 + n, keep)]).await.remove(0).unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let heard = one.hear(&topic, 200).await;
    assert_eq!(two.hear(&topic, 200).await, heard);
    assert!((1..=200).eq(heard.iter().map(|(position, _)| position.offset)));
}

pub async fn nothing_is_lost_after_the_head(t: Trial) {
    let topic = topic("a");
    let store = t.handle().await;
    let publishing = {
        let topic = topic.clone();
        tokio::spawn(async move {
            let mut positions = Vec::new();
            for n in 0..300 {
                positions.push(store.publish(&[publication(&topic, n, Some(KEEP))]).await.remove(0).unwrap().position);
                tokio::task::yield_now().await;
            }
            positions
        })
    };
    let (_, ears, bus) = start(&*t.store).await;
    let head = bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap()[0];
    let positions = publishing.await.unwrap();
    let after = &positions[usize::try_from(head.offset).unwrap()..];
    // Events on their way when interest began may be heard, too.
    let heard = async || {
        let events = ears.events(&topic);
        let positions: Vec<Position> = events.iter().map(|(position, _)| *position).collect();
        assert!(positions.is_sorted_by_key(|position| position.offset));
        positions.ends_with(after).then_some(())
    };
    eventually("all that came after the head", heard).await;
}

pub async fn commands_arrive_in_order(t: Trial) {
    let (to, ears, _bus) = start(&*t.store).await;
    let (_, _, from) = start(&*t.handle().await).await;
    let all: Vec<_> = (0..100).map(close).collect();
    for slice in all.chunks(7) {
        assert!(from.send(&to, slice).await.unwrap());
    }
    assert_eq!(ears.obey(100).await, all);
}

pub async fn commands_arrive_as_they_are(t: Trial) {
    let (to, ears, bus) = start(&*t.store).await;
    let channel = ChannelId::unique();
    let position = Position { epoch: (1 << 53) - 1, offset: 7, check: u32::MAX };
    let all = [
        Command::Deliver { channel: channel.clone(), position: Some(position), event: message(1) },
        Command::Deliver { channel: channel.clone(), position: None, event: message(2) },
        Command::Close { channel: channel.clone(), close: Close::new(4001, "é\"'").unwrap() },
        Command::Evict { fence: Fence { id: channel, generation: 3 } },
    ];
    // A node may write to itself.
    assert!(bus.send(&to, &all).await.unwrap());
    assert_eq!(ears.obey(4).await, all);
}

pub async fn commands_go_to_one_node(t: Trial) {
    let ((a, a_ears, _a_bus), (b, b_ears, bus)) = (start(&*t.store).await, start(&*t.store).await);
    assert!(bus.send(&a, &[close(1)]).await.unwrap());
    assert!(bus.send(&b, &[close(2)]).await.unwrap());
    assert!(!bus.send(&NodeId::unique(), &[close(3)]).await.unwrap());
    assert_eq!(a_ears.obey(1).await, [close(1)]);
    assert_eq!(b_ears.obey(1).await, [close(2)]);
}

pub async fn a_node_is_on_the_bus_once(t: Trial) {
    let (node, ears, bus) = start(&*t.store).await;
    let error = t.handle().await.start(&node, Ears::new()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Conflict);
    bus.send(&node, &[close(1)]).await.unwrap();
    ears.obey(1).await;
}

pub async fn who_stops_is_gone(t: Trial) {
    let topic = topic("a");
    let (node, ears, bus) = start(&*t.store).await;
    let (_, other_ears, other) = start(&*t.store).await;
    for bus in [&bus, &other] {
        bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    }
    bus.stop().await;
    bus.stop().await;
    assert!(!other.send(&node, &[close(1)]).await.unwrap());
    t.publish(publication(&topic, 0, None)).await;
    assert_eq!(number(&other_ears.hear(&topic, 1).await[0].1), 0);
    let error = bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    // Another start of that name is another node.
    let again = Ears::new();
    let bus = t.store.start(&node, again.clone()).await.unwrap();
    assert!(bus.send(&node, &[close(2)]).await.unwrap());
    assert_eq!(again.obey(1).await, [close(2)]);
    t.publish(publication(&topic, 1, None)).await;
    other_ears.hear(&topic, 2).await;
    assert_eq!((again.events(&topic), ears.events(&topic).len()), (vec![], 0));
}

pub async fn who_is_dropped_is_gone(t: Trial) {
    let (node, _ears, bus) = start(&*t.store).await;
    let (_, _, other) = start(&*t.store).await;
    drop(bus);
    let gone = async || (!other.send(&node, &[close(1)]).await.unwrap()).then_some(());
    eventually("the node to be gone", gone).await;
}

pub async fn a_lost_log_is_noticed(t: Trial) {
    let topic = topic("a");
    let (_, ears, bus) = start(&*t.store).await;
    bus.interest(std::slice::from_ref(&topic), &[]).await.unwrap();
    let before = t.publish_many(&topic, 2, KEEP).await[1];
    ears.hear(&topic, 2).await;
    t.lose_log(&topic).await;
    let after = t.publish_many(&topic, 1, KEEP).await[0];
    let told = async || {
        let heard = ears.events(&topic);
        let elsewhere = heard.last().is_some_and(|(position, _)| position.epoch != before.epoch);
        (elsewhere || ears.has_gap(&topic)).then_some(())
    };
    eventually("a gap, or an event of another epoch", told).await;
    let start = Position { offset: 0, check: 0, ..after };
    assert_eq!(events(t.replay(&topic, &start).await).0.len(), 1);
}

pub async fn a_healthy_bus_hears(t: Trial) {
    let (_, _ears, bus) = start(&*t.store).await;
    eventually("the bus to be healthy", async || bus.health().hears.then_some(())).await;
    bus.stop().await;
}
