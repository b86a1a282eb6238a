use std::collections::HashSet;
use std::sync::Arc;

use crate::name::{ChannelId, NodeId};
use crate::store::{Claim, Ended, Fence, NewChannel, Patch, RecordPhase, Written};
use crate::testkit::trial::{LONG, SHORT, Trial, eventually, indexed, plain, set_state, token, topic};

pub async fn a_claim_ends_the_channel(t: Trial) {
    let record = t.open().await;
    t.join(plain(record.fence(), &topic("a"))).await;
    t.join(indexed(record.fence(), &topic("b"))).await;
    let claim = t.store.claim(&record.fence(), &NodeId::unique(), LONG).await.unwrap().expect("nobody else claims");
    assert_eq!(claim.fence, Fence { id: record.id.clone(), generation: 2 });
    assert_eq!((claim.record.phase, claim.record.generation), (RecordPhase::Dead, 2));
    assert_eq!(claim.record, t.record(&record.id).await);
    let mut topics = claim.topics;
    topics.sort();
    assert_eq!(topics, [topic("a"), topic("b")]);
}

pub async fn of_many_claimers_one_has_it(t: Trial) {
    for _ in 0..20 {
        let fence = t.open().await.fence();
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let (store, fence) = (t.handle().await, fence.clone());
            tasks.push(tokio::spawn(async move { store.claim(&fence, &NodeId::unique(), LONG).await.unwrap() }));
        }
        let mut claims = 0;
        for task in tasks {
            claims += usize::from(task.await.unwrap().is_some());
        }
        assert_eq!(claims, 1);
    }
}

pub async fn a_claimed_channel_is_not_claimed_again(t: Trial) {
    let claim = t.claim(&t.open().await).await;
    assert_eq!(t.store.claim(&claim.fence, &NodeId::unique(), LONG).await.unwrap(), None);
}

/// For example, because its answer was lost.
pub async fn a_claimant_that_asks_again_has_its_claim(t: Trial) {
    let record = t.open().await;
    t.join(plain(record.fence(), &topic("a"))).await;
    let by = NodeId::unique();
    let first = t.store.claim(&record.fence(), &by, SHORT).await.unwrap().expect("nobody else claims");
    let again = t.handle().await.claim(&record.fence(), &by, LONG).await.unwrap();
    assert_eq!(again.as_ref(), Some(&first));
    assert_eq!(t.store.claim(&record.fence(), &NodeId::unique(), LONG).await.unwrap(), None);
    assert_eq!(t.store.claim(&first.fence, &by, LONG).await.unwrap(), None, "this fence is the tombstone's");
    // The claim is extended: once a later claim has run out, the first one would have, too.
    let (_, later) = abandoned(&t).await;
    assert_ne!(later.fence.id, record.id);
    t.store.remove(&[first]).await.unwrap();
    assert_eq!(t.store.claim(&record.fence(), &by, LONG).await.unwrap(), None);
}

pub async fn a_claimant_that_asks_too_late_has_lost_its_claim(t: Trial) {
    let (record, by) = (t.open().await, NodeId::unique());
    t.store.claim(&record.fence(), &by, SHORT).await.unwrap().expect("nobody else claims");
    let taken_over = t.due(1).await.remove(0);
    assert_eq!(t.store.claim(&record.fence(), &by, LONG).await.unwrap(), None);
    assert_eq!(t.record(&record.id).await, taken_over.record);
}

pub async fn what_ends_at_once_is_claimed_or_gone(t: Trial) {
    let record = t.open().await;
    t.join(indexed(record.fence(), &topic("a"))).await;
    let store = &t.store;
    let end = |fence: Fence| async move { store.end(&fence, &NodeId::unique(), LONG).await.unwrap() };
    let stale = Fence { generation: 2, ..record.fence() };
    assert_eq!(end(stale).await, None);
    match end(record.fence()).await.expect("the fence is the present one") {
        Ended::Removed => {}
        Ended::Claimed(claim) => store.remove(&[*claim]).await.unwrap(),
    }
    assert_eq!(store.get(&record.id).await.unwrap(), None);
    assert!(store.members(&topic("a"), None, 10).await.unwrap().items.is_empty());
    assert_eq!(end(record.fence()).await, None);
}

pub async fn an_unknown_channel_is_not_claimed(t: Trial) {
    let fence = Fence { id: ChannelId::unique(), generation: 1 };
    assert_eq!(t.store.claim(&fence, &NodeId::unique(), LONG).await.unwrap(), None);
}

pub async fn the_claimer_writes_to_the_tombstone(t: Trial) {
    let record = t.open().await;
    let claim = t.claim(&record).await;
    // A late `on_connect` does not revive the channel.
    let patch = Patch { opened: true, ..set_state(0, "last") };
    assert_eq!(t.store.write(&claim.fence, patch).await.unwrap(), Written::Done);
    let tombstone = t.record(&record.id).await;
    assert_eq!((tombstone.phase, tombstone.state.version), (RecordPhase::Dead, 1));
    let conflict = t.store.write(&claim.fence, set_state(0, "again")).await.unwrap();
    assert_eq!(conflict, Written::Conflict(Box::new(tombstone)));
}

/// Claims a channel for a short time and waits until it is abandoned and taken over.
async fn abandoned(t: &Trial) -> (Claim, Claim) {
    let record = t.open().await;
    t.join(plain(record.fence(), &topic("a"))).await;
    let first = t.store.claim(&record.fence(), &NodeId::unique(), SHORT).await.unwrap().expect("nobody else claims");
    let second = t.due(1).await.remove(0);
    (first, second)
}

pub async fn an_abandoned_claim_comes_back(t: Trial) {
    let (first, second) = abandoned(&t).await;
    assert_eq!(second.fence, Fence { generation: 3, ..first.fence });
    assert_eq!(second.record, t.record(&second.fence.id).await);
    assert_eq!(second.topics, [topic("a")]);
}

pub async fn who_outlived_a_claim_is_fenced_off(t: Trial) {
    let (first, second) = abandoned(&t).await;
    assert!(!t.store.renew(&first, LONG).await.unwrap());
    assert_eq!(t.store.write(&first.fence, set_state(0, "late")).await.unwrap(), Written::Stale);
    t.store.remove(std::slice::from_ref(&first)).await.unwrap();
    assert_eq!(t.record(&first.fence.id).await, second.record);
    assert!(t.store.renew(&second, LONG).await.unwrap());
    t.store.remove(&[second]).await.unwrap();
    assert_eq!(t.store.get(&first.fence.id).await.unwrap(), None);
}

pub async fn a_renewed_claim_does_not_come_back(t: Trial) {
    let kept = t.store.claim(&t.open().await.fence(), &NodeId::unique(), SHORT).await.unwrap().unwrap();
    assert!(t.store.renew(&kept, LONG).await.unwrap());
    // A claim that was made later has come back: the first one would have come, too.
    let (_, later) = abandoned(&t).await;
    assert_ne!(later.fence.id, kept.fence.id);
    assert_eq!(t.record(&kept.fence.id).await.generation, kept.fence.generation);
    assert!(t.store.renew(&kept, LONG).await.unwrap());
}

pub async fn an_ended_grace_is_due(t: Trial) {
    let (resumed, ended) = (t.open_resumable(token(1)).await, t.open_resumable(token(2)).await);
    t.store.detach(&resumed.fence(), SHORT).await.unwrap();
    t.attached(&resumed.id, token(1), None).await;
    t.store.detach(&ended.fence(), SHORT).await.unwrap();
    let claims = t.due(1).await;
    assert_eq!(claims[0].fence, Fence { generation: 2, ..ended.fence() });
    assert_eq!(claims[0].record.phase, RecordPhase::Dead);
    assert_eq!(t.record(&resumed.id).await.phase, RecordPhase::Open);
}

/// Only its record shows that it exists: the process that opened it died before any subscription.
pub async fn what_a_gateway_holds_is_due_in_its_time(t: Trial) {
    let later = t.open_as(NewChannel { due: Some(LONG), ..t.new_channel() }).await;
    let ended = t.open_as(NewChannel { due: Some(SHORT), ..t.new_channel() }).await;
    let open = t.open_as(NewChannel { due: Some(SHORT), grace: Some(LONG), ..t.new_channel() }).await;
    let opened = Patch { opened: true, ..Patch::default() };
    assert_eq!(t.store.write(&open.fence(), opened).await.unwrap(), Written::Done);
    let mut claims: Vec<_> = t.due(2).await.into_iter().map(|claim| (claim.fence, claim.record.phase)).collect();
    claims.sort_by_key(|(fence, _)| fence.id != ended.id);
    let dead = |fence| (Fence { generation: 2, ..fence }, RecordPhase::Dead);
    assert_eq!(claims, [dead(ended.fence()), dead(open.fence())]);
    assert_eq!(t.record(&later.id).await, later);
}

pub async fn who_ends_or_moves_before_its_time_is_not_due(t: Trial) {
    let new = || NewChannel { due: Some(SHORT), token: Some(token(1)), grace: Some(LONG), ..t.new_channel() };
    let [moved, detached, claimed, removed] = [new(), new(), new(), new()];
    let moved = t.open_as(moved).await;
    t.attached(&moved.id, token(1), None).await;
    let detached = t.open_as(detached).await;
    t.store.detach(&detached.fence(), LONG).await.unwrap();
    let claimed = t.claim(&t.open_as(claimed).await).await;
    let removed = t.open_as(removed).await;
    t.end(&removed).await;
    // The same channel again, without a due time.
    let again = t.open_as(NewChannel { id: removed.id, location: removed.location, ..t.new_channel() }).await;
    // Once a channel that was opened later is due, the others would be, too.
    let sentinel = t.open_as(new()).await;
    assert_eq!(t.due(1).await[0].fence.id, sentinel.id);
    assert_eq!(t.record(&moved.id).await.generation, 2);
    assert!(matches!(t.record(&detached.id).await.phase, RecordPhase::Detached { .. }));
    assert_eq!(t.record(&claimed.fence.id).await, claimed.record);
    assert_eq!(t.record(&again.id).await, again);
}

pub async fn what_is_not_due_is_left_alone(t: Trial) {
    let node = t.node().await;
    let living = [t.open().await, t.open_on(&node, None).await, t.open_on(&node, Some(LONG)).await];
    let detached = t.open_resumable(token(1)).await;
    t.store.detach(&detached.fence(), LONG).await.unwrap();
    let claimed = t.claim(&t.open().await).await;
    let (_, due) = abandoned(&t).await;
    t.store.remove(&[due]).await.unwrap();
    assert_eq!(t.store.claim_due(&NodeId::unique(), 100, LONG).await.unwrap(), []);
    for record in living {
        assert_eq!(t.record(&record.id).await, record);
    }
    assert!(matches!(t.record(&detached.id).await.phase, RecordPhase::Detached { .. }));
    assert_eq!(t.record(&claimed.fence.id).await, claimed.record);
}

pub async fn the_due_come_in_pages(t: Trial) {
    for _ in 0..25 {
        let record = t.open_resumable(token(1)).await;
        t.store.detach(&record.fence(), SHORT).await.unwrap();
    }
    let by = NodeId::unique();
    let mut seen = HashSet::new();
    let look = async || {
        let claims = t.store.claim_due(&by, 10, LONG).await.unwrap();
        assert!(claims.len() <= 10);
        for claim in claims {
            assert!(seen.insert(claim.fence.id.clone()), "{:?} is claimed twice", claim.fence);
        }
        (seen.len() == 25).then_some(())
    };
    eventually("25 channels that are due", look).await;
    assert_eq!(t.store.claim_due(&by, 10, LONG).await.unwrap(), []);
}

pub async fn concurrent_claimers_share_what_is_due(t: Trial) {
    for _ in 0..40 {
        let record = t.open_resumable(token(1)).await;
        t.store.detach(&record.fence(), SHORT).await.unwrap();
    }
    let claimed = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let (store, claimed) = (t.handle().await, Arc::clone(&claimed));
        tasks.push(tokio::spawn(async move {
            let by = NodeId::unique();
            // The case's own limit ends this if they never come.
            while claimed.lock().len() < 40 {
                let claims = store.claim_due(&by, 4, LONG).await.unwrap();
                claimed.lock().extend(claims.into_iter().map(|claim| claim.fence.id));
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let claimed = claimed.lock();
    assert_eq!((claimed.len(), claimed.iter().collect::<HashSet<_>>().len()), (40, 40));
}
