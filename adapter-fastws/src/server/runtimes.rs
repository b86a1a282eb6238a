//! Which threads serve: one single-threaded runtime a core, or one that steals work.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, mpsc};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::watch;

use super::{Server, descriptors};

/// Waiting connections that the kernel keeps.
const BACKLOG: i32 = 4096;

/// Which threads serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtimes {
    /// A single-threaded runtime a core, each with a listener of its own (`SO_REUSEPORT`): the kernel spreads the
    /// connections, and each stays on its core.
    #[default]
    PerCore,
    /// So many of them.
    Threads(NonZeroUsize),
    /// One runtime whose threads take work from each other: for handlers that compute for long.
    Shared,
}

impl Server {
    /// Serves `address` on runtimes of its own until the server has drained; drains at SIGINT and SIGTERM.
    /// `listening` is told the address once connections are accepted.
    ///
    /// # Errors
    /// The address cannot be listened on, the store does not take the node, or a limit cannot work.
    pub fn run(self, address: SocketAddr, runtimes: Runtimes, listening: impl FnOnce(SocketAddr)) -> io::Result<()> {
        self.limits.check()?;
        let threads = match runtimes {
            Runtimes::PerCore => thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Runtimes::Threads(threads) => threads.get(),
            Runtimes::Shared => {
                let runtime = Builder::new_multi_thread().enable_all().global_queue_interval(1).build()?;
                return runtime.block_on(async {
                    let listener = TcpListener::from_std(listen(address, false)?)?;
                    descriptors::reserve(&self.limits, &listener);
                    self.handle().on_signals()?;
                    self.app.start().await.map_err(io::Error::other)?;
                    listening(listener.local_addr()?);
                    self.serve_started(listener).await;
                    Ok(())
                });
            }
        };
        if address.port() != 0 {
            // Sharing a port would share it with another server that happens to be there, too.
            drop(listen(address, false)?);
        }
        let first = listen(address, threads > 1)?;
        descriptors::reserve(&self.limits, &first);
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..threads {
            listeners.push(listen(address, true)?);
        }
        self.run_threads(listeners, || listening(address))
    }

    fn run_threads(self, listeners: Vec<std::net::TcpListener>, listening: impl FnOnce()) -> io::Result<()> {
        let server = Arc::new(self);
        let runtimes = listeners.iter().map(|_| Builder::new_current_thread().enable_all().build());
        let mut runtimes = runtimes.collect::<io::Result<Vec<_>>>()?;
        // The application's own tasks live on the runtime of this thread, which serves as well; deliveries on all.
        let handles: Vec<_> = runtimes.iter().map(|runtime| runtime.handle().clone()).collect();
        let mut parts = listeners.into_iter().zip(runtimes.drain(..));
        let Some((own_listener, runtime)) = parts.next() else { return Ok(()) };
        runtime.block_on(async {
            server.handle().on_signals()?;
            server.app.start_on(&handles).await.map_err(io::Error::other)
        })?;
        listening();
        let (failed, failures) = mpsc::channel();
        let together = Together::new(handles.len());
        thread::scope(|scope| {
            for (at, (listener, runtime)) in parts.enumerate() {
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
                server.stop().await;
            });
        });
        failures.try_recv().map_or(Ok(()), Err)
    }
}

/// Runtimes that end together: each one's connections need what runs on the others, the lease and the signals on the first
/// one, deliveries on all.
struct Together(watch::Sender<usize>);

/// One runtime's part; it has ended when this is dropped, however that came.
struct Part(watch::Sender<usize>);

impl Together {
    fn new(parts: usize) -> Self {
        Self(watch::Sender::new(parts))
    }

    fn part(&self) -> Part {
        Part(self.0.clone())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

async fn serve_part(server: &Server, listener: std::net::TcpListener, part: Part, failed: &mpsc::Sender<io::Error>) {
    let mut running = part.0.subscribe();
    let served = async {
        server.serve_part(TcpListener::from_std(listener)?).await;
        Ok(())
    };
    end_all_on_error(server, failed, served.await);
    drop(part);
    // `running` keeps no sender, the scope's does: this ends when all have.
    let _ = running.wait_for(|running| *running == 0).await;
}

/// What fails on one thread ends the others.
fn end_all_on_error(server: &Server, failed: &mpsc::Sender<io::Error>, result: io::Result<()>) {
    if let Err(error) = result {
        server.handle().stop();
        // The receiver waits until all threads have ended.
        let _ = failed.send(error);
    }
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
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
