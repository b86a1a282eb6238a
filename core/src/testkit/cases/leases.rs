use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::event::Position;
use crate::name::NodeId;
use crate::store::{
    Attach, AttachAs, Attached, Delivered, Lease, LeaseTerm, Location, NewChannel, Patch, RecordPhase, Written,
};
use crate::testkit::trial::{
    LONG, SHORT, Trial, events, eventually, message, number, plain, present, session, set_session, set_state, topic,
};

pub async fn a_lease_is_held_and_renewed(t: Trial) {
    let node = NodeId::unique();
    assert_eq!(t.store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap(), Lease::Held);
    for _ in 0..2 {
        assert_eq!(t.store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Held);
    }
    assert_eq!(t.handle().await.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap(), Lease::Held);
}

pub async fn a_lease_that_never_was_is_lost(t: Trial) {
    let node = NodeId::unique();
    assert_eq!(t.store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Lost);
    assert_eq!(t.store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Lost);
}

pub async fn an_ended_lease_is_lost(t: Trial) {
    let node = NodeId::unique();
    t.store.lease(&node, LeaseTerm::Acquire, SHORT).await.unwrap();
    let record = t.open_on(&node, None).await;
    assert_eq!(t.due(1).await[0].fence.id, record.id);
    assert_eq!(t.store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Lost);
    assert_eq!(t.store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap(), Lease::Held);
    assert_eq!(t.store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Held);
}

pub async fn a_renewed_lease_keeps_its_channels(t: Trial) {
    let (kept, lost) = (NodeId::unique(), NodeId::unique());
    t.store.lease(&kept, LeaseTerm::Acquire, SHORT).await.unwrap();
    assert_eq!(t.store.lease(&kept, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Held);
    t.store.lease(&lost, LeaseTerm::Acquire, SHORT).await.unwrap();
    let (living, dead) = (t.open_on(&kept, None).await, t.open_on(&lost, None).await);
    assert_eq!(t.due(1).await[0].fence.id, dead.id);
    assert_eq!(t.record(&living.id).await, living);
}

pub async fn a_released_lease_makes_channels_due(t: Trial) {
    let (node, other) = (t.node().await, t.node().await);
    let (record, living) = (t.open_on(&node, None).await, t.open_on(&other, None).await);
    t.store.release(&node).await.unwrap();
    let claims = t.store.claim_due(&other, 10, LONG).await.unwrap();
    assert_eq!(claims.iter().map(|claim| &claim.fence.id).collect::<Vec<_>>(), [&record.id]);
    assert_eq!(t.store.lease(&node, LeaseTerm::Renew, LONG).await.unwrap(), Lease::Lost);
    assert_eq!(t.record(&living.id).await, living);
    t.store.release(&node).await.unwrap();
    t.store.release(&NodeId::unique()).await.unwrap();
}

pub async fn a_node_without_a_lease_is_dead(t: Trial) {
    let record = t.open_on(&NodeId::unique(), None).await;
    assert_eq!(t.due(1).await[0].fence.id, record.id);
}

pub async fn a_dead_nodes_channels_come_in_pages(t: Trial) {
    let node = t.node().await;
    let mut expected = Vec::new();
    for _ in 0..30 {
        expected.push(t.open_on(&node, None).await.id);
    }
    t.store.release(&node).await.unwrap();
    let by = NodeId::unique();
    let mut claimed = Vec::new();
    let look = async || {
        let claims = t.store.claim_due(&by, 7, LONG).await.unwrap();
        assert!(claims.len() <= 7);
        claimed.extend(claims.into_iter().map(|claim| claim.fence.id));
        (claimed.len() >= 30).then_some(())
    };
    eventually("30 channels that are due", look).await;
    claimed.sort();
    expected.sort();
    assert_eq!(claimed, expected);
}

pub async fn a_dead_nodes_resumable_channels_wait(t: Trial) {
    let node = t.node().await;
    let mut records = Vec::new();
    for _ in 0..10 {
        records.push(t.open_on(&node, Some(SHORT * 2)).await);
    }
    let long = t.open_on(&node, Some(LONG)).await;
    t.store.release(&node).await.unwrap();
    let detached = async || {
        assert_eq!(t.store.claim_due(&NodeId::unique(), 3, LONG).await.unwrap(), []);
        matches!(t.record(&long.id).await.phase, RecordPhase::Detached { .. }).then_some(())
    };
    eventually("the detached channel", detached).await;
    assert_eq!(t.record(&long.id).await.generation, long.generation);
    // They die when their grace has ended.
    let mut claimed: Vec<_> = t.due(10).await.into_iter().map(|claim| claim.fence.id).collect();
    let mut expected: Vec<_> = records.into_iter().map(|record| record.id).collect();
    claimed.sort();
    expected.sort();
    assert_eq!(claimed, expected);
}

pub async fn a_dead_nodes_resumable_channels_keep_what_they_have(t: Trial) {
    let node = t.node().await;
    let record = t.open_on(&node, Some(LONG)).await;
    let patch = Patch { session: set_session(0, Some(session("ada"))).session, ..set_state(0, "1") };
    assert_eq!(t.store.write(&record.fence(), patch).await.unwrap(), Written::Done);
    t.join(plain(record.fence(), &topic("a"))).await;
    t.join(present(record.fence(), &topic("b"), "ada")).await;
    let deliver = async |number| t.store.deliver(&[(record.id.clone(), message(number))]).await.unwrap().remove(0);
    assert!(matches!(deliver(1).await, Delivered::At { position: Some(_), .. }));
    t.store.release(&node).await.unwrap();
    let detached = async || {
        t.store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap();
        matches!(t.record(&record.id).await.phase, RecordPhase::Detached { .. }).then_some(())
    };
    eventually("the detached channel", detached).await;
    assert!(matches!(deliver(2).await, Delivered::Stored(_)));
    let kept = t.record(&record.id).await;
    assert_eq!((kept.generation, kept.state.version, kept.session.version), (record.generation, 1, 1));
    assert_eq!(kept.session.value, Some(session("ada")));
    let mut topics = t.store.topics(&record.id).await.unwrap();
    topics.sort();
    assert_eq!(topics, [topic("a"), topic("b")]);
    assert_eq!(t.store.presence(&topic("b"), None, 10).await.unwrap().items.len(), 1);
    let beginning = Position { epoch: 0, offset: 0, check: 0 };
    let (inbox, _) = events(t.store.inbox(&record.id, &beginning, 10).await.unwrap());
    assert_eq!(inbox.iter().map(|(_, event)| number(event)).collect::<Vec<_>>(), [1, 2]);
}

pub async fn a_dead_nodes_opening_channels_do_not_wait(t: Trial) {
    let node = t.node().await;
    let template = t.open_on(&node, None).await;
    t.end(&template).await;
    let new = NewChannel { location: template.location, grace: Some(LONG), ..t.new_channel() };
    let record = t.open_as(new).await;
    t.store.release(&node).await.unwrap();
    assert_eq!(t.due(1).await[0].fence.id, record.id);
}

pub async fn a_node_that_comes_back_takes_its_channels(t: Trial) {
    let node = t.node().await;
    let record = t.open_on(&node, Some(LONG)).await;
    t.store.release(&node).await.unwrap();
    let detached = async || {
        t.store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap();
        matches!(t.record(&record.id).await.phase, RecordPhase::Detached { .. }).then_some(())
    };
    eventually("the detached channel", detached).await;
    t.store.lease(&node, LeaseTerm::Acquire, LONG).await.unwrap();
    let by = AttachAs::Holder { generation: record.generation };
    let attach = Attach { by, location: record.location.clone(), next_token: None };
    let Attached::Attached { record: attached, displaced } = t.store.attach(&record.id, attach).await.unwrap() else {
        panic!("nobody took the channel")
    };
    assert_eq!((attached.phase, attached.generation, displaced), (RecordPhase::Open, 2, None));
    assert_eq!(t.store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap(), []);
    t.store.release(&node).await.unwrap();
    let detached = async || {
        t.store.claim_due(&NodeId::unique(), 10, LONG).await.unwrap();
        matches!(t.record(&record.id).await.phase, RecordPhase::Detached { .. }).then_some(())
    };
    eventually("the channel detached once more", detached).await;
}

pub async fn a_channel_that_moved_is_not_its_old_nodes(t: Trial) {
    let (old, new) = (t.node().await, t.node().await);
    let record = t.open_on(&old, Some(LONG)).await;
    let place = t.open_on(&new, None).await;
    t.end(&place).await;
    let by = AttachAs::Holder { generation: 1 };
    let attach = Attach { by, location: place.location, next_token: None };
    assert!(matches!(t.store.attach(&record.id, attach).await.unwrap(), Attached::Attached { .. }));
    let sentinel = t.open_on(&old, None).await;
    t.store.release(&old).await.unwrap();
    assert_eq!(t.due(1).await[0].fence.id, sentinel.id);
    assert_eq!(t.record(&record.id).await.phase, RecordPhase::Open);
}

pub async fn gateways_hold_no_lease(t: Trial) {
    let record = t.open().await;
    let sentinel = t.open_on(&NodeId::unique(), None).await;
    assert_eq!(t.due(1).await[0].fence.id, sentinel.id);
    assert_eq!(t.record(&record.id).await, record);
}

pub async fn who_attaches_in_time_is_not_claimed(t: Trial) {
    let living = t.node().await;
    for _ in 0..5 {
        let dead = t.node().await;
        let mut records = Vec::new();
        for _ in 0..30 {
            records.push(t.open_on(&dead, None).await);
        }
        t.store.release(&dead).await.unwrap();
        let (claimer, attacher, living) = (t.handle().await, t.handle().await, living.clone());
        let claiming = tokio::spawn(async move { claimer.claim_due(&NodeId::unique(), 100, LONG).await.unwrap() });
        let attaching = tokio::spawn(async move {
            let mut attached = Vec::new();
            for record in records.into_iter().rev() {
                let connection = record.location.connection().clone();
                let location = Location::Node { node: living.clone(), connection };
                let attach = Attach { by: AttachAs::Holder { generation: 1 }, location, next_token: None };
                if let Attached::Attached { record, .. } = attacher.attach(&record.id, attach).await.unwrap() {
                    attached.push(*record);
                }
            }
            attached
        });
        let (claims, attached) = (claiming.await.unwrap(), attaching.await.unwrap());
        for record in attached {
            assert!(claims.iter().all(|claim| claim.fence.id != record.id), "{record:?} was claimed");
            assert_eq!(t.record(&record.id).await, record);
        }
    }
}

/// A renewal at the end of its term either keeps all of the node's channels, or reports the lease as lost.
pub async fn a_renewal_at_the_end_of_its_term_keeps_its_channels_or_is_lost(t: Trial) {
    let (renewer, claimer) = (t.handle().await, t.handle().await);
    for round in 0..20 {
        let node = NodeId::unique();
        renewer.lease(&node, LeaseTerm::Acquire, SHORT).await.unwrap();
        let record = t.open_on(&node, None).await;
        let is_answered = AtomicBool::new(false);
        let claiming = async {
            let mut claimed = Vec::new();
            while !is_answered.load(Ordering::Acquire) {
                claimed.extend(claimer.claim_due(&NodeId::unique(), 100, LONG).await.unwrap());
                // A store that answers at once lets no other task run.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            claimed
        };
        let renewing = async {
            tokio::time::sleep(SHORT.mul_f64(f64::from(round) / 20.0)).await;
            let lease = renewer.lease(&node, LeaseTerm::Renew, LONG).await.unwrap();
            is_answered.store(true, Ordering::Release);
            lease
        };
        let (claimed, lease) = futures_util::future::join(claiming, renewing).await;
        if lease == Lease::Held {
            assert!(
                claimed.iter().all(|claim| claim.fence.id != record.id),
                "{record:?} was claimed, its lease is held"
            );
            assert_eq!(t.record(&record.id).await, record);
        }
        t.store.release(&node).await.unwrap();
    }
}
