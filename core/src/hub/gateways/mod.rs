//! The hub's work for channels at a gateway, from nodes and from invocations alike.

mod fanout;
mod members;
mod owed;
mod relay;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, watch};

use super::{EventHub, ending};
use crate::app::{App, WeakApp};
use crate::close::Close;
use crate::error::Error;
use crate::event::{Event, EventKind};
use crate::gateway::{Gateway, GatewayConnection, Post, Posted};
use crate::handler::DisconnectReason;
use crate::name::{ChannelId, Topic};
use crate::outlet::Outlet;
use crate::store::{BusNode, Location, Record, RecordPhase, StoreError};
use fanout::Waiting;
pub(crate) use members::shards;
pub(crate) use work::Todo;
pub use work::{Continuation, Work};

/// The first pause between retries.
const PAUSE: Duration = Duration::from_millis(10);

/// See the [module's documentation](self).
#[derive(Default)]
pub(crate) struct Gateways {
    pub(crate) gateway: Option<Arc<dyn Gateway>>,
    pub(crate) continuation: Option<Arc<dyn Continuation>>,
    app: OnceLock<WeakApp>,
    /// Topics with events that are being posted, and their queues.
    topics: Mutex<HashMap<Topic, VecDeque<Waiting>>>,
    /// The handlers that run in invocations of this process, and whether their reply is out.
    replying: Mutex<HashMap<(ChannelId, u32), watch::Receiver<bool>>>,
    /// Connections with a handshake that an invocation of this process is answering, and the outlet for their messages.
    opening: Mutex<HashMap<GatewayConnection, Arc<dyn Outlet>>>,
    /// Gap notices that are under way.
    owed: Mutex<HashSet<(ChannelId, Topic)>>,
    tasks: Arc<Tasks>,
    /// The deadlines for posts of this process's invocations.
    deadlines: Mutex<Vec<Instant>>,
    sender: OnceCell<Arc<dyn BusNode>>,
}

tokio::task_local! {
    /// The group of [`Tasks`] to which the running task belongs.
    static GROUP: u64;
}

/// Background tasks that must end before an invocation ends. A group holds a task and all the tasks that it begins in
/// turn.
#[derive(Default)]
struct Tasks {
    open: Mutex<Open>,
    ended: Notify,
}

#[derive(Default)]
struct Open {
    last: u64,
    /// The number of running tasks in each group.
    groups: BTreeMap<u64, usize>,
}

/// One task of [`Tasks`]; dropping it marks the task as ended.
struct Task {
    tasks: Arc<Tasks>,
    group: u64,
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut open = self.tasks.open.lock();
        if let Some(count) = open.groups.get_mut(&self.group) {
            *count -= 1;
            if *count == 0 {
                open.groups.remove(&self.group);
            }
        }
        drop(open);
        self.tasks.ended.notify_waiters();
    }
}

impl Tasks {
    fn begin(self: &Arc<Self>) -> Task {
        let mut open = self.open.lock();
        let group = GROUP.try_get().unwrap_or_else(|_| {
            open.last += 1;
            open.last
        });
        *open.groups.entry(group).or_default() += 1;
        Task { tasks: Arc::clone(self), group }
    }

    /// Waits for every task that began before this call, and for the tasks that those begin.
    async fn settled(&self) {
        let last = self.open.lock().last;
        loop {
            let ended = self.ended.notified();
            if self.open.lock().groups.first_key_value().is_none_or(|(group, _)| *group > last) {
                return;
            }
            ended.await;
        }
    }
}

/// A connection that opens here, until this is dropped.
pub(crate) struct Opening<'a> {
    gateways: &'a Gateways,
    connection: GatewayConnection,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.gateways.opening.lock().remove(&self.connection);
    }
}

/// The reason why a gateway does not know a connection.
enum Absent {
    /// Its handshake may not have been answered yet.
    NotReady,
    /// It has ended, or the channel is elsewhere by now.
    Ended,
}

impl Gateways {
    pub(crate) fn set_app(&self, app: WeakApp) {
        let _ = self.app.set(app);
    }

    /// The application, while it exists.
    pub(super) fn app(&self) -> Option<App> {
        self.app.get().and_then(WeakApp::upgrade)
    }

    pub(crate) fn begins_to_reply(&self, channel: ChannelId, turn: u32) -> watch::Sender<bool> {
        let (sender, receiver) = watch::channel(false);
        self.replying.lock().insert((channel, turn), receiver);
        sender
    }

    pub(crate) fn has_ended(&self, channel: ChannelId, turn: u32) {
        self.replying.lock().remove(&(channel, turn));
    }

    /// Routes this process's messages for an opening connection to its outlet, until the handshake is answered. The
    /// gateway takes none before the answer, and the answer waits for these sends.
    pub(crate) fn opens(&self, connection: GatewayConnection, outlet: Arc<dyn Outlet>) -> Opening<'_> {
        self.opening.lock().insert(connection.clone(), outlet);
        Opening { gateways: self, connection }
    }

    /// Gives a message to a connection that is opening here; `false` if it is not.
    fn give(&self, post: &Post) -> bool {
        let opening = self.opening.lock();
        let found = if opening.is_empty() { None } else { opening.get(&post.to) };
        if let Some(outlet) = found {
            outlet.send(&post.frame);
        }
        found.is_some()
    }

    /// An invocation begins that may post until `deadline`.
    pub(crate) fn begin_invocation(&self, deadline: Instant) {
        self.deadlines.lock().push(deadline);
    }

    /// Whether another invocation of this process ends later: background work then goes on in it.
    pub(crate) fn goes_on_after(&self, end: Instant) -> bool {
        self.deadlines.lock().iter().any(|deadline| *deadline > end)
    }

    pub(crate) fn end_invocation(&self, deadline: Instant) {
        let mut deadlines = self.deadlines.lock();
        if let Some(at) = deadlines.iter().position(|other| *other == deadline) {
            deadlines.swap_remove(at);
        }
    }
}

impl EventHub {
    pub(crate) fn gateways(&self) -> &Gateways {
        &self.0.gateways
    }

    pub(super) fn gateway(&self) -> Option<&Arc<dyn Gateway>> {
        self.0.gateways.gateway.as_ref()
    }

    fn app(&self) -> Option<App> {
        self.0.gateways.app()
    }

    /// The deadline for a post that begins now.
    pub(crate) fn post_deadline(&self) -> Instant {
        let of_invocations = self.0.gateways.deadlines.lock().iter().max().copied();
        let patience = self.gateway().map(|gateway| gateway.capabilities().patience).unwrap_or_default();
        let patient = Instant::now() + patience;
        of_invocations.map_or(patient, |deadline| deadline.min(patient))
    }

    /// Whether this process is about to be frozen, so that work must be handed on.
    fn is_late(&self) -> bool {
        self.0.gateways.deadlines.lock().iter().max().is_some_and(|deadline| *deadline <= Instant::now())
    }

    /// Runs work in the background; an invocation waits for it.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let task = self.0.gateways.tasks.begin();
        tokio::spawn(GROUP.scope(task.group, async move {
            work.await;
            drop(task);
        }));
    }

    /// Waits until all background work has ended.
    pub(crate) async fn settled(&self) {
        self.0.gateways.tasks.settled().await;
    }

    /// Posts messages, and counts the outcomes.
    pub(crate) async fn post(&self, posts: &[Post], deadline: Instant) -> Vec<Posted> {
        let Some(gateway) = self.gateway() else {
            if let Some(count) = self.lines().no_gateway.count() {
                tracing::error!(
                    count,
                    "a channel is at a gateway that this process cannot post to, give one with `gateway`"
                );
            }
            return vec![Posted::Misconfigured; posts.len()];
        };
        let given: Vec<bool> = posts.iter().map(|post| self.0.gateways.give(post)).collect();
        if given.contains(&true) {
            let others = posts.iter().zip(&given).filter(|(_, given)| !**given).map(|(post, _)| post.clone());
            let mut outcomes = self.post_to(gateway, &others.collect::<Vec<_>>(), deadline).await.into_iter();
            let outcome = |given| if given { Some(Posted::Sent) } else { outcomes.next() };
            return given.into_iter().filter_map(outcome).collect();
        }
        self.post_to(gateway, posts, deadline).await
    }

    async fn post_to(&self, gateway: &Arc<dyn Gateway>, posts: &[Post], deadline: Instant) -> Vec<Posted> {
        let outcomes = gateway.post(posts, deadline).await;
        for outcome in &outcomes {
            metrics::counter!("strait_gateway_posts_total", "outcome" => outcome.label()).increment(1);
        }
        outcomes
    }

    /// The gateway does not know the connection: the channel ends, unless it may not be established yet.
    async fn absent(&self, id: &ChannelId, at: &GatewayConnection) -> Result<Absent, StoreError> {
        let Some(record) = self.store().get(id).await? else { return Ok(Absent::Ended) };
        if record.phase == RecordPhase::Dead || record.location != at.location() {
            return Ok(Absent::Ended);
        }
        if self.may_be_opening(&record) {
            return Ok(Absent::NotReady);
        }
        self.evict(record, DisconnectReason::Lost);
        Ok(Absent::Ended)
    }

    /// Whether the channel has ended, by [`absent`](Self::absent).
    pub(crate) async fn is_absent(&self, id: &ChannelId, at: &GatewayConnection) -> Result<bool, StoreError> {
        Ok(matches!(self.absent(id, at).await?, Absent::Ended))
    }

    /// Whether the handshake of a channel's connection may not have been answered yet.
    pub(crate) fn may_be_opening(&self, record: &Record) -> bool {
        let handshake = self.gateway().map(|gateway| gateway.capabilities().handshake).unwrap_or_default();
        // A skewed clock makes the channel seem younger, never older.
        SystemTime::now().duration_since(record.opened_at).unwrap_or_default() < handshake
    }

    /// Ends a channel that is at a gateway, in the background.
    pub(crate) fn evict(&self, record: Record, reason: DisconnectReason) {
        let channel = self.app().and_then(|app| app.rehydrate(record));
        if let Some(channel) = channel {
            metrics::counter!("strait_gateway_evicted_total").increment(1);
            self.in_background(ending::end(channel, reason, true));
        }
    }

    /// Ends the channel of a record, and closes its connection.
    pub(super) async fn close_at_gateway(&self, record: Record, close: &Close) -> bool {
        let Some(at) = GatewayConnection::of(&record.location) else { return false };
        self.evict(record, DisconnectReason::Server);
        let Some(gateway) = self.gateway() else { return false };
        gateway.close(&at, close, self.post_deadline()).await == Posted::Sent
    }

    /// Sends directly to channels that are at a gateway, and returns the number reached. It waits a little for channels
    /// that are opening.
    pub(super) async fn send_at_gateway(
        &self,
        sends: &[(ChannelId, Location)],
        event: &Arc<Event>,
    ) -> Result<usize, Error> {
        let Some(gateway) = self.gateway() else {
            return Err(Error::unavailable("the channel is at a gateway that this process cannot reach"));
        };
        if event.kind != EventKind::Message {
            return Ok(0);
        }
        let Some(frame) = gateway.capabilities().encode(&event.payload) else {
            return Err(Error::invalid("the gateway cannot carry this message: it is too large, or not text"));
        };
        let mut waiting: Vec<(&ChannelId, GatewayConnection)> =
            sends.iter().filter_map(|(id, location)| Some((id, GatewayConnection::of(location)?))).collect();
        let (mut sent, mut failed, mut pause) = (0, None, PAUSE);
        let deadline = self.post_deadline();
        loop {
            let posts: Vec<Post> =
                waiting.iter().map(|(_, to)| Post { to: to.clone(), frame: frame.clone() }).collect();
            let outcomes = self.post(&posts, deadline).await;
            let mut not_ready = Vec::new();
            for ((id, to), outcome) in waiting.into_iter().zip(outcomes) {
                match outcome {
                    Posted::Sent => sent += 1,
                    Posted::Gone => match self.absent(id, &to).await? {
                        Absent::NotReady => not_ready.push((id, to)),
                        Absent::Ended => {}
                    },
                    Posted::TooLarge => failed = Some(Error::invalid("the message is too large for the gateway")),
                    Posted::Throttled | Posted::Misconfigured | Posted::Unsent => {
                        failed = Some(Error::unavailable("the gateway did not take the message, try again later"));
                    }
                }
            }
            waiting = not_ready;
            if waiting.is_empty() {
                break;
            }
            if Instant::now() + pause >= deadline {
                failed = Some(Error::unavailable("the channel's connection is not established yet, try again later"));
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE * 25);
        }
        match failed {
            Some(error) if sent == 0 => Err(error),
            _ => Ok(sent),
        }
    }

    /// The bus for sending to nodes: this node's own end of it, or one that only sends.
    pub(super) async fn bus_to_send(&self) -> Result<Arc<dyn BusNode>, Error> {
        if let Some(bus) = self.0.bus.get() {
            return Ok(Arc::clone(bus));
        }
        if self.gateway().is_none() {
            return self.0.bus().cloned();
        }
        let start = || self.0.store.start(&self.0.node, Arc::clone(&self.0) as Arc<dyn crate::store::Sink>);
        Ok(Arc::clone(self.0.gateways.sender.get_or_try_init(start).await?))
    }
}
