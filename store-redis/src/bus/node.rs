use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use foldhash::fast::RandomState;
use futures_util::future::try_join_all;
use parking_lot::{Mutex, RwLock};
use strait_core::store::{BusNode, Command, Health, Sink, StoreError, StoreErrorKind};
use strait_core::{NodeId, Position, Topic, in_full};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::heard::Heard;
use super::listener::{Link, Listener, Subscribed};
use super::mailbox::Mailbox;
use super::supervisor;
use crate::call::Call;
use crate::error::{BACKEND, Failure, conflict};
use crate::event::{self, Foreign};
use crate::publish::{MOST_BYTES, MOST_EVENTS};
use crate::reply::{integer, list, position};
use crate::scripts;
use crate::store::{Inner, milliseconds};

/// A mailbox keeps this many commands, and for this long.
const COMMANDS: u32 = 1024;
pub(super) const COMMANDS_FOR: Duration = Duration::from_secs(60);

/// One node's end of the bus. A dropped node leaves the bus, as at the end of its process.
pub(crate) struct RedisNode {
    pub(super) bus: Arc<Bus>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisNode").field("node", &self.bus.node).finish_non_exhaustive()
    }
}

/// A listener and its topics.
pub(super) type Place = (Arc<Listener>, Vec<Arc<Heard>>);

/// The state that the node's tasks and connections share.
pub(crate) struct Bus {
    pub(super) store: Arc<Inner>,
    pub(super) node: NodeId,
    /// Differs for each start of a node with this name.
    pub(super) token: String,
    pub(super) origin: Instant,
    pub(super) topics: RwLock<HashMap<Topic, Arc<Heard>, RandomState>>,
    pub(super) mailbox: Mailbox,
    /// At most one for each server and runtime.
    pub(super) listeners: RwLock<Vec<Arc<Listener>>>,
    /// The runtime that started the node: it runs the mailbox, the supervisor, and topics without a runtime of their
    /// own.
    pub(super) runtime: Handle,
    /// Wakes the supervisor.
    pub(super) needed: Notify,
    /// A slot has left its server.
    pub(super) moved: AtomicBool,
    /// Shard channels with an unwanted subscription, left over from an interrupted call.
    pub(super) unwanted: Mutex<Vec<String>>,
    /// The round trip of the last probe in microseconds.
    pub(super) lag: AtomicU64,
    links: AtomicU64,
    /// Cleared when the node leaves, as the sink may own the node in turn.
    sink: RwLock<Option<Arc<dyn Sink>>>,
}

impl RedisNode {
    pub(super) async fn start(store: Arc<Inner>, node: NodeId, sink: Arc<dyn Sink>) -> Result<Self, StoreError> {
        let token = store.random.token();
        let head = register(&store, &node, &token, "start").await?;
        let Some(head) = head else {
            return Err(conflict("start", "a node of this name is on the bus, every node needs a name of its own"));
        };
        let keys = store.keys.node(&node);
        let mailbox = Mailbox::new(keys.slot(), keys.channel(), head);
        let bus = Arc::new(Bus {
            store,
            node,
            token,
            origin: Instant::now(),
            topics: RwLock::default(),
            mailbox,
            listeners: RwLock::default(),
            runtime: Handle::current(),
            needed: Notify::new(),
            moved: AtomicBool::new(false),
            unwanted: Mutex::default(),
            lag: AtomicU64::new(u64::MAX),
            links: AtomicU64::new(0),
            sink: RwLock::new(Some(sink)),
        });
        bus.store.add_bus(&bus);
        let this = Self { bus: Arc::clone(&bus), supervisor: Mutex::new(None) };
        // From here on the mailbox keeps commands until they are read; before, no other node may send any.
        supervisor::listen_to_mailbox(&bus).await.map_err(|failure| failure.store("start"))?;
        *this.supervisor.lock() = Some(tokio::spawn(supervisor::run(bus)));
        Ok(this)
    }

    /// Takes the node off the bus; returns the call that completes this.
    fn leave(&self) -> Option<Call> {
        let supervisor = self.supervisor.lock().take();
        if let Some(supervisor) = supervisor {
            supervisor.abort();
        }
        self.bus.sink.write().take()?;
        self.bus.topics.write().clear();
        for listener in std::mem::take(&mut *self.bus.listeners.write()) {
            listener.hang_up();
        }
        let keys = self.bus.store.keys.node(&self.bus.node);
        let touched = [keys.bus(), keys.mailbox(), keys.mailbox_log()];
        Some(Call::script(&scripts::LEAVE_BUS, keys.slot(), &touched).arg(&self.bus.token))
    }
}

/// Registers the node on the bus for a while; `None` if another one has its name. Returns the mailbox's head.
pub(super) async fn register(
    store: &Inner,
    node: &NodeId,
    token: &str,
    op: &'static str,
) -> Result<Option<Position>, StoreError> {
    let keys = store.keys.node(node);
    let call = Call::script(&scripts::STAY, keys.slot(), &[keys.bus(), keys.mailbox()])
        .arg(token)
        .arg(milliseconds(stays_for(store)))
        .arg(store.random.epoch())
        .arg(milliseconds(COMMANDS_FOR));
    let answer = store.router.one(op, call).await?;
    let read = || match &list(answer)?[..] {
        [_] => Ok(None),
        [_, head] => position(head).map(Some),
        _ => Err(Foreign),
    };
    read().map_err(|foreign| Failure::from(foreign).store(op))
}

/// How many of the commands go in one script, so that it does not block Redis for long.
fn at_once(commands: &[Vec<u8>]) -> usize {
    let mut bytes = 0;
    let fits = |command: &&Vec<u8>| {
        let before = bytes;
        bytes += command.len();
        before < MOST_BYTES
    };
    commands.iter().take(MOST_EVENTS).take_while(fits).count()
}

/// How long a node without a renewal counts as being on the bus.
pub(super) fn stays_for(store: &Inner) -> Duration {
    (store.config.probe_timeout * 4).max(Duration::from_secs(10))
}

impl Bus {
    pub(super) fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.sink.read().clone()
    }

    /// Redis acknowledged a publication of this process.
    pub(crate) fn acknowledged(&self, topic: &Topic, position: Position) {
        if let Some(heard) = self.topics.read().get(topic) {
            heard.acknowledged(position);
        }
    }

    pub(super) fn next_link(&self) -> u64 {
        self.links.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The listener of a runtime at the server that has a slot.
    pub(super) async fn listener(&self, slot: u16, runtime: &Handle) -> Result<Arc<Listener>, Failure> {
        let server = self.store.router.server(slot).await?;
        let mut listeners = self.listeners.write();
        if let Some(found) = listeners.iter().find(|listener| listener.is(&server, runtime)) {
            return Ok(Arc::clone(found));
        }
        let listener = Arc::new(Listener::new(server, runtime.clone(), self.origin));
        listeners.push(Arc::clone(&listener));
        Ok(listener)
    }

    pub(super) async fn link(self: &Arc<Self>, listener: &Arc<Listener>) -> Result<Link, Failure> {
        listener.connected(|| self.next_link(), || self.ear(listener), self.deadline()).await
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.store.config.command_timeout
    }

    /// The topics by listener, with the first error if a topic has none.
    pub(super) async fn places(
        &self,
        topics: impl IntoIterator<Item = Arc<Heard>>,
    ) -> (Vec<Place>, Result<(), Failure>) {
        let (mut places, mut result) = (Vec::<Place>::new(), Ok(()));
        for heard in topics {
            match self.listener(heard.slot, &heard.runtime).await {
                Ok(listener) => match places.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &listener)) {
                    Some((_, topics)) => topics.push(heard),
                    None => places.push((listener, vec![heard])),
                },
                Err(failure) => result = result.and(Err(failure)),
            }
        }
        (places, result)
    }

    /// Subscribes to topics on their present servers; the supervisor handles those that move meanwhile.
    async fn subscribe(self: &Arc<Self>, topics: &[Arc<Heard>]) -> Result<(), Failure> {
        let (places, found) = self.places(topics.iter().cloned()).await;
        found?;
        let each = places.iter().map(async |(listener, topics)| {
            let link = self.link(listener).await?;
            self.subscribe_at(listener, &link, topics).await?;
            if listener.whole.load(Ordering::Acquire) != link.number {
                // Wake the supervisor: it probes a new connection only after it has checked it.
                self.needed.notify_one();
            }
            Ok(())
        });
        try_join_all(each).await.map(drop)
    }

    pub(super) async fn subscribe_at(
        &self,
        listener: &Listener,
        link: &Link,
        topics: &[Arc<Heard>],
    ) -> Result<(), Failure> {
        let channels = self.channels(topics.iter());
        let answers = listener.subscribe(link, &channels, self.deadline()).await?;
        for (heard, _) in topics.iter().zip(&answers).filter(|(_, answer)| **answer == Subscribed::Done) {
            heard.subscribed(link);
        }
        if answers.contains(&Subscribed::Moved) {
            self.store.router.refresh(self.deadline()).await?;
            return Err(Failure::Topology("a slot is being moved".to_owned()));
        }
        Ok(())
    }

    /// The shard channels of topics.
    fn channels<'a>(&self, topics: impl Iterator<Item = &'a Arc<Heard>>) -> Vec<String> {
        topics.map(|heard| self.store.keys.topic(&heard.topic).channel()).collect()
    }

    /// The heads of topics, in order.
    pub(super) async fn heads(&self, topics: &[Arc<Heard>], op: &'static str) -> Result<Vec<Position>, StoreError> {
        let calls: Vec<Call> = topics.iter().map(|heard| self.store.head(&heard.topic)).collect();
        let answers = self.store.router.all(op, &calls).await?;
        let read = |answer| position(answer).map_err(|foreign| Failure::from(foreign).store(op));
        answers.iter().map(read).collect()
    }

    async fn begin(self: &Arc<Self>, on: &[Topic]) -> Result<Vec<Position>, StoreError> {
        let op = "interest";
        let (mut wanted, mut new) = (Vec::new(), Vec::new());
        if let Some(sink) = self.sink() {
            let mut topics = self.topics.write();
            for topic in on {
                let heard = topics.entry(topic.clone()).or_insert_with(|| {
                    let slot = self.store.keys.topic(topic).slot();
                    let runtime = sink.runtime(topic).unwrap_or_else(|| self.runtime.clone());
                    let heard = Arc::new(Heard::new(topic.clone(), slot, runtime));
                    new.push(Arc::clone(&heard));
                    heard
                });
                wanted.push(Arc::clone(heard));
            }
        }
        let silent: Vec<Arc<Heard>> = wanted.iter().filter(|heard| heard.is_on(0)).cloned().collect();
        let begun = async {
            // A slot was moved just now: try once more.
            if self.subscribe(&silent).await.is_err() {
                self.subscribe(&silent).await.map_err(|failure| failure.store(op))?;
            }
            self.heads(&wanted, op).await
        };
        match begun.await {
            Ok(heads) => {
                for (heard, head) in wanted.iter().zip(&heads) {
                    heard.begin(*head);
                }
                Ok(heads)
            }
            Err(error) => {
                let mut topics = self.topics.write();
                for heard in new {
                    topics.remove(&heard.topic);
                }
                Err(error)
            }
        }
    }

    async fn end(self: &Arc<Self>, off: &[&Topic]) {
        let ended: Vec<Arc<Heard>> = {
            let mut topics = self.topics.write();
            off.iter().filter_map(|topic| topics.remove(*topic)).collect()
        };
        let listeners = self.listeners.read().clone();
        for listener in listeners {
            let Some(link) = listener.link() else { continue };
            let channels = self.channels(ended.iter().filter(|heard| heard.is_on(link.number)));
            // If an unsubscription fails, the next event of that topic triggers another one.
            if !channels.is_empty()
                && let Err(error) = listener.unsubscribe(&link, &channels, self.deadline()).await
            {
                tracing::debug!(error = %in_full(&error), "a subscription could not be ended");
            }
        }
    }
}

#[async_trait]
impl BusNode for RedisNode {
    async fn interest(&self, on: &[Topic], off: &[Topic]) -> Result<Vec<Position>, StoreError> {
        if self.bus.sink.read().is_none() {
            return Err(StoreError::new(StoreErrorKind::Unavailable, BACKEND, "interest")
                .because("the node has left the bus, start it anew"));
        }
        // A topic that ends and begins in one call goes on.
        let off: Vec<&Topic> = off.iter().filter(|topic| !on.contains(topic)).collect();
        if !off.is_empty() {
            self.bus.end(&off).await;
        }
        if on.is_empty() { Ok(Vec::new()) } else { self.bus.begin(on).await }
    }

    async fn send(&self, node: &NodeId, commands: &[Command]) -> Result<bool, StoreError> {
        let store = &self.bus.store;
        let keys = store.keys.node(node);
        let touched = [keys.bus(), keys.mailbox(), keys.mailbox_log()];
        let encoded: Vec<Vec<u8>> = commands.iter().map(event::encode_command).collect();
        let mut rest = &encoded[..];
        loop {
            let (now, later) = rest.split_at(at_once(rest));
            let mut call = Call::script(&scripts::SEND, keys.slot(), &touched)
                .arg(keys.channel())
                .arg(store.random.epoch())
                .arg(COMMANDS)
                .arg(milliseconds(COMMANDS_FOR))
                .once();
            for command in now {
                call = call.arg(store.random.check()).arg(&command[..]);
            }
            let answer = store.router.one("send", call).await?;
            let there = integer(&answer).map_err(|foreign| Failure::from(foreign).store("send"))? == 1;
            if !there || later.is_empty() {
                return Ok(there);
            }
            rest = later;
        }
    }

    fn health(&self) -> Health {
        let listeners = self.bus.listeners.read();
        let limit = self.bus.store.config.probe_interval + self.bus.store.config.probe_timeout;
        let hears = listeners.iter().all(|listener| listener.hears(limit));
        let hears = hears && !listeners.is_empty() && self.bus.sink.read().is_some();
        let lag = Some(self.bus.lag.load(Ordering::Acquire)).filter(|lag| *lag != u64::MAX);
        Health { hears, lag: lag.map(Duration::from_micros) }
    }

    async fn stop(&self) {
        if let Some(call) = self.leave()
            && let Err(error) = self.bus.store.router.one("stop", call).await
        {
            tracing::warn!(error = %error.in_full(), "the node could not leave the bus, it is forgotten in a while");
        }
    }
}

impl Drop for RedisNode {
    fn drop(&mut self) {
        let Some(call) = self.leave() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let store = Arc::clone(&self.bus.store);
            // If the call fails, the registration expires by itself.
            runtime.spawn(async move { store.router.one("stop", call).await });
        }
    }
}
