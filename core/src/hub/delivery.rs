//! Delivery from the bus to a node's members. Each lane serves a share of the topics, and keeps each topic's order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::EventHub;
use super::held::Budget;
use super::members::{List, Members};
use super::recovery::recover;
use crate::channel::Channel;
use crate::event::{Event, EventKind, Position};
use crate::frame::Frame;
use crate::name::ChannelId;
use crate::panics::survived;

/// Events that may wait in a lane. Further ones are dropped, and their topics' members get a gap notice.
const MOST_WAITING: usize = 16 * 1024;
/// Publishers on this node wait while a lane holds more events than this…
const PLENTY: usize = 1024;
/// …or more than its bytes divided by this.
const PLENTY_OF_BYTES: usize = 4;
/// The lane yields to other tasks after this many members…
const MEMBERS_A_TURN: usize = 256;
/// …or this many bytes: a socket takes megabytes at once from one writer, and each costs time.
const BYTES_A_TURN: usize = 256 * 1024;

/// See the [module's documentation](self).
pub(super) struct Delivery {
    queue: Mutex<Queue>,
    /// Bytes of the events that wait or are being delivered. It grows only under the queue's lock.
    bytes: AtomicUsize,
    most_bytes: usize,
    /// The budget for events that this lane's retained topics hold while they catch up.
    budget: Arc<Budget>,
    metrics: LaneMetrics,
    arrived: Notify,
    drained: Notify,
    /// Taken events are being delivered. Set under the queue's lock.
    delivers: AtomicBool,
    pub(super) stopped: AtomicBool,
}

impl Waiting {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(_, _, event) => event.payload.bytes().len(),
            Self::Gap(_) => 0,
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// An event was dropped. Later ones are dropped as well until the lane is emptied. Otherwise a small event could
    /// come in behind the gap notice, and the next drop would go without a notice.
    overfull: bool,
}

struct LaneMetrics {
    bytes: Gauge,
    too_many_events: Counter,
    too_many_bytes: Counter,
}

impl LaneMetrics {
    fn new(lane: usize) -> Self {
        Self {
            bytes: metrics::gauge!("strait_lane_bytes", "lane" => lane.to_string()),
            too_many_events: metrics::counter!("strait_lane_overflows_total", "limit" => "events"),
            too_many_bytes: metrics::counter!("strait_lane_overflows_total", "limit" => "bytes"),
        }
    }
}

enum Waiting {
    Event(Arc<Members>, Position, Arc<Event>),
    Gap(Arc<Members>),
}

impl Delivery {
    pub(super) fn new(lane: usize, most_bytes: usize) -> Self {
        Self {
            queue: Mutex::default(),
            bytes: AtomicUsize::new(0),
            most_bytes,
            budget: Arc::new(Budget::new(most_bytes)),
            metrics: LaneMetrics::new(lane),
            arrived: Notify::new(),
            drained: Notify::new(),
            delivers: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }

    pub(super) fn push(&self, members: &Arc<Members>, events: &[(Position, Arc<Event>)]) {
        let mut queue = self.queue.lock();
        let before = self.bytes.load(Ordering::Relaxed);
        let mut bytes = before;
        for (position, event) in events {
            let size = event.payload.bytes().len();
            let too_many = queue.waiting.len() >= MOST_WAITING;
            // An event that is larger than the limit waits alone.
            let too_large = bytes > 0 && bytes + size > self.most_bytes;
            if !queue.overfull && !too_many && !too_large {
                queue.waiting.push_back(Waiting::Event(Arc::clone(members), *position, Arc::clone(event)));
                bytes += size;
                continue;
            }
            metrics::counter!("strait_events_dropped_total").increment(1);
            if !queue.overfull {
                let limit = if too_many { &self.metrics.too_many_events } else { &self.metrics.too_many_bytes };
                limit.increment(1);
                queue.overfull = true;
            }
            note_gap(&mut queue.waiting, members);
        }
        self.bytes.fetch_add(bytes - before, Ordering::Relaxed);
        drop(queue);
        self.metrics.bytes.increment((bytes - before) as f64);
        self.arrived.notify_one();
    }

    pub(super) fn gap(&self, members: &Arc<Members>) {
        note_gap(&mut self.queue.lock().waiting, members);
        self.arrived.notify_one();
    }

    fn plenty_of_bytes(&self) -> usize {
        self.most_bytes / PLENTY_OF_BYTES
    }

    /// Releases the bytes of events that were delivered or dropped.
    fn release(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.metrics.bytes.decrement(bytes as f64);
        let plenty = self.plenty_of_bytes();
        if before > plenty && before - bytes <= plenty {
            self.drained.notify_waiters();
        }
    }

    /// Waits until the lane has room, so that a publisher is no quicker than its node's deliveries.
    pub(super) async fn room(&self) {
        loop {
            let drained = self.drained.notified();
            let few = self.queue.lock().waiting.len() <= PLENTY
                && self.bytes.load(Ordering::Acquire) <= self.plenty_of_bytes();
            if few || self.stopped.load(Ordering::Acquire) {
                return;
            }
            drained.await;
        }
    }

    /// Stops all deliveries and wakes the publishers that wait.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let left = std::mem::take(&mut self.queue.lock().waiting);
        self.release(left.iter().map(Waiting::bytes).sum());
        self.drained.notify_waiters();
    }

    fn take(&self) -> VecDeque<Waiting> {
        let mut queue = self.queue.lock();
        // Clear the flags under the lock: otherwise a gap pushed now could be reported before events pushed earlier.
        for waiting in &queue.waiting {
            if let Waiting::Gap(members) = waiting {
                members.gap_waits.store(false, Ordering::Release);
            }
        }
        let taken = std::mem::take(&mut *queue).waiting;
        self.delivers.store(!taken.is_empty(), Ordering::Release);
        taken
    }

    /// Whether every event so far has been handed to its members.
    fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        (queue.waiting.is_empty() && !self.delivers.load(Ordering::Acquire)) || self.stopped.load(Ordering::Acquire)
    }

    pub(super) async fn run(self: Arc<Self>, hub: EventHub) {
        loop {
            self.arrived.notified().await;
            // Collect the events of all publishers in this turn of the runtime.
            behind_what_is_ready().await;
            let waiting = self.take();
            self.drained.notify_waiters();
            for topic in by_topic(waiting) {
                let bytes = topic.bytes();
                deliver_whatever_happens(topic, &hub).await;
                self.release(bytes);
            }
            self.delivers.store(false, Ordering::Release);
        }
    }
}

impl EventHub {
    /// Whether events of a channel's topics still wait for their delivery on this node.
    pub(crate) fn delivers_to(&self, channel: &Channel) -> bool {
        let live = channel.inner.live.lock();
        let lanes = live.topics.iter().fold(0_u32, |lanes, joined| lanes | 1 << self.0.shard(joined.topic()));
        drop(live);
        self.0.delivery.iter().enumerate().any(|(at, lane)| lanes & (1 << at) != 0 && !lane.is_idle())
    }
}

/// Yields to tasks that are ready. `yield_now` would also poll the sockets: one system call for each event when events
/// come one by one.
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

/// Queues at most one gap notice for each topic, so that the lane stays bounded.
fn note_gap(waiting: &mut VecDeque<Waiting>, members: &Arc<Members>) {
    if !members.gap_waits.swap(true, Ordering::AcqRel) {
        waiting.push_back(Waiting::Gap(Arc::clone(members)));
    }
}

/// The waiting events of one topic, up to a gap.
struct Batch {
    members: Arc<Members>,
    events: Vec<(Position, Arc<Event>)>,
    gap: bool,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.events.iter().map(|(_, event)| event.payload.bytes().len()).sum()
    }
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
            // Events after the gap belong behind its notice.
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

/// A panic, for example in an application's encoder, must not end the lane: the members get a gap notice instead.
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

/// Hands each member the events that `has` selects for it.
pub(super) async fn deliver(
    members: &Members,
    events: &[(Position, Arc<Event>)],
    has: impl Fn(u64, &Position) -> bool,
) {
    let topic = &members.topic;
    // Plain clients get messages only; joins and leaves have no plain form.
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
    use std::pin::pin;
    use std::sync::Barrier;
    use std::task::{Context, Waker};

    use super::*;
    use crate::event::Payload;
    use crate::name::Topic;

    fn lane(most_bytes: usize) -> Delivery {
        Delivery::new(0, most_bytes)
    }

    fn members() -> Arc<Members> {
        Arc::new(Members::new(Topic::new("a").expect("a name"), None))
    }

    fn event(bytes: usize) -> [(Position, Arc<Event>); 1] {
        let event = Event::message(Payload::text("x".repeat(bytes)));
        [(Position { epoch: 1, offset: 1, check: 1 }, Arc::new(event))]
    }

    /// The number of waiting events, and whether a gap waits behind them.
    fn taken(lane: &Delivery) -> (usize, bool) {
        let waiting = lane.take();
        let gap = matches!(waiting.back(), Some(Waiting::Gap(_)));
        (waiting.len() - usize::from(gap), gap)
    }

    /// Two threads produce every order: the notice of an event lost while the lane is emptied comes behind the earlier
    /// events.
    #[test]
    fn a_gap_is_told_behind_what_came_before_it() {
        let members = Arc::new(Members::new(Topic::new("a").expect("a name"), None));
        let event = (Position { epoch: 1, offset: 1, check: 1 }, Arc::new(Event::message(Payload::text("event"))));
        for _ in 0..3_000 {
            let (lane, meet) = (lane(usize::MAX), Barrier::new(2));
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
        let members = Arc::new(Members::new(Topic::new("a").expect("a name"), None));
        let event = (Position { epoch: 1, offset: 1, check: 1 }, Arc::new(Event::message(Payload::text("x"))));
        let lane = lane(usize::MAX);
        for _ in 0..MOST_WAITING + 5_000 {
            lane.push(&members, std::slice::from_ref(&event));
        }
        let waiting = lane.take();
        assert_eq!(waiting.len(), MOST_WAITING + 1);
        assert!(matches!(waiting.back(), Some(Waiting::Gap(_))));
        let batches = by_topic(waiting);
        assert_eq!((batches.len(), batches[0].events.len(), batches[0].gap), (1, MOST_WAITING, true));
    }

    #[test]
    fn a_lane_is_bounded_in_bytes_and_what_is_too_much_is_one_gap_behind_the_rest() {
        let (lane, members) = (lane(1000), members());
        for _ in 0..5 {
            lane.push(&members, &event(300));
        }
        // The event would fit, but a gap waits before it.
        lane.push(&members, &event(10));
        assert_eq!(taken(&lane), (3, true));
    }

    #[test]
    fn what_is_being_delivered_counts_until_it_is() {
        let (lane, members) = (lane(1000), members());
        lane.push(&members, &event(800));
        assert_eq!(taken(&lane), (1, false));
        lane.push(&members, &event(800));
        assert_eq!(taken(&lane), (0, true));
        lane.release(800);
        lane.push(&members, &event(800));
        assert_eq!(taken(&lane), (1, false));
    }

    #[test]
    fn an_event_that_is_larger_than_a_lane_waits_alone() {
        let (lane, members) = (lane(1000), members());
        lane.push(&members, &event(5000));
        lane.push(&members, &event(1));
        assert_eq!(taken(&lane), (1, true));
    }

    #[test]
    fn publishers_wait_while_many_bytes_are_to_be_delivered() {
        let (lane, members) = (lane(1000), members());
        lane.push(&members, &event(300));
        lane.push(&members, &event(100));
        let mut room = pin!(lane.room());
        let mut poll = || room.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        assert_eq!(taken(&lane), (2, false));
        lane.release(100);
        assert!(poll().is_pending(), "300 bytes are more than a quarter");
        lane.release(300);
        assert!(poll().is_ready());
    }
}
