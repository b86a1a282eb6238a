use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::name::{ChannelId, NodeId};
use crate::store::{Location, NewChannel, Record, RecordPhase, Served};
use crate::testkit::trial::{LONG, SHORT, Trial, eventually, plain, topic};

/// A channel of an endpoint that is due in a short time.
async fn due(t: &Trial, endpoint: &str) -> Record {
    t.open_as(NewChannel { endpoint: Arc::from(endpoint), due: Some(SHORT), ..t.new_channel() }).await
}

/// A channel of an endpoint, on a node without a lease.
async fn orphan(t: &Trial, endpoint: &str) -> Record {
    let new = t.new_channel();
    let connection = new.location.connection().clone();
    let location = Location::Node { node: NodeId::unique(), connection };
    t.open_as(NewChannel { endpoint: Arc::from(endpoint), location, ..new }).await
}

/// Claims the channels of a node with one endpoint, until there are `count`.
async fn claimed(t: &Trial, endpoint: &str, patience: Duration, count: usize) -> BTreeSet<ChannelId> {
    let (by, endpoints) = (NodeId::unique(), [Arc::from("none"), Arc::from(endpoint)]);
    let served = Served { endpoints: &endpoints, patience };
    let mut ids = BTreeSet::new();
    let look = async || {
        let claims = t.store.claim_due_of(&by, Some(&served), 4, LONG).await.unwrap();
        assert!(claims.len() <= 4);
        ids.extend(claims.into_iter().map(|claim| claim.fence.id));
        (ids.len() >= count).then_some(())
    };
    eventually(format!("{count} channels of {endpoint}"), look).await;
    ids
}

pub async fn channels_of_other_endpoints_are_left_to_others(t: Trial) {
    let theirs = [due(&t, "theirs").await, orphan(&t, "theirs").await];
    t.join(plain(theirs[1].fence(), &topic("a"))).await;
    let ours = [due(&t, "ours").await, orphan(&t, "ours").await];
    let ids = |records: &[Record; 2]| BTreeSet::from(records.each_ref().map(|record| record.id.clone()));
    assert_eq!(claimed(&t, "ours", LONG, 2).await, ids(&ours));
    // Its node is dead, so the channel is dead: it only waits for its end.
    let dead = async || (t.record(&theirs[1].id).await.phase == RecordPhase::Dead).then_some(());
    let look = async || {
        assert_eq!(claimed(&t, "ours", LONG, 0).await, BTreeSet::new());
        dead().await
    };
    eventually("the death of the other", look).await;
    assert_eq!(t.record(&theirs[0].id).await, theirs[0]);
    assert_eq!(claimed(&t, "theirs", LONG, 2).await, ids(&theirs));
    assert_eq!(t.store.topics(&theirs[1].id).await.unwrap(), []);
}

pub async fn the_overdue_are_claimed_by_anybody(t: Trial) {
    let theirs = [due(&t, "theirs").await.id, orphan(&t, "theirs").await.id];
    assert_eq!(claimed(&t, "ours", SHORT, 2).await, BTreeSet::from(theirs));
    // A claimant for all endpoints does not wait.
    let third = orphan(&t, "theirs").await;
    assert_eq!(t.due(1).await[0].fence.id, third.id);
}

pub async fn many_of_other_endpoints_hide_nobody(t: Trial) {
    for _ in 0..100 {
        due(&t, "theirs").await;
        orphan(&t, "theirs").await;
    }
    let ours = [due(&t, "ours").await.id, orphan(&t, "ours").await.id];
    assert_eq!(claimed(&t, "ours", LONG, 2).await, BTreeSet::from(ours));
}
