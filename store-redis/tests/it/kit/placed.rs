//! A bus that hears on several runtimes.

use std::sync::{Arc, Mutex};

use strait_core::store::{Command, Sink};
use strait_core::testkit::Ears;
use strait_core::{Event, Position, Topic};
use strait_store_redis::testkit::Server;
use tokio::runtime::{Builder, Handle, Id, Runtime};

/// A runtime with one thread of its own.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Hears a topic on one runtime, and notes the runtime of each event.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) ears: Arc<Ears>,
    at: (Topic, Handle),
    heard: Mutex<Vec<(Topic, Id)>>,
}

impl Placed {
    /// Hears the topic on that runtime, others where the bus was started.
    pub(crate) fn new(topic: &Topic, runtime: &Runtime) -> Arc<Self> {
        let at = (topic.clone(), runtime.handle().clone());
        Arc::new(Self { ears: Ears::new(), at, heard: Mutex::default() })
    }

    /// Each event's topic, with the runtime on which it was heard.
    pub(crate) fn heard(&self) -> Vec<(Topic, Id)> {
        self.heard.lock().unwrap().clone()
    }
}

impl Sink for Placed {
    fn events(&self, topic: &Topic, events: &[(Position, Arc<Event>)]) {
        self.heard.lock().unwrap().push((topic.clone(), Handle::current().id()));
        Sink::events(&*self.ears, topic, events);
    }

    fn command(&self, command: Command) {
        self.ears.command(command);
    }

    fn gap(&self, topics: &[Topic]) {
        self.ears.gap(topics);
    }

    fn runtime(&self, topic: &Topic) -> Option<Handle> {
        (*topic == self.at.0).then(|| self.at.1.clone())
    }
}

/// The clients that a server publishes to.
pub(crate) async fn listening(server: &Server) -> Vec<String> {
    let list: String = server.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    list.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

/// The number of connections that hear probes.
pub(crate) async fn probed(server: &Server) -> usize {
    let channels: Vec<String> = server.ask(&["PUBSUB", "SHARDCHANNELS", "*}probe:*"]).await;
    let Some(channel) = channels.first() else { return 0 };
    let heard: (String, usize) = server.ask(&["PUBSUB", "SHARDNUMSUB", channel]).await;
    heard.1
}
