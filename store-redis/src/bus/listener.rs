use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use redis::{Cmd, PushInfo, ServerErrorKind, Value};
use tokio::runtime::Handle;

use super::run;
use crate::error::Failure;
use crate::server::{Connection, Server};

/// Subscriptions in one request.
const BATCH: usize = 512;

/// The node's connection to one server, on one runtime.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) server: Arc<Server>,
    runtime: Handle,
    link: RwLock<Option<Link>>,
    connecting: tokio::sync::Mutex<()>,
    /// Whether there has ever been a connection.
    connected: AtomicBool,
    /// The number of the connection on which all wanted subscriptions were last made; 0 for none.
    pub(crate) whole: AtomicU64,
    /// The time of the last proof of hearing, in microseconds after the bus' origin, plus 1; 0 for none on this
    /// connection.
    proved: AtomicU64,
    silence: Mutex<Silence>,
    origin: Instant,
}

/// How long no probe has come, not counting times when the runtime stood still.
#[derive(Debug)]
struct Silence {
    /// The time of the last count.
    counted: Instant,
    lasted: Duration,
    /// The number of the counted connection.
    on: u64,
}

/// Handles the push messages of a server.
pub(crate) type Ear = Box<dyn Fn(PushInfo) + Send + Sync>;

/// A connection with subscriptions to shard channels.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// Unique among the node's connections; not 0.
    pub(crate) number: u64,
    pub(crate) since: Instant,
    /// The run of the server, see [`run`].
    pub(crate) run: u64,
    /// The shard channel of the probes.
    probe: Arc<Mutex<String>>,
}

impl Link {
    /// Stores the shard channel of the probes; returns whether it is new.
    pub(crate) fn probe(&self, channel: &str) -> bool {
        let mut known = self.probe.lock();
        let new = *known != channel;
        if new {
            channel.clone_into(&mut known);
        }
        new
    }
}

/// The answer to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subscribed {
    Done,
    /// Another server has the slot now.
    Moved,
}

impl Listener {
    pub(crate) fn new(server: Arc<Server>, runtime: Handle, origin: Instant) -> Self {
        let this = Self {
            server,
            runtime,
            link: RwLock::default(),
            connecting: tokio::sync::Mutex::const_new(()),
            connected: AtomicBool::new(false),
            whole: AtomicU64::new(0),
            proved: AtomicU64::new(0),
            silence: Mutex::new(Silence { counted: Instant::now(), lasted: Duration::ZERO, on: 0 }),
            origin,
        };
        // Nothing can have been missed yet: a new listener leaves the node as ready as before.
        this.prove();
        this
    }

    pub(crate) fn is(&self, server: &Arc<Server>, runtime: &Handle) -> bool {
        Arc::ptr_eq(&self.server, server) && self.runtime.id() == runtime.id()
    }

    /// Whether there has never been a connection.
    pub(crate) fn is_new(&self) -> bool {
        !self.connected.load(Ordering::Acquire)
    }

    /// Whether published events arrive here, with a proof within `limit`.
    pub(crate) fn hears(&self, limit: Duration) -> bool {
        (self.link().is_some() || self.is_new()) && self.silent_for().is_some_and(|silent| silent <= limit)
    }

    /// The connection, if it is alive.
    pub(crate) fn link(&self) -> Option<Link> {
        self.link.read().as_ref().filter(|link| link.connection.is_alive()).cloned()
    }

    /// The connection, a new one if need be. A new connection needs all subscriptions again.
    pub(crate) async fn connected(
        &self,
        number: impl FnOnce() -> u64,
        hear: impl FnOnce() -> Ear,
        deadline: Instant,
    ) -> Result<Link, Failure> {
        if let Some(link) = self.link() {
            return Ok(link);
        }
        let late = |_| Failure::Timeout { address: self.server.address.clone() };
        let _one_at_a_time = tokio::time::timeout_at(deadline.into(), self.connecting.lock()).await.map_err(late)?;
        if let Some(link) = self.link() {
            return Ok(link);
        }
        *self.link.write() = None;
        if !self.is_new() {
            // 0 until the first probe on the new connection, which is sent after all subscriptions are made again.
            self.proved.store(0, Ordering::Release);
        }
        let number = number();
        let (server, hear) = (Arc::clone(&self.server), hear());
        // The caller may run on another runtime, and may end first.
        let connecting = self.runtime.spawn(async move { server.connect(hear, deadline).await });
        let ended = |_| Failure::Lost {
            address: self.server.address.clone(),
            what: "the runtime that is to hear it has ended".to_owned(),
        };
        let connection = connecting.await.map_err(ended)??;
        self.connected.store(true, Ordering::Release);
        let run = run::of(&connection, number, &self.server.address, deadline).await?;
        let link = Link { connection, number, since: Instant::now(), run, probe: Arc::default() };
        *self.link.write() = Some(link.clone());
        Ok(link)
    }

    /// Closes the connection: messages on it are no longer reliable.
    pub(crate) fn hang_up(&self) {
        if let Some(link) = self.link.write().take() {
            link.connection.give_up();
        }
    }

    /// Notes that a message came which was published just now.
    pub(crate) fn prove(&self) {
        let now = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.proved.store(now + 1, Ordering::Release);
    }

    /// Counts on the listener's own runtime how long a connection has been silent. At most `most` of the time since the
    /// last count is added. If the process or the runtime stood still for longer, the probes of that time lie unread in
    /// the socket, or were never sent.
    pub(crate) fn count_silence(&self, link: &Link, most: Duration) -> Duration {
        let mut silence = self.silence.lock();
        let since = std::mem::replace(&mut silence.counted, Instant::now()).elapsed();
        match self.silent_for().filter(|silent| *silent <= since) {
            // The first probe on this connection is sent now.
            _ if silence.on != link.number => silence.lasted = Duration::ZERO,
            Some(proved) => silence.lasted = proved.min(most),
            None => silence.lasted += since.min(most),
        }
        silence.on = link.number;
        silence.lasted
    }

    /// Spawns a task on the listener's runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// The time since the last proof of hearing.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        let at = self.proved.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_micros(at)))
    }

    pub(crate) async fn subscribe(
        &self,
        link: &Link,
        channels: &[String],
        deadline: Instant,
    ) -> Result<Vec<Subscribed>, Failure> {
        self.ask(link, "SSUBSCRIBE", redis::PushKind::SSubscribe, channels, deadline).await
    }

    pub(crate) async fn unsubscribe(&self, link: &Link, channels: &[String], deadline: Instant) -> Result<(), Failure> {
        self.ask(link, "SUNSUBSCRIBE", redis::PushKind::SUnsubscribe, channels, deadline).await?;
        Ok(())
    }

    /// Sends one command for each channel, as channels of one command must be in one slot; each gets one confirmation.
    async fn ask(
        &self,
        link: &Link,
        name: &str,
        confirms: redis::PushKind,
        channels: &[String],
        deadline: Instant,
    ) -> Result<Vec<Subscribed>, Failure> {
        let mut all = Vec::with_capacity(channels.len());
        for channels in channels.chunks(BATCH) {
            let commands: Vec<Cmd> = channels.iter().map(|channel| redis::cmd(name).arg(channel).take()).collect();
            let commands: Vec<&Cmd> = commands.iter().collect();
            let answers = link.connection.request(&commands, &self.server.address, deadline).await?;
            for (channel, answer) in channels.iter().zip(answers) {
                all.push(self.confirmed(link, &confirms, channel, answer)?);
            }
        }
        Ok(all)
    }

    fn confirmed(
        &self,
        link: &Link,
        confirms: &redis::PushKind,
        channel: &str,
        answer: Value,
    ) -> Result<Subscribed, Failure> {
        match answer {
            Value::Push { kind, data } if kind == *confirms && names(&data, channel) => Ok(Subscribed::Done),
            Value::ServerError(error) => match error.kind() {
                Some(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ClusterDown) => {
                    Ok(Subscribed::Moved)
                }
                _ => Err(Failure::server(&self.server.address, &error)),
            },
            // When a slot leaves the server, it ends the subscription unasked, and the client takes that for an answer.
            // From here on every answer belongs to another request.
            _ => {
                link.connection.give_up();
                Err(Failure::Lost {
                    address: self.server.address.clone(),
                    what: "a subscription was not confirmed as it was asked for".to_owned(),
                })
            }
        }
    }

    /// Waits until all events published before this call have arrived.
    pub(crate) async fn barrier(&self, link: &Link, deadline: Instant) -> Result<(), Failure> {
        let ping = redis::cmd("PING");
        let answers = link.connection.request(&[&ping], &self.server.address, deadline).await?;
        match &answers[..] {
            [Value::SimpleString(pong)] if pong == "PONG" => Ok(()),
            _ => {
                link.connection.give_up();
                Err(Failure::Foreign("PING was not answered as it should"))
            }
        }
    }
}

fn names(data: &[Value], channel: &str) -> bool {
    matches!(data.first(), Some(Value::BulkString(name)) if name == channel.as_bytes())
}
