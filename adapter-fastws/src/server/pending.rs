//! Bounds the sockets that have not become connections: the sockets that wait for a request, and the handshakes that
//! are answered. A silent socket makes room for a new one; a handshake beyond its bound is refused. So neither silent
//! sockets nor slow authentication delay a new socket and its plain requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// See the [module's documentation](self). One for all runtimes together.
#[derive(Debug)]
pub(super) struct Pending {
    most: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// Room for sockets that wait for a request. Below zero after refused handshakes came back to a full queue.
    free: isize,
    /// The number of handshakes that are being answered.
    answering: usize,
    next: u64,
    /// The seats by the time of their arrival or last request.
    by_age: BTreeMap<u64, Arc<Seat>>,
    /// New sockets that wait for room.
    waiting: VecDeque<oneshot::Sender<Room>>,
    /// The number of sockets that must make room but have not left yet.
    leaving: usize,
}

/// Room for one socket, until it is dropped; `None` after it was given back.
#[derive(Debug)]
struct Room(Option<Arc<Pending>>);

/// The queue's part of a ticket.
#[derive(Debug, Default)]
struct Seat {
    /// Changes under the queue's lock only.
    place: Mutex<Place>,
    told: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    Queued(u64),
    /// The socket must make room.
    GivenUp,
    /// The socket's handshake is being answered.
    #[default]
    Apart,
}

/// One socket's place in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    pending: Arc<Pending>,
    seat: Arc<Seat>,
    /// `None` while the socket's handshake is being answered. Locked within the queue's lock, or alone.
    room: Mutex<Option<Room>>,
}

impl Pending {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let queue = Queue {
            free: isize::try_from(most).unwrap_or(isize::MAX),
            answering: 0,
            next: 0,
            by_age: BTreeMap::new(),
            waiting: VecDeque::new(),
            leaving: 0,
        };
        Arc::new(Self { most, queue: Mutex::new(queue) })
    }

    /// Makes room for a socket. The wait ends as soon as a silent socket has seen that it must leave.
    pub(super) async fn enter(self: &Arc<Self>) -> Arc<Ticket> {
        let room = Mutex::new(Some(self.make_room().await));
        let ticket = Ticket { pending: Arc::clone(self), seat: Arc::default(), room };
        ticket.renew();
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
    /// Makes the oldest sockets leave: one for each waiting socket, and one for each that came back to a full queue. So
    /// each waits only until another one has seen that it must leave.
    fn give_up_oldest(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let wanted = self.waiting.len() + self.free.min(0).unsigned_abs();
        while self.leaving < wanted
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
        while queue.free >= 0
            && let Some(waiting) = queue.waiting.pop_front()
        {
            match waiting.send(room) {
                Ok(()) => return,
                // The waiting socket has gone.
                Err(back) => room = back,
            }
        }
        room.0 = None;
        queue.free += 1;
    }
}

impl Ticket {
    /// Returns when the socket must make room.
    pub(super) async fn given_up(&self) {
        // The notice may be older than the answer to a handshake.
        while *self.seat.place.lock() != Place::GivenUp {
            self.seat.told.notified().await;
        }
    }

    /// The socket has sent a request: others have been quiet for longer now.
    pub(super) fn renew(&self) {
        let mut queue = self.pending.queue.lock();
        self.move_to_end(&mut queue);
    }

    /// Begins the answer to the socket's handshake; `None` if too many are being answered. While the guard lives, the
    /// socket takes no room in the queue, and need not make room even if it was told to.
    pub(super) fn answered_by_us(self: Arc<Self>) -> Option<Answering> {
        let mut queue = self.pending.queue.lock();
        if queue.answering >= self.pending.most {
            self.move_to_end(&mut queue);
            return None;
        }
        queue.answering += 1;
        self.leave(&mut queue);
        let room = self.room.lock().take();
        drop(queue);
        drop(room);
        Some(Answering { ticket: self, has_ended: false })
    }

    fn move_to_end(&self, queue: &mut Queue) {
        self.leave(queue);
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
        // The room goes to a waiting socket at once, so no other socket must leave for it.
        self.leave(&mut self.pending.queue.lock());
    }
}

/// See [`Ticket::answered_by_us`].
#[derive(Debug)]
pub(super) struct Answering {
    ticket: Arc<Ticket>,
    has_ended: bool,
}

impl Answering {
    /// The socket has become a connection: it never returns to the queue.
    pub(super) fn has_ended(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Ticket { pending, room, .. } = &*self.ticket;
        let mut queue = pending.queue.lock();
        queue.answering -= 1;
        if !self.has_ended {
            // The socket may exceed the bound for a moment.
            queue.free -= 1;
            *room.lock() = Some(Room(Some(Arc::clone(pending))));
            self.ticket.move_to_end(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn answer(ticket: &Arc<Ticket>) -> Option<Answering> {
        Arc::clone(ticket).answered_by_us()
    }

    #[tokio::test]
    async fn a_socket_that_asks_before_it_hears_that_it_was_given_up_is_answered() {
        let pending = Pending::new(2);
        let (first, second) = (pending.enter().await, pending.enter().await);
        let mut third = pin!(pending.enter());
        assert!(third.as_mut().now_or_never().is_none());
        // The first must leave, but sends a request in time: the third takes its room.
        let answering = answer(&first).expect("a seat");
        assert!(first.given_up().now_or_never().is_none(), "it is cut off while it is answered");
        let third = third.await;
        assert!(second.given_up().now_or_never().is_none(), "one has made room already");
        // After its answer the queue has one socket too many, and the quietest one must leave.
        drop(answering);
        assert!(second.given_up().now_or_never().is_some());
        drop(second);
        // From now on it may have to leave like any other socket.
        let mut fourth = pin!(pending.enter());
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(third.given_up().now_or_never().is_some());
        assert!(first.given_up().now_or_never().is_none(), "it has asked later");
        drop(third);
        fourth.await;
    }

    #[tokio::test]
    async fn sockets_come_in_while_all_seats_are_taken_and_handshakes_beyond_are_refused() {
        let pending = Pending::new(1);
        let first = pending.enter().await;
        let answering = answer(&first).expect("a seat");
        for _ in 0..3 {
            let other = pending.enter().now_or_never().expect("it need not wait for the handshake");
            assert!(answer(&other).is_none(), "there is one seat");
            assert!(other.given_up().now_or_never().is_none(), "it may ask again");
        }
        assert!(first.given_up().now_or_never().is_none());
        answering.has_ended();
        drop(first);
        let other = pending.enter().await;
        assert!(answer(&other).is_some(), "the seat is free again");
        drop(other);
        let queue = pending.queue.lock();
        assert_eq!((queue.free, queue.answering, queue.leaving, queue.by_age.len()), (1, 0, 0, 0));
    }

    #[tokio::test]
    async fn each_that_waits_has_one_that_makes_room_whichever_gets_it_first() {
        let pending = Pending::new(2);
        let (first, second) = (pending.enter().await, pending.enter().await);
        let (mut third, mut fourth) = (pin!(pending.enter()), pin!(pending.enter()));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(fourth.as_mut().now_or_never().is_none());
        // The third takes the second's room. The first, which should have made room too, is being answered.
        drop(second);
        let third = third.await;
        let _answering = answer(&first);
        let fourth = fourth.await;
        let mut fifth = pin!(pending.enter());
        assert!(fifth.as_mut().now_or_never().is_none());
        assert!(third.given_up().now_or_never().is_some(), "nobody makes room for the fifth");
        drop(third);
        fifth.await;
        drop(fourth);
    }

    #[tokio::test]
    async fn a_socket_that_waits_no_more_is_made_no_room() {
        let pending = Pending::new(1);
        let first = pending.enter().await;
        {
            let mut second = pin!(pending.enter());
            assert!(second.as_mut().now_or_never().is_none());
        }
        // It had to leave for the second one, but has sent a request since.
        drop(answer(&first));
        assert!(first.given_up().now_or_never().is_none());
        drop(first);
        pending.enter().await;
    }
}
