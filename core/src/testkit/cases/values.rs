use bytes::Bytes;

use crate::store::{Change, NewChannel, Patch, StoredSession, Versioned, Written};
use crate::testkit::trial::{Trial, session, set_session, set_state, token, user};

fn value(version: u64, text: &'static str) -> Versioned<Bytes> {
    Versioned { version, value: Some(Bytes::from_static(text.as_bytes())) }
}

pub async fn state_is_absent_until_set(t: Trial) {
    let record = t.open().await;
    assert_eq!(record.state, Versioned { version: 0, value: None });
    assert_eq!(t.store.write(&record.fence(), set_state(0, r#"{"a":1}"#)).await.unwrap(), Written::Done);
    assert_eq!(t.handle().await.get(&record.id).await.unwrap().unwrap().state, value(1, r#"{"a":1}"#));
}

pub async fn state_is_replaced_not_merged(t: Trial) {
    let record = t.open().await;
    t.store.write(&record.fence(), set_state(0, r#"{"a":1}"#)).await.unwrap();
    t.store.write(&record.fence(), set_state(1, r#"{"b":2}"#)).await.unwrap();
    assert_eq!(t.record(&record.id).await.state, value(2, r#"{"b":2}"#));
}

pub async fn cleared_state_keeps_counting(t: Trial) {
    let record = t.open().await;
    t.store.write(&record.fence(), set_state(0, "1")).await.unwrap();
    let clear = Patch { state: Some(Change { expected: 1, value: None }), ..Patch::default() };
    assert_eq!(t.store.write(&record.fence(), clear).await.unwrap(), Written::Done);
    assert_eq!(t.record(&record.id).await.state, Versioned { version: 2, value: None });
    assert!(matches!(t.store.write(&record.fence(), set_state(0, "2")).await.unwrap(), Written::Conflict(_)));
    assert_eq!(t.store.write(&record.fence(), set_state(2, "2")).await.unwrap(), Written::Done);
    assert_eq!(t.record(&record.id).await.state, value(3, "2"));
}

pub async fn null_is_not_absent(t: Trial) {
    let record = t.open().await;
    t.store.write(&record.fence(), set_state(0, "null")).await.unwrap();
    assert_eq!(t.record(&record.id).await.state, value(1, "null"));
}

pub async fn state_of_another_version_is_a_conflict(t: Trial) {
    let record = t.open().await;
    t.store.write(&record.fence(), set_state(0, "1")).await.unwrap();
    for expected in [0, 2, 7] {
        let written = t.store.write(&record.fence(), set_state(expected, "2")).await.unwrap();
        assert_eq!(written, Written::Conflict(Box::new(t.record(&record.id).await)), "version {expected}");
    }
    assert_eq!(t.record(&record.id).await.state, value(1, "1"));
}

pub async fn a_patch_is_written_whole_or_not(t: Trial) {
    let record = t.open_as(NewChannel { token: Some(token(1)), ..t.new_channel() }).await;
    t.attached(&record.id, token(1), Some(token(2))).await;
    let present = t.record(&record.id).await;
    let session = Change { expected: 5, value: Some(session("ada")) };
    let patch = Patch { opened: true, token_confirmed: true, session: Some(session), ..set_state(0, "1") };
    assert!(matches!(t.store.write(&present.fence(), patch.clone()).await.unwrap(), Written::Conflict(_)));
    assert_eq!(t.record(&record.id).await, present);
    let patch = Patch { session: set_session(0, None).session, ..Patch { state: set_state(3, "1").state, ..patch } };
    assert!(matches!(t.store.write(&present.fence(), patch).await.unwrap(), Written::Conflict(_)));
    assert_eq!(t.record(&record.id).await, present);
    // The token is not confirmed either: the previous one still attaches.
    t.attached(&record.id, token(1), None).await;
}

pub async fn an_empty_patch_changes_nothing(t: Trial) {
    let record = t.open().await;
    assert_eq!(t.store.write(&record.fence(), Patch::default()).await.unwrap(), Written::Done);
    assert_eq!(t.record(&record.id).await, record);
}

pub async fn concurrent_changes_are_all_counted(t: Trial) {
    let record = t.open().await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (store, fence) = (t.handle().await, record.fence());
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                let mut read = store.get(&fence.id).await.unwrap().unwrap().state;
                loop {
                    let length = read.value.map_or(0, |value| value.len()) + 1;
                    let value = Some(Bytes::from(vec![b'x'; length]));
                    let state = Some(Change { expected: read.version, value });
                    match store.write(&fence, Patch { state, ..Patch::default() }).await.unwrap() {
                        Written::Done => break,
                        Written::Conflict(record) => read = record.state,
                        Written::Stale => panic!("nobody attached"),
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let state = t.record(&record.id).await.state;
    assert_eq!((state.version, state.value.unwrap().len()), (40, 40));
}

pub async fn sessions_are_set_replaced_and_cleared(t: Trial) {
    let record = t.open().await;
    assert_eq!(record.session, Versioned::default());
    let store = t.handle().await;
    let changes = [Some(session("ada")), Some(session("grace")), None, Some(session("ada"))];
    for (version, value) in (0..).zip(changes) {
        assert_eq!(store.write(&record.fence(), set_session(version, value.clone())).await.unwrap(), Written::Done);
        assert_eq!(t.record(&record.id).await.session, Versioned { version: version + 1, value });
    }
}

pub async fn a_session_of_another_version_is_a_conflict(t: Trial) {
    let record = t.open_as(NewChannel { session: Some(session("ada")), ..t.new_channel() }).await;
    assert_eq!(record.session.version, 1);
    for expected in [0, 2] {
        let written = t.store.write(&record.fence(), set_session(expected, None)).await.unwrap();
        assert_eq!(written, Written::Conflict(Box::new(record.clone())));
    }
    assert_eq!(t.record(&record.id).await, record);
}

pub async fn a_session_moves_with_its_channel(t: Trial) {
    let record = t.open_resumable(token(1)).await;
    let session =
        StoredSession { user: user("ada"), value: Bytes::from_static(r#" {"b": "𝄞\\", "a": 1.0} "#.as_bytes()) };
    t.store.write(&record.fence(), set_session(0, Some(session.clone()))).await.unwrap();
    let attached = t.attached(&record.id, token(1), None).await;
    assert_eq!(attached.session, Versioned { version: 1, value: Some(session) });
}
