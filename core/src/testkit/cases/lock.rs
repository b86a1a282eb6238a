use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::name::{ChannelId, NodeId};
use crate::testkit::trial::{LONG, SHORT, Trial, eventually};

pub async fn a_lock_is_exclusive(t: Trial) {
    let (record, by) = (t.open().await, NodeId::unique());
    let other = t.handle().await;
    let lock = t.store.lock(&record.id, &by, LONG).await.unwrap().expect("nobody has it");
    assert_eq!(lock.id, record.id);
    // The same node is refused, too: two of its tasks are different holders.
    assert_eq!(other.lock(&record.id, &by, LONG).await.unwrap(), None);
    assert_eq!(other.lock(&record.id, &NodeId::unique(), LONG).await.unwrap(), None);
    assert!(other.unlock(&lock).await.unwrap());
    assert!(!t.store.unlock(&lock).await.unwrap());
    assert!(other.lock(&record.id, &by, LONG).await.unwrap().is_some());
}

pub async fn of_many_lockers_one_is_inside(t: Trial) {
    let record = t.open().await;
    let inside = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (store, id, inside) = (t.handle().await, record.id.clone(), Arc::clone(&inside));
        tasks.push(tokio::spawn(async move {
            let by = NodeId::unique();
            for _ in 0..5 {
                let lock = loop {
                    match store.lock(&id, &by, LONG).await.unwrap() {
                        Some(lock) => break lock,
                        None => tokio::task::yield_now().await,
                    }
                };
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                assert!(store.unlock(&lock).await.unwrap());
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

pub async fn a_lock_that_ran_out_is_lost(t: Trial) {
    let record = t.open().await;
    let first = t.store.lock(&record.id, &NodeId::unique(), SHORT).await.unwrap().expect("nobody has it");
    let by = NodeId::unique();
    let second = eventually("the lock", async || t.store.lock(&record.id, &by, LONG).await.unwrap()).await;
    assert_ne!(first.token, second.token);
    assert!(!t.store.unlock(&first).await.unwrap());
    assert_eq!(t.store.lock(&record.id, &by, LONG).await.unwrap(), None, "the second holder has it still");
    assert!(t.store.unlock(&second).await.unwrap());
}

pub async fn channels_are_locked_apart(t: Trial) {
    let (a, b, by) = (t.open().await, t.open().await, NodeId::unique());
    assert!(t.store.lock(&a.id, &by, LONG).await.unwrap().is_some());
    assert!(t.store.lock(&b.id, &by, LONG).await.unwrap().is_some());
    assert_eq!(t.store.lock(&ChannelId::unique(), &by, LONG).await.unwrap(), None);
}

pub async fn a_lock_goes_with_its_channel(t: Trial) {
    let new = t.new_channel();
    let record = t.open_as(new.clone()).await;
    let by = NodeId::unique();
    let lock = t.store.lock(&record.id, &by, LONG).await.unwrap().expect("nobody has it");
    t.end(&record).await;
    assert!(!t.store.unlock(&lock).await.unwrap());
    t.open_as(new).await;
    assert!(t.store.lock(&record.id, &by, LONG).await.unwrap().is_some());
}
