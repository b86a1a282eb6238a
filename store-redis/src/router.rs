//! Routes calls to the servers that have their slots, follows slots that move, and gives up in time.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock};
use redis::{Cmd, ServerErrorKind, Value};
use strait_core::in_full;
use strait_core::store::StoreError;
use tokio::time::sleep;

use crate::call::Call;
use crate::config::RedisConfig;
use crate::error::{Failure, leads_elsewhere};
use crate::hello::{is_clustered, told, too_old};
use crate::server::Server;
use crate::topology::{Cluster, Topology};

/// The pause before a retry of a call that a server could not make now.
const PAUSE: Duration = Duration::from_millis(20);
/// The shortest time between two requests for the assignment of slots.
const REFRESH: Duration = Duration::from_millis(100);

static ASKING: LazyLock<Cmd> = LazyLock::new(|| redis::cmd("ASKING"));

#[derive(Debug)]
pub(crate) struct Router {
    config: Arc<RedisConfig>,
    topology: RwLock<Option<Arc<Topology>>>,
    /// All known servers, by address.
    servers: Mutex<HashMap<String, Arc<Server>>>,
    refreshed: tokio::sync::Mutex<Option<Instant>>,
}

/// A call that is under way, by its place in the slice.
struct Open {
    at: usize,
    /// The server that the slot's old owner has named.
    asking: Option<Arc<Server>>,
    repeated: bool,
}

/// The outcome of one attempt.
enum Outcome {
    Done(Value),
    Failed(Failure),
    /// The server has not made the call, or the call may be made twice.
    Again {
        failure: Failure,
        asking: Option<Arc<Server>>,
        refresh: bool,
        repeated: bool,
        wait: bool,
    },
}

impl Router {
    pub(crate) fn new(config: Arc<RedisConfig>) -> Self {
        Self {
            config,
            topology: RwLock::default(),
            servers: Mutex::default(),
            refreshed: tokio::sync::Mutex::new(None),
        }
    }

    /// Makes one call.
    pub(crate) async fn one(&self, op: &'static str, call: Call) -> Result<Value, StoreError> {
        let mut answers = self.run(op, std::slice::from_ref(&call)).await;
        answers.pop().unwrap_or_else(|| Err(Failure::Foreign("no answer").store(op)))
    }

    /// Makes calls at once, keeping the order within a slot, and returns an answer for each.
    pub(crate) async fn run(&self, op: &'static str, calls: &[Call]) -> Vec<Result<Value, StoreError>> {
        let answers = self.attempt(calls).await;
        answers.into_iter().map(|answer| answer.map_err(|failure| failure.store(op))).collect()
    }

    /// As [`run`](Self::run), but the first error is that of all calls.
    pub(crate) async fn all(&self, op: &'static str, calls: &[Call]) -> Result<Vec<Value>, StoreError> {
        self.run(op, calls).await.into_iter().collect()
    }

    /// As [`run`](Self::run), with failures that can be cloned for many callers.
    pub(crate) async fn attempt(&self, calls: &[Call]) -> Vec<Result<Value, Failure>> {
        let deadline = Instant::now() + self.config.command_timeout;
        let mut answers: Vec<Option<Result<Value, Failure>>> = (0..calls.len()).map(|_| None).collect();
        let mut open: Vec<Open> = (0..calls.len()).map(|at| Open { at, asking: None, repeated: false }).collect();
        while !open.is_empty() {
            let outcomes = match self.topology(deadline).await {
                Ok(topology) => self.round(&topology, calls, open, deadline).await,
                Err(failure) => open.into_iter().map(|open| (open.at, Outcome::Failed(failure.clone()))).collect(),
            };
            let (mut again, mut must_refresh, mut must_wait) = (Vec::new(), false, false);
            let late = Instant::now() + PAUSE >= deadline;
            for (at, outcome) in outcomes {
                match outcome {
                    Outcome::Done(value) => answers[at] = Some(Ok(value)),
                    Outcome::Failed(failure) => answers[at] = Some(Err(failure)),
                    Outcome::Again { failure, .. } if late => answers[at] = Some(Err(failure)),
                    Outcome::Again { asking, refresh, repeated, wait, .. } => {
                        must_refresh |= refresh;
                        must_wait |= wait;
                        again.push(Open { at, asking, repeated });
                    }
                }
            }
            if must_wait {
                sleep(PAUSE).await;
            }
            if must_refresh && let Err(failure) = self.refresh(deadline).await {
                tracing::debug!(error = %in_full(&failure), "the cluster's slots could not be asked for");
            }
            // Restore the order of calls within a slot.
            again.sort_by_key(|open| open.at);
            open = again;
        }
        let missing = || Err(Failure::Foreign("no answer"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    /// Sends each call to its server and reads the outcomes.
    async fn round(
        &self,
        topology: &Arc<Topology>,
        calls: &[Call],
        open: Vec<Open>,
        deadline: Instant,
    ) -> Vec<(usize, Outcome)> {
        let mut batches: Vec<(Arc<Server>, Vec<Open>)> = Vec::new();
        let mut outcomes = Vec::with_capacity(open.len());
        for call in open {
            let Some(server) = call.asking.as_ref().or_else(|| topology.server(calls[call.at].slot)).cloned() else {
                let failure = Failure::Topology("nobody has the slot".to_owned());
                let repeated = call.repeated;
                outcomes.push((call.at, Outcome::Again { failure, asking: None, refresh: true, repeated, wait: true }));
                continue;
            };
            match batches.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &server)) {
                Some((_, batch)) => batch.push(call),
                None => batches.push((server, vec![call])),
            }
        }
        let clustered = matches!(**topology, Topology::Cluster(_));
        let ask = |(server, batch)| self.ask_one(server, calls, batch, clustered, deadline);
        if batches.len() == 1 && outcomes.is_empty() {
            // The usual case: a set of futures would cost more than the call.
            if let Some(batch) = batches.pop() {
                return ask(batch).await;
            }
        }
        outcomes.extend(join_all(batches.into_iter().map(ask)).await.into_iter().flatten());
        outcomes
    }

    /// Sends calls to one server and reads their outcomes.
    async fn ask_one(
        &self,
        server: Arc<Server>,
        calls: &[Call],
        batch: Vec<Open>,
        clustered: bool,
        deadline: Instant,
    ) -> Vec<(usize, Outcome)> {
        let mut commands: Vec<&Cmd> = Vec::with_capacity(batch.len());
        for open in &batch {
            if open.asking.is_some() {
                commands.push(&ASKING);
            }
            commands.push(&calls[open.at].command);
        }
        let mut answers = match server.request(&commands, deadline).await {
            Ok(answers) => answers.into_iter(),
            Err(failure) => {
                let broken = |open: Open| (open.at, broken(&calls[open.at], &open, failure.clone(), clustered));
                return batch.into_iter().map(broken).collect();
            }
        };
        let (mut outcomes, mut unknown) = (Vec::with_capacity(batch.len()), Vec::new());
        for open in batch {
            if open.asking.is_some() {
                answers.next();
            }
            let answer = answers.next().unwrap_or(Value::Nil);
            if matches!(&answer, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript)) {
                unknown.extend(calls[open.at].script);
            }
            outcomes.push((open.at, self.read(&server, &calls[open.at], &open, answer, clustered)));
        }
        self.teach(&server, &unknown, deadline).await;
        outcomes
    }

    fn read(&self, server: &Arc<Server>, call: &Call, open: &Open, answer: Value, clustered: bool) -> Outcome {
        let error = match answer {
            Value::ServerError(error) => error,
            value => return Outcome::Done(value),
        };
        let failure = Failure::server(&server.address, &error);
        let mut again = (None, false, true);
        match error.kind() {
            Some(ServerErrorKind::NoScript) => again.2 = false,
            Some(ServerErrorKind::Moved) => {
                if let Some(owner) = self.redirected(server, error.details()) {
                    self.moved(call.slot, &owner);
                    again.2 = false;
                }
                again.1 = true;
            }
            Some(ServerErrorKind::Ask) => {
                again = (self.redirected(server, error.details()), false, false);
            }
            Some(ServerErrorKind::TryAgain) => again.0 = open.asking.clone(),
            Some(ServerErrorKind::BusyLoading) => {}
            Some(ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly)
                if clustered =>
            {
                again.1 = true;
            }
            // The server has not made the call, and its connection was given up, unless it is new.
            _ if !clustered && !open.repeated && leads_elsewhere(&error).is_some() => {
                return Outcome::Again { failure, asking: None, refresh: false, repeated: true, wait: false };
            }
            // This includes a script that met a key on its way to another server, before it changed anything.
            _ => return Outcome::Failed(failure),
        }
        let (asking, refresh, wait) = again;
        Outcome::Again { failure, asking, refresh, repeated: open.repeated, wait }
    }

    /// Loads scripts that a server has forgotten.
    async fn teach(&self, server: &Arc<Server>, scripts: &[&'static crate::script::Script], deadline: Instant) {
        for script in scripts {
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(script.text).take();
            // If it fails, the next call fails too.
            if server.request(&[&load], deadline).await.is_err() {
                return;
            }
        }
    }

    /// Parses `slot host:port`, the form of MOVED and ASK.
    fn redirected(&self, from: &Arc<Server>, details: Option<&str>) -> Option<Arc<Server>> {
        let (_, address) = details?.split_once(' ')?;
        let (host, port) = address.rsplit_once(':')?;
        let host = if host.is_empty() { &from.host } else { host.trim_matches(['[', ']']) };
        Some(self.known(host, port.parse().ok()?))
    }

    fn moved(&self, slot: u16, owner: &Arc<Server>) {
        let mut topology = self.topology.write();
        if let Some(Topology::Cluster(cluster)) = topology.as_deref() {
            let mut cluster = cluster.clone();
            cluster.moved(slot, owner);
            *topology = Some(Arc::new(Topology::Cluster(cluster)));
        }
    }

    /// The server of an address, always the same one.
    fn known(&self, host: &str, port: u16) -> Arc<Server> {
        let new = Server::new(host.to_owned(), port, Arc::clone(&self.config));
        let mut servers = self.servers.lock();
        Arc::clone(servers.entry(new.address.clone()).or_insert_with(|| Arc::new(new)))
    }

    /// The present server of a slot.
    pub(crate) async fn server(&self, slot: u16) -> Result<Arc<Server>, Failure> {
        let topology = self.topology(Instant::now() + self.config.command_timeout).await?;
        topology.server(slot).cloned().ok_or_else(|| Failure::Topology("nobody has the slot".to_owned()))
    }

    async fn topology(&self, deadline: Instant) -> Result<Arc<Topology>, Failure> {
        if let Some(topology) = &*self.topology.read() {
            return Ok(Arc::clone(topology));
        }
        self.refresh(deadline).await?;
        self.topology.read().clone().ok_or_else(|| Failure::Topology("the servers were asked just now".to_owned()))
    }

    /// Asks the servers for the assignment of slots, unless another task just did.
    pub(crate) async fn refresh(&self, deadline: Instant) -> Result<(), Failure> {
        let mut refreshed = self.refreshed.lock().await;
        let known = self.topology.read().is_some();
        if known && refreshed.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        let mut servers: Vec<_> = self.config.servers.iter().map(|(host, port)| self.known(host, *port)).collect();
        if let Some(Topology::Cluster(cluster)) = self.topology.read().as_deref() {
            servers.extend(cluster.servers.iter().cloned());
        }
        let mut asked = Vec::<Arc<Server>>::new();
        let mut failure = Failure::Topology("no server is known".to_owned());
        for server in servers {
            if asked.iter().any(|asked| Arc::ptr_eq(asked, &server)) {
                continue;
            }
            match self.ask(&server, deadline).await {
                Ok(topology) => {
                    *self.topology.write() = Some(Arc::new(topology));
                    *refreshed = Some(Instant::now());
                    return Ok(());
                }
                Err(error) => failure = error,
            }
            asked.push(server);
        }
        *refreshed = Some(Instant::now());
        Err(failure)
    }

    async fn ask(&self, server: &Arc<Server>, deadline: Instant) -> Result<Topology, Failure> {
        let (hello, mut slots) = (redis::cmd("HELLO"), redis::cmd("CLUSTER"));
        slots.arg("SLOTS");
        let mut answers = server.request(&[&hello, &slots], deadline).await?;
        let (slots, hello) = (answers.pop().unwrap_or(Value::Nil), answers.pop().unwrap_or(Value::Nil));
        if too_old(&hello) {
            return Err(Failure::too_old(&server.address));
        }
        if told(&hello, "mode").is_none() {
            return Err(Failure::Foreign("HELLO was not answered as Redis 7 does"));
        }
        if !is_clustered(&hello) {
            return Ok(Topology::Single(Arc::clone(server)));
        }
        if let Value::ServerError(error) = &slots {
            return Err(Failure::server(&server.address, error));
        }
        let find = |host: &str, port| self.known(if host.is_empty() { &server.host } else { host }, port);
        Ok(Topology::Cluster(Cluster::parse(slots, find)?))
    }
}

/// Decides whether a call on a failed connection may be made again.
fn broken(call: &Call, open: &Open, failure: Failure, clustered: bool) -> Outcome {
    let not_done = matches!(failure, Failure::Connect { .. } | Failure::Replica { .. });
    let may_again = failure.is_of_connection() && ((call.repeatable && !open.repeated) || (not_done && clustered));
    if !may_again {
        return Outcome::Failed(failure);
    }
    Outcome::Again { failure, asking: None, refresh: clustered, repeated: true, wait: not_done }
}
