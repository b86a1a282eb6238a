//! The sockets that have not become connections: so many at most, and whoever has waited longest makes room for who
//! comes, so that sockets that say nothing keep nobody out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// See the [module's documentation](self). Those of all runtimes together.
#[derive(Debug)]
pub(super) struct Pending {
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    next: u64,
    /// By when they came, or asked for something last.
    by_age: BTreeMap<u64, Arc<Seat>>,
    /// Who waits for room.
    waiting: VecDeque<oneshot::Sender<Room>>,
    /// How many were told to make room and have not gone yet.
    leaving: usize,
}

/// Room for one socket, until it is dropped; `None` once it has been given back.
#[derive(Debug)]
struct Room(Option<Arc<Pending>>);

/// A ticket as the queue sees it.
#[derive(Debug, Default)]
struct Seat {
    /// Changes under the queue's lock only.
    place: Mutex<Place>,
    told: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    Queued(u64),
    /// It has to make room.
    GivenUp,
    /// The server is the one who is waited for.
    #[default]
    Apart,
}

/// One socket's place among them, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    pending: Arc<Pending>,
    seat: Arc<Seat>,
    _room: Room,
}

impl Pending {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let queue = Queue { free: most, next: 0, by_age: BTreeMap::new(), waiting: VecDeque::new(), leaving: 0 };
        Arc::new(Self { queue: Mutex::new(queue) })
    }

    /// Makes room for a socket. It waits only while all others are being authenticated.
    pub(super) async fn enter(self: &Arc<Self>) -> Arc<Ticket> {
        let ticket = Ticket { pending: Arc::clone(self), seat: Arc::default(), _room: self.make_room().await };
        ticket.move_to_end();
        Arc::new(ticket)
    }

    async fn make_room(self: &Arc<Self>) -> Room {
        let room = {
            let mut queue = self.queue.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return Room(Some(Arc::clone(self)));
            }
            let (waiting, room) = oneshot::channel();
            queue.waiting.push_back(waiting);
            queue.give_up_oldest();
            room
        };
        room.await.expect("the queue drops nobody who waits")
    }
}

impl Queue {
    /// One leaves for each who waits, so that none waits longer than another one needs to hear of it.
    fn give_up_oldest(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        while self.leaving < self.waiting.len()
            && let Some((_, seat)) = self.by_age.pop_first()
        {
            self.leaving += 1;
            *seat.place.lock() = Place::GivenUp;
            seat.told.notify_one();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Some(pending) = self.0.take() else { return };
        let mut queue = pending.queue.lock();
        let mut room = Self(Some(Arc::clone(&pending)));
        while let Some(waiting) = queue.waiting.pop_front() {
            match waiting.send(room) {
                Ok(()) => return,
                // Who waited has gone.
                Err(back) => room = back,
            }
        }
        room.0 = None;
        queue.free += 1;
    }
}

impl Ticket {
    /// Comes back when the socket has to make room.
    pub(super) async fn given_up(&self) {
        // It may have been told, and then begun to be answered.
        while *self.seat.place.lock() != Place::GivenUp {
            self.seat.told.notified().await;
        }
    }

    /// The socket has asked for something: others have waited longer now.
    pub(super) fn renew(&self) {
        self.move_to_end();
    }

    /// While the guard lives, the server is the one who is waited for: also where the socket was to make room already,
    /// another one makes it.
    pub(super) fn answered_by_us(self: Arc<Self>) -> Answering {
        let mut queue = self.pending.queue.lock();
        self.leave(&mut queue);
        queue.give_up_oldest();
        drop(queue);
        Answering(Some(self))
    }

    fn move_to_end(&self) {
        let mut queue = self.pending.queue.lock();
        self.leave(&mut queue);
        queue.next += 1;
        let key = queue.next;
        queue.by_age.insert(key, Arc::clone(&self.seat));
        *self.seat.place.lock() = Place::Queued(key);
        queue.give_up_oldest();
    }

    fn leave(&self, queue: &mut Queue) {
        match std::mem::take(&mut *self.seat.place.lock()) {
            Place::Queued(key) => drop(queue.by_age.remove(&key)),
            Place::GivenUp => queue.leaving -= 1,
            Place::Apart => {}
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // No other one is given up for who waits: the room is given on in a moment.
        self.leave(&mut self.pending.queue.lock());
    }
}

/// See [`Ticket::answered_by_us`].
#[derive(Debug)]
pub(super) struct Answering(Option<Arc<Ticket>>);

impl Answering {
    /// The socket has become a connection: it waits for nothing more here.
    pub(super) fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(ticket) = &self.0 {
            ticket.move_to_end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

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

    #[tokio::test]
    async fn each_who_waits_has_one_that_makes_room_whoever_gets_it_first() {
        let pending = Pending::new(2);
        let (first, second) = (pending.enter().await, pending.enter().await);
        let (mut third, mut fourth) = (pin!(pending.enter()), pin!(pending.enter()));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(fourth.as_mut().now_or_never().is_none());
        // What the second leaves goes to the third, and the first, which was to make it room, is answered.
        drop(second);
        let third = third.await;
        let _answering = Arc::clone(&first).answered_by_us();
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(third.given_up().now_or_never().is_some(), "nobody makes room for the fourth");
        drop(third);
        fourth.await;
    }

    #[tokio::test]
    async fn who_waits_no_more_is_made_no_room() {
        let pending = Pending::new(1);
        let first = pending.enter().await;
        let answering = Arc::clone(&first).answered_by_us();
        {
            let mut second = pin!(pending.enter());
            assert!(second.as_mut().now_or_never().is_none());
        }
        drop(answering);
        assert!(first.given_up().now_or_never().is_none());
        drop(first);
        pending.enter().await;
    }
}
