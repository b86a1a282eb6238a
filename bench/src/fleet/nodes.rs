//! A Redis and two nodes, as processes that end with the measurement.

use std::env;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::ops::Sub;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::InfoDict;

use super::client::Speech;
use crate::machine;
use crate::server::free_port;

/// A process on a port.
struct Process {
    child: Child,
    port: u16,
}

impl Process {
    async fn start(mut command: Command, port: u16) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let process = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(Instant::now() < deadline, "{command:?} does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(process)
    }

    fn time(&self) -> Result<Duration> {
        machine::process_time(machine::pid(self.child.id())?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(crate) struct Fleet {
    redis: Process,
    nodes: [Process; 2],
}

/// The cost until a moment, or between two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Processor time of both nodes.
    pub(crate) nodes: Duration,
    /// Processor time of Redis.
    pub(crate) redis: Duration,
    /// Commands that clients sent to Redis.
    pub(crate) requests: u64,
    /// Commands that Redis ran, those of scripts among them.
    pub(crate) commands: u64,
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            nodes: self.nodes - before.nodes,
            redis: self.redis - before.redis,
            requests: self.requests - before.requests,
            commands: self.commands - before.commands,
        }
    }
}

impl Fleet {
    pub(crate) async fn start(speech: Speech) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
        let redis = Process::start(command, port).await?;
        let url = format!("redis://127.0.0.1:{port}/");
        let nodes = [node(speech, &url).await?, node(speech, &url).await?];
        Ok(Self { redis, nodes })
    }

    pub(crate) fn address(&self, node: usize) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.nodes[node].port)
    }

    pub(crate) fn resident(&self, node: usize) -> Result<u64> {
        machine::resident(machine::pid(self.nodes[node].child.id())?)
    }

    pub(crate) async fn redis_memory(&self) -> Result<u64> {
        self.info("memory").await?.get("used_memory").context("INFO tells used_memory")
    }

    pub(crate) async fn cost(&self) -> Result<Cost> {
        let mut nodes = Duration::ZERO;
        for node in &self.nodes {
            nodes += node.time()?;
        }
        let stats = self.info("commandstats").await?;
        let calls = |name: &str| -> u64 {
            let line: Option<String> = stats.get(&format!("cmdstat_{name}"));
            let calls = line.and_then(|line| line.split(',').next()?.strip_prefix("calls=")?.parse().ok());
            calls.unwrap_or(0)
        };
        Ok(Cost {
            nodes,
            redis: self.redis.time()?,
            // The commands that publish for clients: scripts' own commands are counted under their names.
            requests: calls("evalsha") + calls("publish"),
            commands: self.info("stats").await?.get("total_commands_processed").context("INFO tells it")?,
        })
    }

    async fn info(&self, section: &str) -> Result<InfoDict> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.redis.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        Ok(redis::cmd("INFO").arg(section).query_async(&mut connection).await?)
    }
}

async fn node(speech: Speech, redis: &str) -> Result<Process> {
    let port = free_port()?;
    let exe = env::current_exe()?;
    let command = match speech {
        Speech::Strait => {
            let mut command = Command::new(exe.with_file_name("chat"));
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--store", redis, "--load-tests"]);
            command
        }
        Speech::SocketIo => {
            let mut command = Command::new(exe);
            command.args(["fleet-peer", "--port", &port.to_string(), "--redis", redis]);
            command
        }
    };
    Process::start(command, port).await
}
