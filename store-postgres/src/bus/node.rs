//! A node's place on the bus.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use strait_core::store::{Health, Sink, StoreError, StoreErrorKind};
use strait_core::{NodeId, Position, Topic};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::hearing::{Hearing, Registration, Start};
use super::{left, poll};
use crate::config::PostgresConfig;
use crate::database::{Lane, Values, late};
use crate::error::error;
use crate::store::PostgresStore;
use crate::values::{Read, get, millis, name, position};

/// How long a node without a renewal stays on the bus.
pub(super) const PLACE: Duration = Duration::from_secs(30);
/// The interval of log lines about the same broken topic.
const BROKEN_APART: Duration = Duration::from_secs(60);
/// The pause between attempts to give a place back.
const PAUSE: Duration = Duration::from_millis(500);

/// This process's nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// Marks places on the bus as this process's.
    holder: NodeId,
    nodes: RwLock<Vec<Arc<Node>>>,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Self { holder: NodeId::unique(), nodes: RwLock::default() }
    }

    /// The nodes' numbers on the bus: this process wakes them itself, without a notification.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        self.nodes.read().iter().filter_map(|node| Some(node.hearing()?.registration.number)).collect()
    }

    pub(crate) fn wake_all(&self) {
        self.nodes.read().iter().for_each(|node| node.wake.notify_one());
    }

    pub(crate) fn wake_hearers<'a>(&self, topics: impl Iterator<Item = &'a Topic>) {
        let nodes = self.nodes.read();
        let mut asleep: Vec<_> = nodes.iter().collect();
        for topic in topics {
            asleep.retain(|node| {
                let hears = node.hearing().is_some_and(|hearing| hearing.may_hear(topic));
                if hears {
                    node.wake.notify_one();
                }
                !hears
            });
            if asleep.is_empty() {
                return;
            }
        }
    }

    /// Adds a node; `false` if there is one of its name.
    fn add(&self, node: &Arc<Node>) -> bool {
        let mut nodes = self.nodes.write();
        let is_new = nodes.iter().all(|other| other.id != node.id);
        if is_new {
            nodes.push(Arc::clone(node));
        }
        is_new
    }

    fn has(&self, id: &NodeId) -> bool {
        self.nodes.read().iter().any(|node| node.id == *id)
    }

    /// Wakes a node; `false` if another process has it.
    pub(super) fn wake(&self, id: &NodeId) -> bool {
        let nodes = self.nodes.read();
        let node = nodes.iter().find(|node| node.id == *id);
        node.inspect(|node| node.wake.notify_one()).is_some()
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// `None` once the node has left: this drops the sink, which may own the node in turn.
    hearing: Mutex<Option<Hearing>>,
    /// Many tasks at a time change the node's topics (read), or one renews its place (write). Otherwise a topic that
    /// ended meanwhile would begin again in the database.
    pub(super) changing: tokio::sync::RwLock<()>,
    /// Commands that the node has taken out of the mailbox, but that may still be in it.
    pub(super) taken: Mutex<HashSet<i64>>,
    pub(super) wake: Notify,
    pub(super) stopped: AtomicBool,
    /// The last topic that could not be sequenced, and the time of its line in the log.
    broken: Mutex<Option<(String, Instant)>>,
    pub(super) pulse: Mutex<Pulse>,
}

/// The time at which the node last heard, by this process's clock, and the delay of events, by the database's.
#[derive(Debug)]
pub(super) struct Pulse {
    pub(super) heard_at: Instant,
    pub(super) lag: Option<Duration>,
    /// The last poll found no break.
    pub(super) is_sound: bool,
}

impl Registration {
    pub(super) async fn give_back(&self, store: &PostgresStore) -> Result<(), StoreError> {
        let values = Values::new().with(self.number).with(&self.id);
        store.rows("stop", Lane::Vital, &store.inner.sql.leave_bus, values).await.map(drop)
    }

    /// Gives the place back in the background, with retries until it expires. `may_come_late`: a call that was given up
    /// may still create the place.
    pub(super) fn give_back_soon(self, store: &PostgresStore, may_come_late: bool) {
        let giving = store.clone();
        store.inner.database.spawn(async move {
            let (store, began) = (giving, Instant::now());
            let mut is_last = !may_come_late;
            while began.elapsed() < PLACE {
                match self.give_back(&store).await {
                    Ok(()) if is_last => return,
                    // The server cancels a statement after the same time.
                    Ok(()) => sleep(store.inner.config.operation).await,
                    Err(error) => {
                        tracing::debug!(error = %error.in_full(), "a node's place could not be given back, trying again");
                        sleep(PAUSE).await;
                        continue;
                    }
                }
                is_last = true;
            }
            tracing::warn!("a node could not be taken off the bus, its place ends by itself");
        });
    }

    /// Registers a node on the bus.
    pub(super) async fn new(store: &PostgresStore, id: &NodeId) -> Result<Self, StoreError> {
        let row = store.one("start", Lane::Vital, &store.inner.sql.new_place, Values::new()).await?;
        let place = || Ok(Self { number: get(&row, "number")?, id: id.to_string(), life: get(&row, "life")? });
        let (new, holder) = (store.read("start", place())?, &store.inner.nodes.holder);
        let values = Values::new().with(id.as_str()).with(millis(PLACE)).with(holder.as_str()).with(new.number);
        match store.value("start", Lane::Vital, &store.inner.sql.join_bus, values).await {
            Ok(true) => Ok(new),
            Ok(false) => Err(taken()),
            Err(error) => {
                new.give_back_soon(store, true);
                Err(error)
            }
        }
    }
}

fn taken() -> StoreError {
    error(StoreErrorKind::Conflict, "start", "a node of this name is on the bus, every node needs a name of its own")
}

/// Ends the count of [`Hearing::about_to_change`], even if the caller is dropped.
struct Changing<'a>(&'a Node);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(hearing) = self.0.hearing.lock().as_mut() {
            hearing.changed();
        }
    }
}

impl Node {
    /// Warns of a topic whose events cannot be sequenced, once a minute.
    pub(super) fn tell_broken(&self, reason: String) {
        let mut told = self.broken.lock();
        if told.as_ref().is_none_or(|(last, at)| *last != reason || at.elapsed() >= BROKEN_APART) {
            tracing::warn!(reason, "the events of a topic wait, as they cannot be given a place");
            *told = Some((reason, Instant::now()));
        }
    }

    pub(super) async fn join(store: &PostgresStore, id: &NodeId, sink: Arc<dyn Sink>) -> Result<Arc<Self>, StoreError> {
        if store.inner.nodes.has(id) {
            return Err(taken());
        }
        let registration = Registration::new(store, id).await?;
        let node = Arc::new(Self {
            id: id.clone(),
            hearing: Mutex::new(Some(Hearing::new(sink, registration))),
            changing: tokio::sync::RwLock::default(),
            taken: Mutex::default(),
            wake: Notify::new(),
            stopped: AtomicBool::new(false),
            broken: Mutex::default(),
            pulse: Mutex::new(Pulse { heard_at: Instant::now(), lag: None, is_sound: true }),
        });
        if store.inner.nodes.add(&node) {
            return Ok(node);
        }
        // Another start of the node came first: this one's place is not needed.
        if let Some(registration) = node.registration() {
            registration.give_back_soon(store, false);
        }
        Err(taken())
    }

    /// Begins polling: the node hears every event after this has returned.
    pub(super) async fn begin(self: &Arc<Self>, store: &PostgresStore) -> Result<(), StoreError> {
        let mark = poll::poll(store, self, None).await?.mark;
        tokio::spawn(poll::run(store.clone(), Arc::clone(self), mark));
        tokio::spawn(poll::keep(store.clone(), Arc::clone(self)));
        Ok(())
    }

    /// Removes the node from this process; the first call returns its place on the bus.
    pub(super) fn leave(&self, store: &PostgresStore) -> Option<Registration> {
        let hearing = self.hearing.lock().take()?;
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_one();
        store.inner.nodes.nodes.write().retain(|node| !std::ptr::eq(&**node, self));
        Some(hearing.registration)
    }

    /// The node's topics and their positions, unless it has left.
    pub(super) fn hearing(&self) -> Option<parking_lot::MappedMutexGuard<'_, Hearing>> {
        MutexGuard::try_map(self.hearing.lock(), Option::as_mut).ok()
    }

    pub(super) fn has_heard(&self) {
        let mut pulse = self.pulse.lock();
        pulse.heard_at = Instant::now();
        pulse.is_sound = true;
    }

    pub(super) fn registration(&self) -> Option<Registration> {
        Some(self.hearing()?.registration.clone())
    }

    pub(super) fn health(&self, config: &PostgresConfig) -> Health {
        let pulse = self.pulse.lock();
        let patience = config.poll * 3 + config.operation;
        let hears = pulse.is_sound && pulse.heard_at.elapsed() < patience && !self.stopped.load(Ordering::Acquire);
        Health { hears, lag: if hears { pulse.lag } else { None } }
    }

    pub(super) async fn interest(
        &self,
        store: &PostgresStore,
        on: &[Topic],
        off: &[Topic],
    ) -> Result<Vec<Position>, StoreError> {
        let _unchanged =
            timeout(store.inner.config.operation, self.changing.read()).await.map_err(|_| late("interest"))?;
        // A topic that ends and begins in one call goes on.
        let ends: Vec<&Topic> = off.iter().filter(|topic| !on.contains(topic)).collect();
        if on.is_empty() && ends.is_empty() {
            return self.hearing().map(|_| Vec::new()).ok_or_else(|| left("interest"));
        }
        let (registration, asked, ended) = {
            let mut hearing = self.hearing().ok_or_else(|| left("interest"))?;
            let asked = hearing.about_to_change();
            // Even if the call fails: the core does not ask again for an end.
            let ended: Vec<i64> = ends.iter().filter_map(|topic| hearing.end(topic, asked)).collect();
            (hearing.registration.clone(), asked, ended)
        };
        let _changing = Changing(self);
        let change = Change { asked, on: on.iter().collect(), off: ends };
        let starts = hear(store, "interest", Lane::Work, &registration, &change).await?;
        let mut hearing = self.hearing().ok_or_else(|| left("interest"))?;
        let head = |topic: &Topic| starts.iter().find(|start: &&Start| start.topic == *topic).map(|start| start.head);
        let heads = on.iter().map(head).collect::<Option<Vec<_>>>();
        hearing.has_ended(&ended);
        starts.into_iter().for_each(|start| hearing.begin(start, asked));
        heads.ok_or_else(|| error(StoreErrorKind::Corrupt, "interest", "a topic without an answer"))
    }
}

/// The changes of one call.
pub(super) struct Change<'a> {
    pub(super) asked: i64,
    pub(super) on: Vec<&'a Topic>,
    pub(super) off: Vec<&'a Topic>,
}

/// Begins and ends interest in the database.
pub(super) async fn hear(
    store: &PostgresStore,
    op: &'static str,
    lane: Lane,
    registration: &Registration,
    change: &Change<'_>,
) -> Result<Vec<Start>, StoreError> {
    let names = |topics: &[&Topic]| topics.iter().map(ToString::to_string).collect::<Vec<_>>();
    let values = Values::new()
        .with(registration.number)
        .with(&registration.id)
        .with(names(&change.on))
        .with(names(&change.off))
        .with(change.asked);
    let rows = store.rows(op, lane, &store.inner.sql.hear, values).await?;
    let starts: Read<Vec<Start>> = rows
        .iter()
        .map(|row| {
            let head = position(row, "o_epoch", "o_number", "o_mark")?;
            Ok(Start { topic: name(get(row, "o_name")?)?, number: get(row, "o_topic")?, head })
        })
        .collect();
    store.read(op, starts)
}
