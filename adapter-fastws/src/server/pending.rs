//! The sockets that have not become connections: so many at most, and whoever has waited longest makes room for who
//! comes, so that sockets that say nothing keep nobody out.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// See the [module's documentation](self). Those of all runtimes together.
#[derive(Debug)]
pub(super) struct Pending {
    room: Arc<Semaphore>,
    queue: Mutex<Queue>,
    /// Somebody has come into the queue.
    queued: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// By when they came, or asked for something last.
    by_age: BTreeMap<u64, Arc<Notify>>,
}

/// One socket's place among them, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    pending: Arc<Pending>,
    key: Mutex<Option<u64>>,
    given_up: Arc<Notify>,
    _room: OwnedSemaphorePermit,
}

impl Pending {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(most)), queue: Mutex::default(), queued: Notify::new() })
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
        let mut given_up = false;
        loop {
            let queued = self.queued.notified();
            // One for each who waits, so that none waits longer than another one needs to hear of it.
            given_up = given_up || self.give_up_oldest();
            tokio::select! {
                // The semaphore is never closed.
                Ok(room) = room.as_mut() => return room,
                () = queued, if !given_up => {}
            }
        }
    }

    fn give_up_oldest(&self) -> bool {
        let oldest = self.queue.lock().by_age.pop_first();
        let found = oldest.is_some();
        if let Some((_, given_up)) = oldest {
            metrics::counter!("strait_handshakes_given_up_total").increment(1);
            given_up.notify_one();
        }
        found
    }
}

impl Ticket {
    /// Comes back when the socket has to make room.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
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
        self.pending.queued.notify_waiters();
    }

    fn dequeue(&self) {
        let key = self.key.lock().take();
        if let Some(key) = key {
            self.pending.queue.lock().by_age.remove(&key);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.dequeue();
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
