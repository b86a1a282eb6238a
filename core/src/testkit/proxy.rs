use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The state of the path through a [`Proxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Everything passes at once.
    Open,
    /// Everything passes later.
    Slow(Duration),
    /// Connections stay, but no bytes pass: they are kept until the path is open again.
    Stalled,
    /// New connections are closed at once. Existing ones go on.
    Closed,
}

/// Stands between a client and a server, and delays or cuts their connections. Dropping it ends it, with all its
/// connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<SocketAddr>,
    way: watch::Sender<Way>,
    /// Changes when all connections are to be cut.
    cuts: watch::Sender<usize>,
    accepted: AtomicUsize,
}

impl Proxy {
    /// A proxy before a server, on a free port of this machine.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            way: watch::Sender::new(Way::Open),
            cuts: watch::Sender::new(0),
            accepted: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// The address for clients.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the state of the path, for existing connections, too.
    pub fn set(&self, way: Way) {
        self.shared.way.send_replace(way);
    }

    /// Leads new connections to another server, like a service's address after a fail-over. Existing ones stay.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.shared.server.lock() = server;
    }

    /// Cuts all connections; the state of the path then applies to new ones.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// The number of connections so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if *shared.way.borrow() == Way::Closed {
            continue;
        }
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let (way, mut cuts) = (shared.way.subscribe(), shared.cuts.subscribe());
        let server = *shared.server.lock();
        tokio::spawn(async move {
            tokio::select! {
                () = join(client, server, way) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn join(client: TcpStream, server: SocketAddr, way: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Without it an answer of several parts waits for an acknowledgement.
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pass(from_client, to_server, way.clone()) => {}
        () = pass(from_server, to_client, way) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let open = way.wait_for(|way| *way != Way::Stalled).await;
        let Ok(now) = open.map(|way| *way) else { return };
        if let Way::Slow(time) = now {
            tokio::time::sleep(time).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
