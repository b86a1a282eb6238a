//! From the bus to a node's members: one lane's worth of topics, each topic's events in order, many at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::EventHub;
use super::members::{List, Members};
use super::recovery::recover;
use crate::channel::Channel;
use crate::event::{Event, EventKind, Position};
use crate::frame::Frame;
use crate::name::ChannelId;
use crate::panics::survived;

/// Events that may wait in a lane; beyond, they are dropped and their topics' members told of a gap.
const MOST_WAITING: usize = 16 * 1024;
/// Above so many, publishers on this node wait.
const PLENTY: usize = 1024;
/// After so many members other tasks get their turn…
const MEMBERS_A_TURN: usize = 256;
/// …or after so many bytes: a socket takes megabytes at once from one who writes, and each costs time.
const BYTES_A_TURN: usize = 256 * 1024;

/// See the [module's documentation](self).
#[derive(Default)]
pub(super) struct Delivery {
    waiting: Mutex<VecDeque<Waiting>>,
    arrived: Notify,
    drained: Notify,
    /// What was taken is being delivered. Set under the lock of what waits.
    delivers: AtomicBool,
    pub(super) stopped: AtomicBool,
}

enum Waiting {
    Event(Arc<Members>, Position, Arc<Event>),
    Gap(Arc<Members>),
}

impl Delivery {
    pub(super) fn push(&self, members: &Arc<Members>, events: &[(Position, Arc<Event>)]) {
        let mut waiting = self.waiting.lock();
        for (position, event) in events {
            if waiting.len() < MOST_WAITING {
                waiting.push_back(Waiting::Event(Arc::clone(members), *position, Arc::clone(event)));
            } else {
                metrics::counter!("strait_events_dropped_total").increment(1);
                note_gap(&mut waiting, members);
            }
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    pub(super) fn gap(&self, members: &Arc<Members>) {
        note_gap(&mut self.waiting.lock(), members);
        self.arrived.notify_one();
    }

    /// Waits until the lane is not overfull, so that a publisher is no quicker than its node's deliveries.
    pub(super) async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            if self.waiting.lock().len() <= PLENTY || self.stopped.load(Ordering::Acquire) {
                return;
            }
            drained.await;
        }
    }

    /// Nothing is delivered any more, and nobody waits for it.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.waiting.lock().clear();
        self.drained.notify_waiters();
    }

    fn take(&self) -> VecDeque<Waiting> {
        let mut waiting = self.waiting.lock();
        // Under the lock, so that a gap from here on is told behind what waits from here on.
        for waiting in &*waiting {
            if let Waiting::Gap(members) = waiting {
                members.gap_waits.store(false, Ordering::Release);
            }
        }
        self.delivers.store(!waiting.is_empty(), Ordering::Release);
        std::mem::take(&mut *waiting)
    }

    /// Whether all that came so far has been handed to its members.
    fn is_idle(&self) -> bool {
        let waiting = self.waiting.lock();
        (waiting.is_empty() && !self.delivers.load(Ordering::Acquire)) || self.stopped.load(Ordering::Acquire)
    }

    pub(super) async fn run(self: Arc<Self>, hub: EventHub) {
        loop {
            self.arrived.notified().await;
            // Whoever publishes in this turn of the runtime comes along.
            behind_what_is_ready().await;
            let waiting = self.take();
            self.drained.notify_waiters();
            for topic in by_topic(waiting) {
                deliver_whatever_happens(topic, &hub).await;
            }
            self.delivers.store(false, Ordering::Release);
        }
    }
}

impl EventHub {
    /// Whether events that came for a channel's topics have yet to be handed to their members on this node.
    pub(crate) fn delivers_to(&self, channel: &Channel) -> bool {
        let live = channel.inner.live.lock();
        let lanes = live.topics.iter().fold(0_u32, |lanes, joined| lanes | 1 << self.0.shard(joined.topic()));
        drop(live);
        self.0.delivery.iter().enumerate().any(|(at, lane)| lanes & (1 << at) != 0 && !lane.is_idle())
    }
}

/// Goes on once what is ready has had its turn. `yield_now` has the runtime look at the sockets as well: a system call an event,
/// where events come one by one.
async fn behind_what_is_ready() {
    let mut waits = true;
    poll_fn(|cx| {
        if std::mem::take(&mut waits) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

/// One notice a topic waits at a time, so that the lane stays bounded.
fn note_gap(waiting: &mut VecDeque<Waiting>, members: &Arc<Members>) {
    if !members.gap_waits.swap(true, Ordering::AcqRel) {
        waiting.push_back(Waiting::Gap(Arc::clone(members)));
    }
}

/// What waits of one topic, up to a gap.
struct Batch {
    members: Arc<Members>,
    events: Vec<(Position, Arc<Event>)>,
    gap: bool,
}

fn by_topic(waiting: VecDeque<Waiting>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut found = std::collections::HashMap::<*const Members, usize>::new();
    for waiting in waiting {
        let (members, event) = match waiting {
            Waiting::Event(members, position, event) => (members, Some((position, event))),
            Waiting::Gap(members) => (members, None),
        };
        let at = found.entry(Arc::as_ptr(&members)).or_insert(batches.len());
        if batches.get(*at).is_some_and(|batch| batch.gap) {
            // What comes after the hole is told after it.
            *at = batches.len();
        }
        let at = *at;
        if at == batches.len() {
            batches.push(Batch { members, events: Vec::new(), gap: false });
        }
        let batch = &mut batches[at];
        batch.gap |= event.is_none();
        batch.events.extend(event);
    }
    batches
}

/// A panic, in an encoder of the application's say, must not end the lane: the members are told of a gap instead.
async fn deliver_whatever_happens(batch: Batch, hub: &EventHub) {
    let members = Arc::clone(&batch.members);
    if survived("delivery", deliver_batch(batch, hub)).await.is_none() {
        let _ = catch_unwind(AssertUnwindSafe(|| tell_gap(&members)));
    }
}

async fn deliver_batch(mut batch: Batch, hub: &EventHub) {
    let Some(retained) = &batch.members.retained else {
        deliver(&batch.members, &batch.events, |_, _| true).await;
        if batch.gap {
            tell_gap(&batch.members);
        }
        return;
    };
    let missing = retained.admit(&mut batch.events, batch.gap);
    deliver(&batch.members, &batch.events, |_, _| true).await;
    if missing {
        tokio::spawn(recover(hub.clone(), batch.members));
    }
}

pub(super) fn tell_gap(members: &Members) {
    members.snapshot().values().for_each(|member| member.outlet().gap(&members.topic));
}

/// Hands events to the members, but to each one only those that it is to have.
pub(super) async fn deliver(
    members: &Members,
    events: &[(Position, Arc<Event>)],
    has: impl Fn(u64, &Position) -> bool,
) {
    let topic = &members.topic;
    // Plain clients get what was published; joins and leaves have no plain form.
    let events: Vec<&(Position, Arc<Event>)> =
        events.iter().filter(|(_, event)| event.kind == EventKind::Message).collect();
    let Some((first, _)) = events.first() else { return };
    let frames: Vec<Frame> = events.iter().map(|(_, event)| Frame::of(&event.payload)).collect();
    let personal = events.iter().any(|(_, event)| event.exclude.is_some() || event.publisher.is_some());
    let members: Arc<List> = members.snapshot();
    metrics::counter!("strait_events_delivered_total").increment((frames.len() * members.len()) as u64);
    let each: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
    let turn = (BYTES_A_TURN / each.max(1)).clamp(1, MEMBERS_A_TURN);
    let mut left = turn;
    for (key, member) in members.iter() {
        if left == 0 {
            tokio::task::yield_now().await;
            left = turn;
        }
        left -= 1;
        let outlet = member.outlet();
        let partly = !has(*key, first);
        if partly || (personal && events.iter().any(|(_, event)| concerns(event, member.channel.id()))) {
            for ((position, event), frame) in events.iter().zip(&frames) {
                if event.exclude.as_ref() != Some(member.channel.id()) && (!partly || has(*key, position)) {
                    let own = event.publisher.as_ref().filter(|publisher| publisher.channel == *member.channel.id());
                    outlet.events(topic, std::slice::from_ref(frame), own.map(|publisher| publisher.turn));
                }
            }
        } else {
            outlet.events(topic, &frames, None);
        }
    }
}

fn concerns(event: &Event, channel: &ChannelId) -> bool {
    event.exclude.as_ref() == Some(channel)
        || event.publisher.as_ref().is_some_and(|publisher| publisher.channel == *channel)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::event::Payload;
    use crate::name::Topic;

    /// With two threads, so that each order comes about: what is lost while a lane is emptied is told of behind it.
    #[test]
    fn a_gap_is_told_behind_what_came_before_it() {
        let members = Arc::new(Members::new(Topic::new("a").expect("a name"), false));
        let event = (Position { epoch: 1, offset: 1, check: 1 }, Arc::new(Event::message(Payload::text("event"))));
        for _ in 0..3_000 {
            let (lane, meet) = (Delivery::default(), Barrier::new(2));
            lane.gap(&members);
            let first = std::thread::scope(|scope| {
                let taking = scope.spawn(|| {
                    meet.wait();
                    by_topic(lane.take()).len()
                });
                meet.wait();
                lane.push(&members, std::slice::from_ref(&event));
                lane.gap(&members);
                taking.join().expect("no panic")
            });
            let rest = lane.take();
            let told = rest.iter().rposition(|waiting| matches!(waiting, Waiting::Gap(_)));
            let came = rest.iter().rposition(|waiting| matches!(waiting, Waiting::Event(..)));
            assert!(told >= came, "an event and its gap wait after {first} batches, the gap first or not at all");
        }
    }

    #[test]
    fn what_is_too_much_for_a_lane_is_one_gap_behind_the_rest() {
        let members = Arc::new(Members::new(Topic::new("a").expect("a name"), false));
        let event = (Position { epoch: 1, offset: 1, check: 1 }, Arc::new(Event::message(Payload::text("x"))));
        let lane = Delivery::default();
        for _ in 0..MOST_WAITING + 5_000 {
            lane.push(&members, std::slice::from_ref(&event));
        }
        let waiting = lane.take();
        assert_eq!(waiting.len(), MOST_WAITING + 1);
        assert!(matches!(waiting.back(), Some(Waiting::Gap(_))));
        let batches = by_topic(waiting);
        assert_eq!((batches.len(), batches[0].events.len(), batches[0].gap), (1, MOST_WAITING, true));
    }
}
