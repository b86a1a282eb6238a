//! The threads of a server: one single-threaded runtime a core, or one runtime that steals work.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::panic::catch_unwind;
use std::sync::{Arc, mpsc};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use super::{Server, descriptors};

/// The length of the kernel's queue of waiting sockets.
const BACKLOG: i32 = 4096;

/// The threads of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtimes {
    /// A single-threaded runtime a core, each with its own listener (`SO_REUSEPORT`): the kernel spreads the
    /// connections, and each stays on its core.
    #[default]
    PerCore,
    /// The same with this number of runtimes.
    Threads(NonZeroUsize),
    /// One runtime with work stealing: for handlers that compute for long.
    Shared,
}

impl Server {
    /// Serves `address` on its own runtimes until the server has drained; drains at SIGINT and SIGTERM. Calls
    /// `listening` with the address once the server accepts connections.
    ///
    /// # Errors
    /// The address cannot be listened on, the store does not take the node, a limit cannot work, or this was called on
    /// a runtime.
    pub fn run(self, address: SocketAddr, runtimes: Runtimes, listening: impl FnOnce(SocketAddr)) -> io::Result<()> {
        Self::run_with(address, runtimes, async || Ok(self), listening)
    }

    /// As [`run`](Self::run), with a server that `set_up` makes on the first runtime, which lives as long as the
    /// server. Use it for a set-up that awaits or needs a runtime, such as a pool of database connections.
    ///
    /// # Errors
    /// Those of `set_up`, and those of [`run`](Self::run).
    pub fn run_with<E: From<io::Error>>(
        address: SocketAddr,
        runtimes: Runtimes,
        set_up: impl AsyncFnOnce() -> Result<Self, E>,
        listening: impl FnOnce(SocketAddr),
    ) -> Result<(), E> {
        check_thread()?;
        let threads = match runtimes {
            Runtimes::PerCore => thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Runtimes::Threads(threads) => threads.get(),
            Runtimes::Shared => {
                let runtime = Builder::new_multi_thread().enable_all().global_queue_interval(1).build()?;
                return runtime.block_on(async { Ok(set_up().await?.run_shared(address, listening).await?) });
            }
        };
        let first = Builder::new_current_thread().enable_all().build()?;
        let server = first.block_on(set_up())?;
        Ok(server.run_on(first, threads, address, listening)?)
    }

    async fn run_shared(self, address: SocketAddr, listening: impl FnOnce(SocketAddr)) -> io::Result<()> {
        self.limits.check()?;
        let listener = TcpListener::from_std(listen(address, false)?)?;
        descriptors::reserve(&self.limits, &listener);
        self.handle().on_signals()?;
        self.app.start().await.map_err(io::Error::other)?;
        listening(listener.local_addr()?);
        self.serve_started(listener).await;
        Ok(())
    }

    /// Serves on this many threads; this one is the first, with `runtime`.
    fn run_on(
        self,
        runtime: Runtime,
        threads: usize,
        address: SocketAddr,
        listening: impl FnOnce(SocketAddr),
    ) -> io::Result<()> {
        self.limits.check()?;
        if address.port() != 0 {
            // Fails if another server has the port, which `SO_REUSEPORT` would share with it.
            drop(listen(address, false)?);
        }
        let first = listen(address, threads > 1)?;
        descriptors::reserve(&self.limits, &first);
        let address = first.local_addr()?;
        let mut parts = Vec::new();
        for _ in 1..threads {
            parts.push((listen(address, true)?, Builder::new_current_thread().enable_all().build()?));
        }
        self.run_threads((first, runtime), parts, || listening(address))
    }

    fn run_threads(self, own: Part, parts: Vec<Part>, listening: impl FnOnce()) -> io::Result<()> {
        let (server, (own_listener, runtime)) = (Arc::new(self), own);
        // This thread's runtime runs the application's own tasks and serves too; all runtimes run deliveries.
        let others = parts.iter().map(|(_, runtime)| runtime.handle().clone());
        let handles: Vec<_> = std::iter::once(runtime.handle().clone()).chain(others).collect();
        runtime.block_on(async {
            server.handle().on_signals()?;
            server.app.start_on(&handles).await.map_err(io::Error::other)
        })?;
        listening();
        let metrics = runtime.block_on(async { server.serve_metrics() });
        let (failed, failures) = mpsc::channel();
        let together = Together::new(handles.len());
        thread::scope(|scope| {
            for (at, (listener, runtime)) in parts.into_iter().enumerate() {
                let (failed_there, part) = (failed.clone(), together.part());
                let name = format!("strait-{}", at + 1);
                let thread = thread::Builder::new().name(name).spawn_scoped(scope, {
                    let server = Arc::clone(&server);
                    move || runtime.block_on(serve_part(&server, listener, part, &failed_there))
                });
                end_all_on_error(&server, &failed, thread.map(drop));
            }
            runtime.block_on(async {
                serve_part(&server, own_listener, together.part(), &failed).await;
                drop(metrics);
                server.stop().await;
            });
        });
        failures.try_recv().map_or(Ok(()), Err)
    }
}

/// A runtime and its listener.
type Part = (std::net::TcpListener, Runtime);

/// Ends runtimes together: the connections of each need the others. The first one runs the lease and the signals, all
/// run deliveries.
struct Together(watch::Sender<usize>);

/// One runtime's part; its drop marks the end of the runtime, after a panic too.
struct Share(watch::Sender<usize>);

impl Together {
    fn new(parts: usize) -> Self {
        Self(watch::Sender::new(parts))
    }

    fn part(&self) -> Share {
        Share(self.0.clone())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

async fn serve_part(server: &Server, listener: std::net::TcpListener, part: Share, failed: &mpsc::Sender<io::Error>) {
    let mut running = part.0.subscribe();
    let served = async {
        server.serve_part(TcpListener::from_std(listener)?).await;
        Ok(())
    };
    end_all_on_error(server, failed, served.await);
    drop(part);
    // Only the scope holds senders, `running` holds none: this ends when all runtimes have ended.
    let _ = running.wait_for(|running| *running == 0).await;
}

/// Ends all threads after an error on one.
fn end_all_on_error(server: &Server, failed: &mpsc::Sender<io::Error>, result: io::Result<()>) {
    if let Err(error) = result {
        server.handle().stop();
        // The receiver waits until all threads have ended.
        let _ = failed.send(error);
    }
}

/// Refuses to run on a runtime's thread, which must not wait for another runtime. tokio reports that only by a panic.
fn check_thread() -> io::Result<()> {
    let Ok(handle) = Handle::try_current() else { return Ok(()) };
    catch_unwind(|| handle.block_on(std::future::ready(()))).map_err(|_| {
        io::Error::other(
            "`Server::run` makes runtimes of its own and was called on one: call it from a plain `fn main` and await \
             what comes before in `Server::run_with`, or use `Server::serve`",
        )
    })
}

/// The error for an address without a listener.
#[derive(Debug)]
struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be listened on", self.address)?;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => write!(f, ": another process does, end it or choose another port"),
            _ => write!(f, ": {}", self.source),
        }
    }
}

impl Error for ListenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    try_listen(address, shared).map_err(|source| io::Error::new(source.kind(), ListenError { address, source }))
}

fn try_listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
