use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ServerLimits;
use super::drain::Stage;
use super::pace::{Pace, Paced};
use super::pending::{Pending, Ticket};
use super::rate::Rate;
use super::route::Router;

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
                    tokio::spawn(Paced::new(&this.pace, serving));
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

    async fn serve(self: Arc<Self>, socket: TcpStream, remote: SocketAddr, ticket: Arc<Ticket>) {
        tokio::select! {
            // What has come already is read before the socket makes room.
            biased;
            () = self.answer_all(socket, remote, &ticket) => {}
            () = ticket.given_up() => {
                metrics::counter!("strait_handshakes_given_up_total").increment(1);
                tracing::debug!("a socket was closed, as others wait");
            }
        }
    }

    async fn answer_all(&self, socket: TcpStream, remote: SocketAddr, ticket: &Arc<Ticket>) {
        if socket.set_nodelay(true).is_err() {
            return;
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            match tokio::time::timeout(self.limits.handshake, tls.accept(socket)).await {
                Ok(Ok(stream)) => self.answer(stream, remote, ticket).await,
                Ok(Err(error)) => tracing::debug!(error = %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
            return;
        }
        self.answer(socket, remote, ticket).await;
    }

    async fn answer<S>(&self, stream: S, remote: SocketAddr, ticket: &Arc<Ticket>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = self.router.clone().of(remote, Arc::clone(ticket));
        let mut stage = self.stage.clone();
        // While draining a socket gets one answer, which says that there are no more.
        let drains = *stage.borrow() >= Stage::Drain;
        let connection = http1::Builder::new()
            .keep_alive(!drains)
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.handshake)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = async { drop(stage.wait_for(|stage| *stage >= Stage::Drain).await.map(drop)) }, if !drains => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(error = %error, "an HTTP connection failed");
        }
    }
}

/// Errors of a connection that was gone before it was accepted.
fn is_of_one_socket(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
