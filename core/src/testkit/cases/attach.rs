use crate::name::{ChannelId, NodeId};
use crate::store::{
    Attach, AttachAs, Attached, Delivered, Detached, Fence, NewChannel, Patch, RecordPhase, StoreErrorKind, Subscribed,
    Written,
};
use crate::testkit::trial::{LONG, Trial, message, new_location, plain, session, set_session, set_state, token, topic};

fn confirmed() -> Patch {
    Patch { token_confirmed: true, ..Patch::default() }
}

fn holder(generation: u64) -> Attach {
    Attach { by: AttachAs::Holder { generation }, location: new_location(), next_token: None }
}

pub async fn the_present_token_attaches(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let attach = Attach { by: AttachAs::Token(token(1)), location: new_location(), next_token: Some(token(2)) };
    let Attached::Attached { record: attached, displaced } = t.store.attach(&record.id, attach.clone()).await.unwrap()
    else {
        panic!("the token is the present one")
    };
    assert_eq!((attached.generation, &attached.location), (2, &attach.location));
    assert_eq!(displaced, Some(record.location));
    assert_eq!(t.record(&record.id).await, *attached);
    assert_eq!(t.attached(&record.id, token(2), Some(token(3))).await.generation, 3);
}

pub async fn other_tokens_do_not_attach(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    assert_eq!(t.attach(&record.id, token(2), None).await, Attached::Refused);
    assert_eq!(t.attach(&record.id, token(0), None).await, Attached::Refused);
    assert_eq!(t.record(&record.id).await, record);
}

pub async fn a_channel_without_a_token_is_not_attached(t: Trial) {
    let record = t.open().await;
    assert_eq!(t.attach(&record.id, token(0), None).await, Attached::Refused);
    assert_eq!(t.attach(&ChannelId::unique(), token(0), None).await, Attached::Refused);
}

pub async fn the_previous_token_holds_until_confirmed(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    t.attached(&record.id, token(1), Some(token(2))).await;
    // The welcome with token 2 was lost: the client attaches with token 1 again.
    let again = t.attached(&record.id, token(1), Some(token(3))).await;
    assert_eq!(again.generation, 3);
    assert_eq!(t.attach(&record.id, token(2), None).await, Attached::Refused);
    let fourth = t.attached(&record.id, token(3), Some(token(4))).await;
    assert_eq!(t.store.write(&fourth.fence(), confirmed()).await.unwrap(), Written::Done);
    assert_eq!(t.attach(&record.id, token(3), None).await, Attached::Refused);
    assert_eq!(t.attached(&record.id, token(4), None).await.generation, 5);
}

pub async fn an_old_token_is_not_replayed(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    t.attached(&record.id, token(1), Some(token(2))).await;
    t.attached(&record.id, token(2), Some(token(3))).await;
    assert_eq!(t.attach(&record.id, token(1), None).await, Attached::Refused);
}

pub async fn a_stale_connection_confirms_nothing(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    t.attached(&record.id, token(1), Some(token(2))).await;
    assert_eq!(t.store.write(&record.fence(), confirmed()).await.unwrap(), Written::Stale);
    t.attached(&record.id, token(1), None).await;
}

pub async fn a_token_that_is_not_replaced_stays(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    for generation in 2..5 {
        assert_eq!(t.attached(&record.id, token(1), None).await.generation, generation);
    }
}

pub async fn the_detached_displace_nobody(t: Trial) {
    let node = t.node().await;
    let record = t.open_on(&node, Some(LONG)).await;
    t.store.detach(&record.fence(), LONG).await.unwrap();
    let attached = t.store.attach(&record.id, holder(1)).await.unwrap();
    let Attached::Attached { record, displaced } = attached else { panic!("the generation is the present one") };
    assert_eq!((record.phase, record.generation, displaced), (RecordPhase::Open, 2, None));
}

pub async fn a_holder_attaches_with_its_generation_only(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    t.attached(&record.id, token(1), Some(token(2))).await;
    assert_eq!(t.store.attach(&record.id, holder(1)).await.unwrap(), Attached::Refused);
    assert_eq!(t.store.attach(&record.id, holder(3)).await.unwrap(), Attached::Refused);
    assert!(matches!(t.store.attach(&record.id, holder(2)).await.unwrap(), Attached::Attached { .. }));
}

pub async fn a_holder_whose_answer_was_lost_attaches_again(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let attach = Attach { location: record.location.clone(), ..holder(1) };
    for generation in 2..4 {
        let attached = t.store.attach(&record.id, attach.clone()).await.unwrap();
        let Attached::Attached { record, displaced } = attached else { panic!("generation {generation} is refused") };
        assert_eq!((record.generation, displaced), (generation, None));
    }
}

pub async fn a_holder_leaves_the_client_its_token(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let attach = Attach { next_token: Some(token(2)), ..holder(1) };
    assert!(matches!(t.store.attach(&record.id, attach).await.unwrap(), Attached::Attached { .. }));
    t.attached(&record.id, token(1), None).await;
    t.attached(&record.id, token(2), None).await;
}

pub async fn opening_stays_opening_when_it_moves(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    assert_eq!(t.attached(&record.id, token(1), None).await.phase, RecordPhase::Opening);
    let fence = Fence { generation: 2, ..record.fence() };
    t.store.write(&fence, Patch { opened: true, ..Patch::default() }).await.unwrap();
    assert_eq!(t.attached(&record.id, token(1), None).await.phase, RecordPhase::Open);
}

pub async fn a_taken_location_is_a_conflict(t: Trial) {
    let (record, other) = (t.open_resumable(token(1)).await, t.open().await);
    let attach = Attach { location: other.location.clone(), ..holder(1) };
    assert_eq!(t.store.attach(&record.id, attach).await.unwrap_err().kind, StoreErrorKind::Conflict);
    assert_eq!(t.record(&record.id).await, record);
    assert_eq!(t.store.find(&other.location).await.unwrap(), Some(other));
}

pub async fn the_place_that_a_channel_left_is_free(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    t.attached(&record.id, token(1), None).await;
    let next = t.open_as(NewChannel { location: record.location, ..t.new_channel() }).await;
    assert_eq!(t.store.find(&next.location).await.unwrap(), Some(next));
}

pub async fn writers_of_older_generations_are_refused(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let old = record.fence();
    t.join(plain(old.clone(), &topic("a"))).await;
    let present = t.attached(&record.id, token(1), None).await;
    let future = Fence { generation: 3, ..old.clone() };
    for fence in [old, future] {
        assert_eq!(t.store.write(&fence, set_state(0, "1")).await.unwrap(), Written::Stale);
        assert_eq!(t.store.write(&fence, set_session(0, Some(session("eve")))).await.unwrap(), Written::Stale);
        assert_eq!(t.store.detach(&fence, LONG).await.unwrap(), Detached::Stale);
        assert_eq!(t.subscribe(plain(fence.clone(), &topic("b"))).await, Subscribed::Dead);
        assert_eq!(t.store.unsubscribe(&[(fence.clone(), topic("a"))]).await.unwrap(), [false]);
        assert_eq!(t.store.claim(&fence, &NodeId::unique(), LONG).await.unwrap(), None);
    }
    assert_eq!(t.record(&record.id).await, present);
    assert_eq!(t.store.topics(&record.id).await.unwrap(), [topic("a")]);
    assert_eq!(t.store.write(&present.fence(), set_state(0, "1")).await.unwrap(), Written::Done);
}

pub async fn the_dead_refuse_everything(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    t.join(plain(record.fence(), &topic("a"))).await;
    let claim = t.claim(&record).await;
    assert_eq!(t.store.write(&record.fence(), set_state(0, "late")).await.unwrap(), Written::Stale);
    assert_eq!(t.attach(&record.id, token(1), None).await, Attached::Refused);
    for fence in [record.fence(), claim.fence] {
        assert_eq!(t.store.detach(&fence, LONG).await.unwrap(), Detached::Stale);
        assert_eq!(t.subscribe(plain(fence.clone(), &topic("b"))).await, Subscribed::Dead);
        assert_eq!(t.subscribe(plain(fence.clone(), &topic("a"))).await, Subscribed::Dead);
        assert_eq!(t.store.attach(&record.id, holder(fence.generation)).await.unwrap(), Attached::Refused);
    }
    assert_eq!(t.store.lock(&record.id, &NodeId::unique(), LONG).await.unwrap(), None);
    let delivered = t.store.deliver(&[(record.id.clone(), message(0))]).await.unwrap();
    assert_eq!(delivered, [Delivered::Absent]);
    assert_eq!(t.record(&record.id).await, claim.record);
}

pub async fn the_detached_keep_what_they_have(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let fence = record.fence();
    t.store.write(&fence, Patch { opened: true, ..set_state(0, "1") }).await.unwrap();
    t.join(plain(fence.clone(), &topic("a"))).await;
    assert_eq!(t.store.detach(&fence, LONG).await.unwrap(), Detached::Done);
    let detached = t.record(&record.id).await;
    let RecordPhase::Detached { until } = detached.phase else { panic!("is {:?}", detached.phase) };
    let grace = until.duration_since(record.opened_at).unwrap();
    assert!((LONG * 9 / 10..LONG * 11 / 10).contains(&grace), "{grace:?}");
    // A late handler of the same generation still writes.
    let late = Patch { opened: true, ..set_state(1, "2") };
    assert_eq!(t.store.write(&fence, late).await.unwrap(), Written::Done);
    assert_eq!(t.record(&record.id).await.phase, detached.phase);
    let attached = t.attached(&record.id, token(1), None).await;
    assert_eq!((attached.phase, attached.state.version), (RecordPhase::Open, 2));
    assert_eq!(t.store.topics(&record.id).await.unwrap(), [topic("a")]);
}

pub async fn detaching_twice_is_detaching_once(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    t.store.detach(&record.fence(), LONG).await.unwrap();
    let once = t.record(&record.id).await;
    assert_eq!(t.handle().await.detach(&record.fence(), LONG * 2).await.unwrap(), Detached::Done);
    assert_eq!(t.record(&record.id).await, once);
}

pub async fn an_unknown_channel_is_stale(t: Trial) {
    let fence = Fence { id: ChannelId::unique(), generation: 1 };
    assert_eq!(t.store.detach(&fence, LONG).await.unwrap(), Detached::Stale);
    assert_eq!(t.store.write(&fence, set_state(0, "1")).await.unwrap(), Written::Stale);
    assert_eq!(t.store.get(&fence.id).await.unwrap(), None);
}

pub async fn of_many_connections_the_last_one_has_the_channel(t: Trial) {
    let record = t.open_as(NewChannel { token: Some(token(1)), ..t.new_channel() }).await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (store, id) = (t.handle().await, record.id.clone());
        tasks.push(tokio::spawn(async move {
            let attach = Attach { by: AttachAs::Token(token(1)), location: new_location(), next_token: None };
            store.attach(&id, attach).await.unwrap()
        }));
    }
    let mut attached = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Attached::Attached { record, displaced } => attached.push((*record, displaced)),
            Attached::Refused => panic!("the token stays valid"),
        }
    }
    attached.sort_by_key(|(record, _)| record.generation);
    let mut before = record;
    for (record, displaced) in attached {
        assert_eq!(record.generation, before.generation + 1);
        assert_eq!(displaced, Some(before.location.clone()));
        assert_eq!(t.store.find(&before.location).await.unwrap(), None);
        before = record;
    }
    assert_eq!(t.record(&before.id).await, before);
}
