//! One server, and the connection to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisConnectionInfo, Value,
};
use tokio::runtime::{Handle, Id};
use tokio::time::timeout_at;

use crate::config::RedisConfig;
use crate::error::{Failure, leads_elsewhere};
use crate::hello::{is_clustered, is_replica};
use crate::scripts;

/// After a failed attempt to connect, other attempts fail at once for this long.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests that may wait to be written.
const QUEUE: usize = 1024;

/// A server by its address.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port, for messages.
    pub(crate) address: String,
    config: Arc<RedisConfig>,
    /// One for each runtime with calls: a call then wakes no other thread, and the end of a runtime breaks no other
    /// runtime's connection.
    connections: RwLock<Vec<(Id, Connection)>>,
    connecting: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    /// Counts the connections; each gets its number from here.
    begun: AtomicU64,
    /// The highest number of a connection that led to a server without writes. All connections up to it are given up at
    /// once, those of the bus too, and no later one.
    left: Arc<AtomicU64>,
}

/// An established connection. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    inner: MultiplexedConnection,
    alive: Arc<AtomicBool>,
    number: u64,
    left: Arc<AtomicU64>,
    made: Instant,
    /// Whether the server belongs to a cluster, which redirects calls by itself.
    clustered: bool,
}

/// Marks a connection as dead when its driving task ends: at a disconnection, or with its runtime.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Connection {
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire) && self.number > self.left.load(Ordering::Acquire)
    }

    /// Bars the connection from further use; pending requests fail or time out.
    pub(crate) fn give_up(&self) {
        self.alive.store(false, Ordering::Release);
    }

    /// Sends commands at once and returns an answer for each; a server error is an answer too.
    pub(crate) async fn request(
        &self,
        commands: &[&Cmd],
        address: &str,
        deadline: Instant,
    ) -> Result<Vec<Value>, Failure> {
        let mut connection = self.inner.clone();
        let request = async {
            if let [command] = commands {
                return connection.send_packed_command(command).await.map(|answer| vec![answer]);
            }
            let mut pipeline = redis::Pipeline::with_capacity(commands.len());
            for command in commands {
                pipeline.add_command((*command).clone());
            }
            connection.send_packed_commands(&pipeline, 0, commands.len()).await
        };
        let failure = match timeout_at(deadline.into(), request).await {
            Ok(Ok(answers)) if answers.len() == commands.len() => return Ok(answers),
            Ok(Ok(_)) => Failure::Foreign("the server gave another number of answers than it was asked for"),
            Ok(Err(error)) => Failure::requesting(address, &error),
            Err(_) => Failure::Timeout { address: address.to_owned() },
        };
        // Give the connection up, even if later answers might come: a half-open one would keep every caller waiting.
        self.give_up();
        Err(failure)
    }
}

impl Server {
    pub(crate) fn new(host: String, port: u16, config: Arc<RedisConfig>) -> Self {
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self {
            host,
            port,
            address,
            config,
            connections: RwLock::default(),
            connecting: tokio::sync::Mutex::new(None),
            begun: AtomicU64::new(0),
            left: Arc::default(),
        }
    }

    /// Sends commands at once and returns an answer for each. Connects first if need be.
    pub(crate) async fn request(&self, commands: &[&Cmd], deadline: Instant) -> Result<Vec<Value>, Failure> {
        let connection = self.connection(deadline).await?;
        let answers = connection.request(commands, &self.address, deadline).await?;
        for answer in &answers {
            if let Value::ServerError(error) = answer
                && let Some(age) = leads_elsewhere(error)
                && connection.made.elapsed() >= age
            {
                self.leave(&connection, error.code());
            }
        }
        Ok(answers)
    }

    /// The server takes no writes: its address may lead to another server, so all connections are remade. Pending
    /// requests still get their answers.
    fn leave(&self, found_on: &Connection, code: &str) {
        if found_on.clustered || !found_on.is_alive() {
            return;
        }
        tracing::warn!(server = %self.address, code, "the server takes no writes any more, connecting anew");
        self.left.fetch_max(self.begun.load(Ordering::Acquire), Ordering::AcqRel);
    }

    async fn connection(&self, deadline: Instant) -> Result<Connection, Failure> {
        let here = Handle::current().id();
        if let Some(connection) = self.connected(here) {
            return Ok(connection);
        }
        let late = || Failure::Timeout { address: self.address.clone() };
        let mut failed = timeout_at(deadline.into(), self.connecting.lock()).await.map_err(|_| late())?;
        if let Some(connection) = self.connected(here) {
            return Ok(connection);
        }
        if let Some((at, failure)) = &*failed
            && at.elapsed() < PAUSE
        {
            return Err(failure.clone());
        }
        self.connections.write().retain(|(_, connection)| connection.is_alive());
        match self.connect(|_| {}, deadline).await {
            Ok(connection) => {
                self.connections.write().push((here, connection.clone()));
                *failed = None;
                Ok(connection)
            }
            Err(failure) => {
                *failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// The runtime's connection, if it is alive. A runtime may have the id of an ended one, but the ended one's
    /// connection is dead.
    fn connected(&self, runtime: Id) -> Option<Connection> {
        let connections = self.connections.read();
        let mut own = connections.iter().filter(|(id, connection)| *id == runtime && connection.is_alive());
        own.next().map(|(_, connection)| connection.clone())
    }

    /// Opens a connection and loads all scripts. `hear` gets the server's push messages and must not block. A replica
    /// is refused, unless it belongs to a cluster.
    pub(crate) async fn connect(
        &self,
        hear: impl Fn(PushInfo) + Send + Sync + 'static,
        deadline: Instant,
    ) -> Result<Connection, Failure> {
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let alive = Arc::new(AtomicBool::new(true));
        let ends = Ends(Arc::clone(&alive));
        let push = move |info: PushInfo| {
            if info.kind == PushKind::Disconnection {
                ends.0.store(false, Ordering::Release);
            }
            hear(info);
            Ok::<(), ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE)
            .set_push_sender(push);
        let deadline = deadline.min(Instant::now() + self.config.connect_timeout);
        let late = || Failure::Connect { address: self.address.clone(), what: "no answer in time".to_owned() };
        let connecting = async {
            let client = self.client()?;
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        let inner = timeout_at(deadline.into(), connecting)
            .await
            .map_err(|_| late())?
            .map_err(|error| Failure::connecting(&self.address, &error))?;
        let (left, made) = (Arc::clone(&self.left), Instant::now());
        let mut connection = Connection { inner, alive, number, left, made, clustered: false };
        let load = |script: &&crate::script::Script| redis::cmd("SCRIPT").arg("LOAD").arg(script.text).take();
        let mut first = vec![redis::cmd("HELLO")];
        first.extend(scripts::ALL.iter().map(load));
        let mut answers = connection.request(&first.iter().collect::<Vec<_>>(), &self.address, deadline).await?;
        let loads = answers.split_off(1);
        let hello = &answers[0];
        connection.clustered = is_clustered(hello);
        if !connection.clustered && is_replica(hello) {
            return Err(Failure::Replica { address: self.address.clone() });
        }
        for answer in loads {
            if let Value::ServerError(error) = answer {
                return Err(Failure::server(&self.address, &error));
            }
        }
        Ok(connection)
    }

    fn client(&self) -> redis::RedisResult<Client> {
        let config = &self.config;
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(i64::from(config.database))
            .set_lib_name("strait", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &config.password {
            settings = settings.set_password(password);
        }
        let address = if config.tls {
            ConnectionAddr::TcpTls { host: self.host.clone(), port: self.port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(self.host.clone(), self.port)
        };
        let info = address
            .into_connection_info()?
            .set_redis_settings(settings)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        #[cfg(feature = "tls")]
        if config.tls {
            let root_cert = config.root_certificates.clone();
            return Client::build_with_tls(info, redis::TlsCertificates { client_tls: None, root_cert });
        }
        Client::open(info)
    }
}
