use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::ServerLimits;
use super::drain::Stage;
use super::heads::{self, Watched};
use super::pace::{Pace, paced};
use super::pending::{Pending, Ticket};
use super::rate::Rate;
use super::route::{Connected, Passed, Router};
use crate::connection::{Connection, Wire};
use crate::task::Task;
use strait_core::{Throttled, in_full};

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// After this many new sockets the existing ones get their turn: each new socket costs as much as some hundred
/// messages.
const AT_ONCE: usize = 4;

/// Accepts sockets and answers their requests.
pub(super) struct Accept {
    pub(super) listener: TcpListener,
    pub(super) router: Arc<Router>,
    pub(super) limits: ServerLimits,
    pub(super) http: http1::Builder,
    pub(super) pending: Arc<Pending>,
    pub(super) pace: Arc<Pace>,
    pub(super) rate: Arc<Rate>,
    pub(super) stage: watch::Receiver<Stage>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<tokio_rustls::TlsAcceptor>,
}

/// Configures how requests are read. Each socket has its own timer, which applies the limits (`heads`).
pub(super) fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(Duration::ZERO).max_buf_size(MAX_HEAD);
    http
}

impl Accept {
    pub(super) async fn run(self) {
        without_delay(&self.listener);
        let this = Arc::new(self);
        let (mut accepted, failures) = (0, Throttled::default());
        loop {
            this.rate.pass().await;
            match this.listener.accept().await {
                Ok((socket, remote)) => {
                    let ticket = this.pending.enter().await;
                    let (pace, this) = (Arc::clone(&this.pace), Arc::clone(&this));
                    let serving = paced(pace, move || this.serve(socket, remote, ticket));
                    tokio::spawn(Task::Apart(Box::pin(serving)));
                    accepted = (accepted + 1) % AT_ONCE;
                    if accepted == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if is_of_one_socket(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: other sockets must end first.
                    if let Some(count) = failures.count() {
                        let hint = is_out_of_descriptors(&error).then_some("raise the limit of open files");
                        tracing::error!(count, error = %in_full(&error), hint, "sockets cannot be accepted");
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        remote: SocketAddr,
        ticket: Arc<Ticket>,
    ) -> Option<Box<Connection>> {
        tokio::select! {
            // Read the bytes that have already come before the socket makes room.
            biased;
            connection = self.answer_all(socket, remote, &ticket) => connection,
            () = ticket.given_up() => {
                metrics::counter!("strait_handshakes_given_up_total").increment(1);
                tracing::debug!("a socket was closed, as others wait");
                None
            }
        }
    }

    async fn answer_all(&self, socket: TcpStream, remote: SocketAddr, ticket: &Arc<Ticket>) -> Option<Box<Connection>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return match timeout(self.limits.handshake, tls.accept(socket)).await {
                Ok(Ok(stream)) => self.answer(stream, remote, ticket, |stream| Wire::Other(Box::new(stream))).await,
                Ok(Err(error)) => {
                    tracing::debug!(error = %in_full(&error), "a TLS handshake failed");
                    None
                }
                Err(_) => {
                    tracing::debug!("a TLS handshake took too long");
                    None
                }
            };
        }
        self.answer(socket, remote, ticket, Wire::Tcp).await
    }

    /// Answers requests until one becomes a connection, or the socket ends.
    ///
    /// In a box of its own: the allocations for each socket should have a size that the allocator keeps at hand.
    fn answer<'a, S>(
        &'a self,
        stream: S,
        remote: SocketAddr,
        ticket: &'a Arc<Ticket>,
        wire: fn(S) -> Wire,
    ) -> Pin<Box<dyn Future<Output = Option<Box<Connection>>> + Send + 'a>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let opened = Arc::new(Mutex::new(None));
            let service = Arc::clone(&self.router).of(remote, Arc::clone(ticket), Arc::clone(&opened));
            let limit = self.limits.handshake;
            let mut stage = self.stage.clone();
            // During a drain a socket gets one answer, which tells the client that it is the last.
            let mut drains = *stage.borrow() >= Stage::Drain;
            let (stream, mut http) = heads::timed(stream, &self.http, &self.limits);
            let mut connection = http.keep_alive(!drains).serve_connection(TokioIo::new(stream), service);
            let mut drain = pin!(stage.wait_for(|stage| *stage >= Stage::Drain));
            let mut late = None;
            let served = poll_fn(|cx| {
                loop {
                    if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                        if let Err(error) = &result {
                            tracing::debug!(error = %in_full(error), "an HTTP connection failed");
                        }
                        return Poll::Ready(result.is_ok());
                    }
                    if opened.lock().is_some() {
                        // The client is admitted but has yet to take its answer, which hyper would drop if it ended
                        // here: `who_does_not_take_its_answer_leaves_nothing`.
                        let late = late.get_or_insert_with(|| Box::pin(sleep(limit)));
                        ready!(late.as_mut().poll(cx));
                        tracing::debug!("a client did not take the answer to its handshake");
                        return Poll::Ready(false);
                    }
                    if drains || drain.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    drains = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            });
            if !served.await {
                return None;
            }
            match passed(connection, &opened, wire) {
                Ok(connection) => Some(connection),
                Err(stream) => {
                    Box::pin(say_the_end(stream, limit)).await;
                    None
                }
            }
        })
    }
}

/// The connection that a handshake on this socket has led to; else the socket.
fn passed<S>(
    requests: http1::Connection<TokioIo<Watched<S>>, Connected>,
    opened: &Mutex<Passed>,
    wire: fn(S) -> Wire,
) -> Result<Box<Connection>, S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let parts = requests.into_parts();
    let stream = parts.io.into_inner().into_inner();
    let Some((opened, answering)) = opened.lock().take() else { return Err(stream) };
    answering.has_ended();
    Ok(opened.connect(wire(stream), &parts.read_buf))
}

/// After a refused handshake hyper leaves the end of the TLS stream to us.
async fn say_the_end(mut stream: impl AsyncWrite + Unpin, limit: Duration) {
    drop(timeout(limit, stream.shutdown()).await);
}

/// Disables the delay of small writes for all accepted sockets: they inherit it from the listener, without a system
/// call each (`accepted_sockets_have_no_delay`).
fn without_delay(listener: &TcpListener) {
    if let Err(error) = SockRef::from(listener).set_tcp_nodelay(true) {
        tracing::warn!(error = %in_full(&error), "small messages may be late, TCP_NODELAY could not be set");
    }
}

/// Errors of a connection that was gone before it was accepted.
fn is_of_one_socket(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(unix)]
fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(not(unix))]
fn is_out_of_descriptors(_: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use strait_core::{App, Endpoint};
    use strait_store_memory::MemoryStore;
    use tokio::io::duplex;

    use super::*;
    use crate::service::Channels;

    const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    async fn accepting(limits: ServerLimits, stage: watch::Receiver<Stage>) -> (App, Accept) {
        let endpoint = Endpoint::new("a", "/a").public();
        let app = App::new().endpoint(endpoint).store(MemoryStore::new()).build().expect("it can be built");
        app.start().await.expect("it starts");
        let channels = Channels::with_places(app.clone(), 1, Arc::new(AtomicUsize::new(0)));
        let accept = Accept {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("there is a port"),
            router: Arc::new(Router { channels, app: app.clone(), fallback: None, metrics: None }),
            http: http(),
            limits,
            pending: Pending::new(1),
            pace: Arc::default(),
            rate: Arc::new(Rate::new(1)),
            stage,
            #[cfg(feature = "tls")]
            tls: None,
        };
        (app, accept)
    }

    #[tokio::test]
    async fn accepted_sockets_have_no_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        without_delay(&listener);
        let address = listener.local_addr().expect("it is bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        assert!(accepted.and_then(|(socket, _)| socket.nodelay()).expect("a socket"));
        drop(client);
    }

    /// The client's small kernel buffer takes the beginning of the answer.
    #[tokio::test]
    async fn who_does_not_take_its_answer_leaves_nothing() {
        for drains in [false, true] {
            let stage = watch::Sender::new(Stage::Serve);
            let limits = ServerLimits { handshake: Duration::from_millis(200), ..ServerLimits::default() };
            let (app, accept) = accepting(limits, stage.subscribe()).await;
            let ticket = accept.pending.enter().await;
            let (mut client, server) = duplex(16);
            let serving = tokio::spawn(async move {
                let remote = ([127, 0, 0, 1], 1).into();
                accept.answer(server, remote, &ticket, |stream| Wire::Other(Box::new(stream))).await.is_some()
            });
            client.write_all(REQUEST).await.expect("the request is read");
            while app.hub().channels() == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            if drains {
                stage.send_replace(Stage::Drain);
            }
            sleep(Duration::from_millis(100)).await;
            assert_eq!(app.hub().channels(), 1, "it has some time");
            assert!(!serving.await.expect("no panic"), "it is no connection");
            for _ in 0..1_000 {
                sleep(Duration::from_millis(1)).await;
                if app.hub().channels() == 0 {
                    break;
                }
            }
            assert_eq!(app.hub().channels(), 0);
            app.stop().await;
        }
    }
}
