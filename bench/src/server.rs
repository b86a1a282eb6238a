//! Server processes: started on their cores, ended when dropped.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::dialect::Dialect;
use crate::load::{Target, socket};
use crate::machine;
use crate::serve::{Flavour, Peer};

/// A server that can be started again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of this program's own peers.
    Peer(Peer, Flavour),
    /// npm's `ws` on Node.
    Ws,
    /// Strait: a command line in which `{port}` stands for the port.
    Strait { label: String, command: String },
}

impl Kind {
    /// Parses the name of a peer, `@shared` for the work-stealing runtime.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        if name == "ws" {
            return Ok(Self::Ws);
        }
        let (peer, flavour) = match name.split_once('@') {
            Some((peer, flavour)) => (peer, Flavour::from_str(flavour, true).map_err(anyhow::Error::msg)?),
            None => (name, Flavour::PerCore),
        };
        match Peer::from_str(peer, true) {
            Ok(peer) => Ok(Self::Peer(peer, flavour)),
            Err(_) => {
                let known: Vec<String> = Peer::value_variants()
                    .iter()
                    .filter_map(|peer| Some(peer.to_possible_value()?.get_name().to_owned()))
                    .collect();
                bail!("unknown peer {name:?}: take ws or one of {} (with @shared if you like)", known.join(", "))
            }
        }
    }

    /// Its name in a table.
    pub(crate) fn label(&self) -> String {
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map_or_else(String::new, |value| value.get_name().to_owned())
        };
        match self {
            Self::Peer(peer, Flavour::PerCore) => name(&|| peer.to_possible_value()),
            Self::Peer(peer, Flavour::Shared) => {
                format!("{}@shared", name(&|| peer.to_possible_value()))
            }
            Self::Ws => "ws".to_owned(),
            Self::Strait { label, .. } => label.clone(),
        }
    }

    /// The server's dialect.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Peer(peer, _) => peer.dialect(),
            Self::Ws => Dialect::Bare,
            Self::Strait { .. } => Dialect::Strait,
        }
    }

    /// The reason why the peer cannot be measured here, if it cannot.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            Self::Peer(..) => None,
            Self::Ws => install_ws().err().map(|error| format!("{error:#}")),
            Self::Strait { command, .. } => {
                let program = command.split_whitespace().next().unwrap_or_default();
                (!Path::new(program).exists()).then(|| format!("{program} does not exist: build it first"))
            }
        }
    }

    fn command(&self, port: u16, workers: usize) -> Result<Command> {
        let mut words: Vec<String> = match self {
            Self::Peer(peer, flavour) => {
                let peer = peer.to_possible_value().context("every peer has a name")?;
                let flavour = flavour.to_possible_value().context("every flavour has a name")?;
                let exe = env::current_exe()?
                    .into_os_string()
                    .into_string()
                    .ok()
                    .context("this program's path is not text")?;
                let options = format!("--port {port} --workers {workers} --runtime {}", flavour.get_name());
                let mut words = vec![exe, "serve".to_owned(), peer.get_name().to_owned()];
                words.extend(options.split(' ').map(str::to_owned));
                words
            }
            Self::Ws => {
                let script = ws_folder().join("server.mjs").into_os_string().into_string().ok();
                vec!["node".to_owned(), script.context("the script's path is not text")?, port.to_string()]
            }
            Self::Strait { command, .. } => {
                command.replace("{port}", &port.to_string()).split_whitespace().map(str::to_owned).collect()
            }
        };
        ensure!(!words.is_empty(), "the command of a server is empty");
        let mut command = Command::new(words.remove(0));
        command.args(words);
        Ok(command)
    }
}

/// The folder of the script for `ws` and its package file.
pub(crate) fn ws_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/ws")
}

fn install_ws() -> Result<()> {
    if ws_folder().join("node_modules/ws").exists() {
        return Ok(());
    }
    let npm = Command::new("npm").args(["ci", "--silent"]).current_dir(ws_folder()).output();
    let output = npm.context("npm cannot be run: install Node")?;
    ensure!(output.status.success(), "npm ci failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A port without a listener, below the ports that the kernel gives to clients: a client of another run could take such
/// a port before the server does.
pub(crate) fn free_port() -> Result<u16> {
    const FIRST: u16 = 12_000;
    const LAST: u16 = 32_000;
    static STARTED: AtomicU16 = AtomicU16::new(0);
    // Runs at the same time look at different ports, and no server follows another on the same one.
    let started = STARTED.fetch_add(1, Ordering::Relaxed) % (LAST - FIRST);
    let start = u16::try_from(std::process::id() % 1_000)? * 20 + started;
    (FIRST..LAST)
        .cycle()
        .skip(usize::from(start))
        .take(usize::from(LAST - FIRST))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .with_context(|| format!("no port from {FIRST} to {LAST} is free"))
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    target: Target,
}

impl Server {
    /// Starts it on `cores` and waits until it accepts; the caller itself then runs on `load_core`.
    pub(crate) fn start(kind: &Kind, cores: &[usize], load_core: usize) -> Result<Self> {
        let port = free_port()?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut command = kind.command(port, cores.len())?;
        machine::pin(cores)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        machine::pin(&[load_core])?;
        if !cores.contains(&load_core) {
            socket::stay_awake();
        }
        let child = child.with_context(|| format!("cannot start {command:?}"))?;
        let target = Target { address, dialect: kind.dialect(), pid: machine::pid(child.id())? };
        let mut server = Self { child, target };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended at once: {status}");
            }
            ensure!(Instant::now() < deadline, "{command:?} does not listen on {address}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// The target of the load.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have ended by itself, which the measurement has then reported.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
