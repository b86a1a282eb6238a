use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ServerLimits;
use super::drain::Stage;
use super::pace::{Pace, Paced};
use super::pending::{Pending, Ticket};
use super::rate::Rate;
use super::route::Router;
use crate::connection::{Connection, Stream};
use crate::service::Task;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// After so many sockets those that are there already get their turn: however many come at once, each is worth some hundred
/// messages.
const AT_ONCE: usize = 4;

/// Accepts sockets and answers their requests.
pub(super) struct Accept {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
    pub(super) limits: ServerLimits,
    pub(super) pending: Arc<Pending>,
    pub(super) pace: Arc<Pace>,
    pub(super) rate: Arc<Rate>,
    pub(super) stage: watch::Receiver<Stage>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Accept {
    pub(super) async fn run(self) {
        let this = Arc::new(self);
        let mut accepted = 0;
        loop {
            this.rate.pass().await;
            match this.listener.accept().await {
                Ok((socket, remote)) => {
                    let ticket = this.pending.enter().await;
                    let serving = Box::pin(Arc::clone(&this).serve(socket, remote, ticket));
                    tokio::spawn(Task::Apart(Box::pin(Paced::new(&this.pace, serving))));
                    accepted = (accepted + 1) % AT_ONCE;
                    if accepted == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if is_of_one_socket(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: others must end first.
                    tracing::error!(error = %error, "sockets cannot be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, socket: TcpStream, remote: SocketAddr, ticket: Arc<Ticket>) -> Option<Connection> {
        tokio::select! {
            // What has come already is read before the socket makes room.
            biased;
            connection = self.answer_all(socket, remote, &ticket) => connection,
            () = ticket.given_up() => {
                metrics::counter!("strait_handshakes_given_up_total").increment(1);
                tracing::debug!("a socket was closed, as others wait");
                None
            }
        }
    }

    async fn answer_all(&self, socket: TcpStream, remote: SocketAddr, ticket: &Arc<Ticket>) -> Option<Connection> {
        socket.set_nodelay(true).ok()?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return match tokio::time::timeout(self.limits.handshake, tls.accept(socket)).await {
                Ok(Ok(stream)) => self.answer(stream, remote, ticket, |stream| Err(Box::new(stream))).await,
                Ok(Err(error)) => {
                    tracing::debug!(error = %error, "a TLS handshake failed");
                    None
                }
                Err(_) => {
                    tracing::debug!("a TLS handshake took too long");
                    None
                }
            };
        }
        self.answer(socket, remote, ticket, Ok).await
    }

    /// Answers requests until one has become a connection, or the socket has ended.
    async fn answer<S>(
        &self,
        stream: S,
        remote: SocketAddr,
        ticket: &Arc<Ticket>,
        socket: fn(S) -> Result<TcpStream, Box<dyn Stream>>,
    ) -> Option<Connection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let opened = Arc::new(Mutex::new(None));
        let service = self.router.clone().of(remote, Arc::clone(ticket), Arc::clone(&opened));
        let mut stage = self.stage.clone();
        // While draining a socket gets one answer, which says that there are no more.
        let mut drains = *stage.borrow() >= Stage::Drain;
        let mut connection = http1::Builder::new()
            .keep_alive(!drains)
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.handshake)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let mut drain = pin!(stage.wait_for(|stage| *stage >= Stage::Drain));
        let mut late = None;
        let result = poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
                    return Poll::Ready(result.map_err(Some));
                }
                if opened.lock().is_some() {
                    // The client does not take its answer.
                    let late = late.get_or_insert_with(|| Box::pin(sleep(self.limits.handshake)));
                    return late.as_mut().poll(cx).map(|()| Err(None));
                }
                if drains || drain.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                drains = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        });
        if let Err(error) = result.await {
            let error = error.as_ref().map(tracing::field::display);
            tracing::debug!(error, "an HTTP connection failed");
            return None;
        }
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner();
        let opened = opened.lock().take();
        match opened {
            Some((opened, _)) => opened.connect(socket(stream), &parts.read_buf),
            None => {
                // By TLS the client is told that this is the end.
                drop(stream.shutdown().await);
                None
            }
        }
    }
}

/// Errors of a connection that was gone before it was accepted.
fn is_of_one_socket(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
