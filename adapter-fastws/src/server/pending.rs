//! The sockets that have not become connections: so many at most, and whoever has waited longest makes room for who
//! comes, so that sockets that say nothing keep nobody out.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// See the [module's documentation](self). Those of all runtimes together.
#[derive(Debug)]
pub(super) struct Pending {
    room: Arc<Semaphore>,
    queue: Mutex<Queue>,
    /// Somebody has come into the queue, or back from being given up.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// By when they came, or asked for something last.
    by_age: BTreeMap<u64, Arc<GivenUp>>,
}

/// Whether a socket is to make room. It may still ask for something before it hears of that: then another one is.
#[derive(Debug, Default)]
struct GivenUp {
    /// Changes under the queue's lock.
    is: AtomicBool,
    told: Notify,
}

/// One socket's place among them, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    pending: Arc<Pending>,
    key: Mutex<Option<u64>>,
    given_up: Arc<GivenUp>,
    _room: OwnedSemaphorePermit,
}

impl Pending {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(most)), queue: Mutex::default(), changed: Notify::new() })
    }

    /// Makes room for a socket. It waits only while all others are being authenticated.
    pub(super) async fn enter(self: &Arc<Self>) -> Arc<Ticket> {
        let ticket = Ticket {
            pending: Arc::clone(self),
            key: Mutex::default(),
            given_up: Arc::default(),
            _room: self.make_room().await,
        };
        ticket.enqueue();
        Arc::new(ticket)
    }

    async fn make_room(&self) -> OwnedSemaphorePermit {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            return room;
        }
        let mut room = pin!(Arc::clone(&self.room).acquire_owned());
        let mut given_up: Option<Arc<GivenUp>> = None;
        loop {
            let changed = self.changed.notified();
            // One for each who waits, so that none waits longer than another one needs to hear of it.
            if given_up.as_ref().is_none_or(|given_up| !given_up.is.load(Ordering::Acquire)) {
                given_up = self.give_up_oldest();
            }
            tokio::select! {
                // The semaphore is never closed.
                Ok(room) = room.as_mut() => return room,
                () = changed => {}
            }
        }
    }

    fn give_up_oldest(&self) -> Option<Arc<GivenUp>> {
        let mut queue = self.queue.lock();
        let (_, oldest) = queue.by_age.pop_first()?;
        oldest.is.store(true, Ordering::Release);
        drop(queue);
        oldest.told.notify_one();
        Some(oldest)
    }
}

impl Ticket {
    /// Comes back when the socket has to make room.
    pub(super) async fn given_up(&self) {
        loop {
            self.given_up.told.notified().await;
            if self.given_up.is.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// The socket has asked for something: others have waited longer now.
    pub(super) fn renew(&self) {
        self.dequeue();
        self.enqueue();
    }

    /// While the guard lives, the server is the one who is waited for.
    pub(super) fn answered_by_us(self: Arc<Self>) -> Answering {
        self.dequeue();
        Answering(self)
    }

    fn enqueue(&self) {
        let key = {
            let mut queue = self.pending.queue.lock();
            queue.next += 1;
            let key = queue.next;
            queue.by_age.insert(key, Arc::clone(&self.given_up));
            key
        };
        *self.key.lock() = Some(key);
        self.pending.changed.notify_waiters();
    }

    /// Takes the socket out of the queue; if it has just been given up, another one is instead.
    fn dequeue(&self) {
        let Some(key) = self.key.lock().take() else { return };
        let mut queue = self.pending.queue.lock();
        if queue.by_age.remove(&key).is_none() {
            self.given_up.is.store(false, Ordering::Release);
            drop(queue);
            self.pending.changed.notify_waiters();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(key) = self.key.get_mut().take() {
            self.pending.queue.lock().by_age.remove(&key);
        }
    }
}

/// See [`Ticket::answered_by_us`].
#[derive(Debug)]
pub(super) struct Answering(Arc<Ticket>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.enqueue();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_asks_before_it_hears_that_it_was_given_up_is_answered() {
        let pending = Pending::new(2);
        let (first, second) = (pending.enter().await, pending.enter().await);
        let mut third = pin!(pending.enter());
        assert!(third.as_mut().now_or_never().is_none());
        // The first is given up, and asks before it has its turn.
        let answering = Arc::clone(&first).answered_by_us();
        assert!(first.given_up().now_or_never().is_none(), "it is cut off while it is answered");
        assert!(third.as_mut().now_or_never().is_none());
        assert!(second.given_up().now_or_never().is_some(), "nobody makes room instead");
        drop(second);
        let third = third.await;
        // Once it is answered it may be given up as any other one.
        drop((answering, third));
        let (_third, mut fourth) = (pending.enter().await, pin!(pending.enter()));
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(first.given_up().now_or_never().is_some());
        drop(first);
        fourth.await;
    }

    #[tokio::test]
    async fn who_waits_while_all_are_answered_gets_the_next_place() {
        let pending = Pending::new(1);
        let first = pending.enter().await;
        let mut second = pin!(pending.enter());
        assert!(second.as_mut().now_or_never().is_none());
        let answering = Arc::clone(&first).answered_by_us();
        assert!(second.as_mut().now_or_never().is_none());
        assert!(first.given_up().now_or_never().is_none());
        drop(answering);
        assert!(second.as_mut().now_or_never().is_none());
        assert!(first.given_up().now_or_never().is_some());
        drop(first);
        second.await;
    }
}
