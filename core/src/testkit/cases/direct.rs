use std::sync::Arc;

use crate::event::Position;
use crate::name::ChannelId;
use crate::store::{Delivered, Record, Replay};
use crate::testkit::trial::{LONG, Trial, events, is_gap, message, number, token};

async fn deliver(t: &Trial, to: &Record, number: usize) -> Delivered {
    t.store.deliver(&[(to.id.clone(), message(number))]).await.unwrap().remove(0)
}

async fn detached(t: &Trial) -> Record {
    let record = t.open_resumable(token(1)).await;
    t.store.detach(&record.fence(), LONG).await.unwrap();
    t.record(&record.id).await
}

async fn stored(t: &Trial, to: &Record, number: usize) -> Position {
    match deliver(t, to, number).await {
        Delivered::Stored(position) => position,
        other => panic!("must be stored, is {other:?}"),
    }
}

const BEGINNING: Position = Position { epoch: 0, offset: 0, check: 0 };

pub async fn a_connected_channel_is_located(t: Trial) {
    let node = t.node().await;
    for record in [t.open().await, t.open_on(&node, None).await] {
        let located = Delivered::At { location: record.location.clone(), position: None };
        assert_eq!(deliver(&t, &record, 0).await, located);
        // It cannot resume: no event is kept.
        assert!(matches!(t.store.inbox(&record.id, &BEGINNING, 10).await.unwrap(),
            Replay::Events { events, more: false, .. } if events.is_empty()));
    }
}

pub async fn a_resumable_channel_is_located_and_keeps_it(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let Delivered::At { location, position: Some(position) } = deliver(&t, &record, 7).await else {
        panic!("it is connected and resumable")
    };
    assert_eq!((location, position.offset), (record.location.clone(), 1));
    let (kept, _) = events(t.store.inbox(&record.id, &BEGINNING, 10).await.unwrap());
    assert_eq!(kept.iter().map(|(position, event)| (*position, number(event))).collect::<Vec<_>>(), [(position, 7)]);
}

pub async fn a_detached_channel_has_an_inbox(t: Trial) {
    let record = detached(&t).await;
    let mut positions = Vec::new();
    for n in 0..5 {
        positions.push(stored(&t, &record, n).await);
    }
    assert!((1..=5).eq(positions.iter().map(|position| position.offset)));
    let attached = t.attached(&record.id, token(1), None).await;
    let store = t.handle().await;
    for (from, after) in std::iter::once(&BEGINNING).chain(&positions).enumerate() {
        let Replay::Events { events, head, more } = store.inbox(&record.id, after, 2).await.unwrap() else {
            panic!("nothing is lost after {from}")
        };
        let expected: Vec<_> = (from..5).take(2).collect();
        assert_eq!(events.iter().map(|(_, event)| number(event)).collect::<Vec<_>>(), expected);
        assert_eq!((head, more), (positions[4], from + 2 < 5));
    }
    let Delivered::At { location, position: Some(sixth) } = deliver(&t, &attached, 5).await else {
        panic!("it is connected again")
    };
    assert_eq!((location, sixth.offset), (attached.location, 6));
}

pub async fn nobody_is_absent(t: Trial) {
    let (dead, removed, living) = (t.open().await, t.open().await, detached(&t).await);
    t.claim(&dead).await;
    t.end(&removed).await;
    let unknown = ChannelId::unique();
    let to = [&unknown, &dead.id, &living.id, &removed.id];
    let sends: Vec<_> = to.into_iter().map(|id| (id.clone(), message(0))).collect();
    let answers = t.store.deliver(&sends).await.unwrap();
    assert!(matches!(answers[2], Delivered::Stored(_)));
    for absent in [0, 1, 3] {
        assert_eq!(answers[absent], Delivered::Absent);
        assert!(is_gap(&t.store.inbox(to[absent], &BEGINNING, 10).await.unwrap()));
    }
    assert_eq!(t.store.deliver(&[]).await.unwrap(), []);
}

pub async fn a_wrong_position_is_a_gap(t: Trial) {
    let record = detached(&t).await;
    let (first, second) = (stored(&t, &record, 0).await, stored(&t, &record, 1).await);
    let wrong = [
        Position { check: first.check ^ 1, ..first },
        Position { offset: 3, ..second },
        Position { epoch: first.epoch ^ 1, ..first },
    ];
    for position in wrong {
        let inbox = t.store.inbox(&record.id, &position, 10).await.unwrap();
        assert_eq!(inbox, Replay::Gap { head: second }, "{position:?}");
    }
}

pub async fn concurrent_sends_are_all_kept_in_order(t: Trial) {
    let record = detached(&t).await;
    let mut tasks = Vec::new();
    for sender in 0..4 {
        let (store, id) = (t.handle().await, record.id.clone());
        tasks.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            for n in 0..5 {
                let slice: Vec<_> = (0..2).map(|m| (id.clone(), message(sender * 100 + n * 2 + m))).collect();
                for ((_, event), answer) in slice.iter().zip(store.deliver(&slice).await.unwrap()) {
                    let Delivered::Stored(position) = answer else { panic!("must be stored, is {answer:?}") };
                    sent.push((position, Arc::clone(event)));
                }
            }
            sent
        }));
    }
    let mut sent = Vec::new();
    for task in tasks {
        sent.extend(task.await.unwrap());
    }
    sent.sort_by_key(|(position, _)| position.offset);
    assert!((1..=40).eq(sent.iter().map(|(position, _)| position.offset)));
    assert_eq!(events(t.store.inbox(&record.id, &BEGINNING, 100).await.unwrap()).0, sent);
}

pub async fn an_inbox_goes_with_its_channel(t: Trial) {
    let mut new = t.new_channel();
    new.grace = Some(LONG);
    let record = t.open_as(new.clone()).await;
    let first = deliver(&t, &record, 0).await;
    t.end(&record).await;
    let again = t.open_as(new).await;
    let (kept, _) = events(t.store.inbox(&again.id, &BEGINNING, 10).await.unwrap());
    assert_eq!(kept, []);
    let Delivered::At { position: Some(old), .. } = first else { panic!("it was resumable") };
    assert!(is_gap(&t.store.inbox(&again.id, &old, 10).await.unwrap()));
}
