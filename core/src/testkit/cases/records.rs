use std::sync::Arc;

use bytes::Bytes;

use crate::name::{ChannelId, ConnectionId, NodeId};
use crate::store::{
    Claim, Detached, Location, NewChannel, Opened, Patch, Record, RecordPhase, StoreErrorKind, Versioned, Written,
};
use crate::testkit::trial::{LONG, SHORT, Trial, gateway, new_location, session, set_state, token};

pub async fn opening_makes_a_record(t: Trial) {
    let new = NewChannel { session: Some(session("ada")), grace: Some(LONG), token: Some(token(1)), ..t.new_channel() };
    let Opened { record, created } = t.store.open(new.clone()).await.unwrap();
    assert!(created);
    let opened_at = record.opened_at;
    let expected = Record {
        id: new.id.clone(),
        endpoint: Arc::clone(&new.endpoint),
        generation: 1,
        phase: RecordPhase::Opening,
        location: new.location.clone(),
        opening: new.opening.clone(),
        state: Versioned::default(),
        session: Versioned { version: 1, value: Some(session("ada")) },
        grace: Some(LONG),
        opened_at,
    };
    assert_eq!(record, expected);
    assert_eq!(t.handle().await.get(&new.id).await.unwrap(), Some(expected));
}

pub async fn a_channel_without_extras_has_none(t: Trial) {
    let record = t.open().await;
    assert_eq!((record.session, record.state, record.grace), (Versioned::default(), Versioned::default(), None));
}

pub async fn opening_again_answers_the_record_as_it_is(t: Trial) {
    let new = t.new_channel();
    let record = t.open_as(new.clone()).await;
    assert_eq!(t.store.write(&record.fence(), set_state(0, "1")).await.unwrap(), Written::Done);
    let again = t.handle().await.open(new).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.record, t.record(&record.id).await);
    assert_eq!(again.record.state.version, 1);
}

pub async fn opening_an_id_elsewhere_is_a_conflict(t: Trial) {
    let record = t.open().await;
    let elsewhere = NewChannel { id: record.id.clone(), location: new_location(), ..t.new_channel() };
    let location = elsewhere.location.clone();
    let error = t.store.open(elsewhere).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Conflict);
    assert!(!error.is_retryable());
    assert_eq!(t.record(&record.id).await, record);
    assert_eq!(t.store.find(&location).await.unwrap(), None);
}

pub async fn opening_at_a_taken_location_is_a_conflict(t: Trial) {
    let record = t.open().await;
    let second = NewChannel { location: record.location.clone(), ..t.new_channel() };
    let id = second.id.clone();
    assert_eq!(t.store.open(second).await.unwrap_err().kind, StoreErrorKind::Conflict);
    assert_eq!(t.store.get(&id).await.unwrap(), None);
    assert_eq!(t.store.find(&record.location).await.unwrap(), Some(record));
}

async fn open_at_once(t: &Trial, channels: Vec<NewChannel>) -> Vec<Option<bool>> {
    let mut tasks = Vec::new();
    for new in channels {
        let store = t.handle().await;
        tasks.push(tokio::spawn(async move { store.open(new).await.ok().map(|opened| opened.created) }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

pub async fn of_many_opens_at_once_one_creates(t: Trial) {
    for _ in 0..20 {
        let new = t.new_channel();
        let answers = open_at_once(&t, vec![new; 4]).await;
        assert_eq!(answers.iter().filter(|created| **created == Some(true)).count(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|created| **created == Some(false)).count(), 3, "{answers:?}");
    }
}

pub async fn of_many_channels_at_one_location_one_opens(t: Trial) {
    for _ in 0..20 {
        let location = new_location();
        let channels: Vec<_> = (0..4).map(|_| NewChannel { location: location.clone(), ..t.new_channel() }).collect();
        let ids: Vec<ChannelId> = channels.iter().map(|new| new.id.clone()).collect();
        let answers = open_at_once(&t, channels).await;
        let winners: Vec<_> = ids.iter().zip(&answers).filter(|(_, answer)| answer.is_some()).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let found = t.store.find(&location).await.unwrap().expect("the winner is there");
        assert_eq!(&found.id, winners[0].0);
    }
}

pub async fn an_unknown_channel_is_absent(t: Trial) {
    t.open().await;
    assert_eq!(t.store.get(&ChannelId::unique()).await.unwrap(), None);
    assert_eq!(t.store.find(&new_location()).await.unwrap(), None);
}

pub async fn channels_are_found_where_they_are(t: Trial) {
    let node = t.node().await;
    let (here, there) = (t.open().await, t.open_on(&node, None).await);
    assert_eq!(t.store.find(&here.location).await.unwrap(), Some(here.clone()));
    // The same connection name elsewhere is another location.
    assert_eq!(t.store.find(&gateway(there.location.connection().clone())).await.unwrap(), None);
    let on_node = Location::Node { node, connection: here.location.connection().clone() };
    assert_eq!(t.store.find(&on_node).await.unwrap(), None);
    let endpoint = Arc::from("https://other.example/prod");
    let other_gateway = Location::Gateway { endpoint, connection: here.location.connection().clone() };
    assert_eq!(t.store.find(&other_gateway).await.unwrap(), None);
}

pub async fn a_channel_is_found_at_its_last_location(t: Trial) {
    let first = t.open_resumable(token(1)).await;
    assert_eq!(t.store.detach(&first.fence(), LONG).await.unwrap(), Detached::Done);
    assert!(t.store.find(&first.location).await.unwrap().is_some());
    let second = t.attached(&first.id, token(1), Some(token(2))).await;
    assert_eq!(t.store.find(&first.location).await.unwrap(), None);
    assert_eq!(t.store.find(&second.location).await.unwrap(), Some(second.clone()));
    let claim = t.claim(&second).await;
    let dead = t.store.find(&second.location).await.unwrap().expect("it is not removed");
    assert_eq!(dead.phase, RecordPhase::Dead);
    t.store.remove(&[claim]).await.unwrap();
    assert_eq!(t.store.find(&second.location).await.unwrap(), None);
}

pub async fn id_and_location_are_free_after_removal(t: Trial) {
    let new = t.new_channel();
    let record = t.open_as(new.clone()).await;
    t.store.write(&record.fence(), set_state(0, "1")).await.unwrap();
    t.end(&record).await;
    let again = t.open_as(new).await;
    assert_eq!((again.generation, again.state), (1, Versioned::default()));
}

pub async fn a_connected_channel_becomes_open(t: Trial) {
    let record = t.open().await;
    let patch = Patch { opened: true, ..Patch::default() };
    for _ in 0..2 {
        assert_eq!(t.store.write(&record.fence(), patch.clone()).await.unwrap(), Written::Done);
        assert_eq!(t.record(&record.id).await, Record { phase: RecordPhase::Open, ..record.clone() });
    }
}

pub async fn removing_twice_is_removing_once(t: Trial) {
    let claim = t.claim(&t.open().await).await;
    for _ in 0..2 {
        t.store.remove(std::slice::from_ref(&claim)).await.unwrap();
        assert_eq!(t.store.get(&claim.fence.id).await.unwrap(), None);
    }
    t.store.remove(&[claim.clone(), claim]).await.unwrap();
}

pub async fn removing_none_does_nothing(t: Trial) {
    let record = t.open().await;
    t.store.remove(&[]).await.unwrap();
    let mut unknown = record.fence();
    unknown.id = ChannelId::unique();
    t.store.remove(&[Claim { fence: unknown, record: record.clone(), topics: vec![] }]).await.unwrap();
    assert_eq!(t.record(&record.id).await, record);
}

pub async fn only_the_claim_removes(t: Trial) {
    let record = t.open().await;
    let living = Claim { fence: record.fence(), record: record.clone(), topics: vec![] };
    t.store.remove(std::slice::from_ref(&living)).await.unwrap();
    assert_eq!(t.record(&record.id).await, record);
    let claim = t.claim(&record).await;
    t.store.remove(&[living]).await.unwrap();
    assert_eq!(t.record(&record.id).await.phase, RecordPhase::Dead);
    t.store.remove(&[claim]).await.unwrap();
}

pub async fn the_removed_do_not_come_back(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let claim = t.claim(&record).await;
    t.store.remove(std::slice::from_ref(&claim)).await.unwrap();
    for fence in [record.fence(), claim.fence.clone()] {
        assert_eq!(t.store.write(&fence, set_state(0, "1")).await.unwrap(), Written::Stale);
        assert_eq!(t.store.detach(&fence, SHORT).await.unwrap(), Detached::Stale);
        assert_eq!(t.store.claim(&fence, &NodeId::unique(), LONG).await.unwrap(), None);
    }
    assert!(!t.store.renew(&claim, LONG).await.unwrap());
    assert_eq!(t.store.get(&record.id).await.unwrap(), None);
    assert_eq!(t.store.find(&record.location).await.unwrap(), None);
}

pub async fn long_values_are_kept_whole(t: Trial) {
    let opening = Bytes::from(format!("\"{}\"", "é".repeat(128 * 1024)));
    let new = NewChannel { opening: opening.clone(), ..t.new_channel() };
    let record = t.open_as(new).await;
    assert_eq!(record.opening, opening);
    assert_eq!(t.record(&record.id).await.opening, opening);
}

pub async fn a_nodes_connection_is_its_own(t: Trial) {
    let connection = ConnectionId::new("1").unwrap();
    let nodes = [t.node().await, t.node().await];
    for node in &nodes {
        let location = Location::Node { node: node.clone(), connection: connection.clone() };
        t.open_as(NewChannel { location, ..t.new_channel() }).await;
    }
}
