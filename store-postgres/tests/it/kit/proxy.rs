//! A way to a server that can be cut, stalled and made slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The fate of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Each read waits this long.
    Slow(Duration),
    /// Nothing passes; connections stay, and new ones are taken.
    Stalled,
    /// Connections are reset, and new ones too.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    connections: Arc<AtomicUsize>,
    /// The number of bytes from the server.
    brought: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Before a server, `host:port`.
    pub(crate) async fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = watch::Sender::new(Way::Open);
        let (connections, brought) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (server, ways, count) = (server.to_owned(), way.clone(), Arc::clone(&connections));
        let bytes = Arc::clone(&brought);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (server, ways, bytes) = (server.clone(), ways.subscribe(), Arc::clone(&bytes));
                tokio::spawn(async move {
                    if *ways.borrow() != Way::Cut
                        && let Ok(server) = TcpStream::connect(server).await
                    {
                        pass(client, server, ways, &bytes).await;
                    }
                });
            }
        });
        Self { address, way, connections, brought, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many bytes the server's answers were.
    pub(crate) fn brought(&self) -> usize {
        self.brought.load(Ordering::SeqCst)
    }

    /// The same URL, through the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(&server_of(url), &self.address.to_string())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Way::Cut);
    }
}

/// `host:port` of a URL.
pub(crate) fn server_of(url: &str) -> String {
    let rest = url.rsplit_once('@').unwrap().1;
    rest.split(['/', '?']).next().unwrap().to_owned()
}

async fn pass(client: TcpStream, server: TcpStream, ways: watch::Receiver<Way>, brought: &AtomicUsize) {
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let mut cut = ways.clone();
    tokio::select! {
        () = copy(client_in, server_out, ways.clone(), |_| ()) => {}
        () = copy(server_in, client_out, ways, |read| _ = brought.fetch_add(read, Ordering::SeqCst)) => {}
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
    }
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut ways: watch::Receiver<Way>,
    passing: impl Fn(usize),
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        passing(read);
        // The proxy may be stalled before the bytes are there.
        let Ok(way) = ways.wait_for(|way| *way != Way::Stalled).await.map(|way| *way) else { return };
        if let Way::Slow(time) = way {
            tokio::time::sleep(time).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
