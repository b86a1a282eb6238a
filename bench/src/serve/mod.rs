//! The peers: each server does the same as its library's own examples.

mod axum;
mod fastws;
mod socketio;
mod tcp;
mod tungstenite;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use clap::ValueEnum;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Builder;
use tokio::sync::broadcast;

use crate::dialect::Dialect;

/// A server to measure Strait against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// TCP echo without any framing: the limit.
    Tcp,
    /// fastwebsockets as in its examples, and the naive broadcast on it: the reference.
    Fastws,
    /// tokio-tungstenite.
    Tungstenite,
    /// axum's WebSockets as they come.
    Axum,
    /// axum with read and write buffers of 4 KiB instead of 128 KiB.
    #[value(name = "axum-4k")]
    Axum4k,
    /// socketioxide under axum; rooms for fan-out.
    Socketioxide,
}

impl Peer {
    /// The peer's dialect.
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Self::Tcp => Dialect::Tcp,
            Self::Fastws | Self::Tungstenite | Self::Axum | Self::Axum4k => Dialect::Bare,
            Self::Socketioxide => Dialect::SocketIo,
        }
    }

    async fn serve(self, listener: TcpListener, room: Room) -> Result<()> {
        match self {
            Self::Tcp => tcp::serve(listener).await,
            Self::Fastws => fastws::serve(listener, room).await,
            Self::Tungstenite => tungstenite::serve(listener, room).await,
            Self::Axum => axum::serve(listener, room, None).await,
            Self::Axum4k => axum::serve(listener, room, Some(4096)).await,
            Self::Socketioxide => socketio::serve(listener).await,
        }
    }
}

/// How a peer's tasks are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flavour {
    /// A single-threaded runtime for each worker, all listening on the same port (`SO_REUSEPORT`).
    PerCore,
    /// One work-stealing runtime.
    Shared,
}

/// The naive broadcast: a channel that every member's task reads.
type Room = broadcast::Sender<Bytes>;

/// The first message to a member of a room: nobody publishes before the member listens.
const JOINED: &str = "joined";

/// Serves on loopback until the process is ended.
pub(crate) fn run(peer: Peer, port: u16, flavour: Flavour, workers: usize) -> Result<()> {
    let room = Room::new(1024);
    match flavour {
        Flavour::PerCore => {
            let threads: Vec<_> = (0..workers)
                .map(|_| {
                    let room = room.clone();
                    thread::spawn(move || -> Result<()> {
                        let runtime = Builder::new_current_thread().enable_all().build()?;
                        runtime.block_on(async { peer.serve(listen(port)?, room).await })
                    })
                })
                .collect();
            for thread in threads {
                thread.join().map_err(|_panic| anyhow!("a server thread panicked"))??;
            }
            Ok(())
        }
        Flavour::Shared => {
            let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
            // Spawned: a worker accepts, not one thread more.
            runtime.block_on(async { tokio::spawn(async move { peer.serve(listen(port)?, room).await }).await? })
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket.listen(4096)?)
}
