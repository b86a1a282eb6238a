//! Time limits of requests' heads. hyper has one limit for both a head and the pause before it. Here a pause may be
//! longer: load balancers reuse sockets after a minute of silence. A head that comes in drops is cut off in seconds.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http1;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ServerLimits;

/// Gives the requests of one socket their time limits. The builder must have a `header_read_timeout`, of any length.
pub(super) fn timed<S>(stream: S, http: &http1::Builder, limits: &ServerLimits) -> (Watched<S>, http1::Builder) {
    let came = Arc::<AtomicBool>::default();
    let clock = Clock {
        head: limits.handshake,
        pause: limits.keep_alive,
        came: Arc::clone(&came),
        begun: AtomicBool::default(),
    };
    let mut http = http.clone();
    http.timer(clock);
    (Watched { stream, came }, http)
}

/// A socket that notes when bytes come.
pub(super) struct Watched<S> {
    stream: S,
    came: Arc<AtomicBool>,
}

impl<S> Watched<S> {
    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

/// hyper asks this clock for a timer whenever it begins to wait for a head, and for nothing else.
struct Clock {
    head: Duration,
    pause: Duration,
    came: Arc<AtomicBool>,
    /// Whether hyper already awaits the first head, which has no pause before it.
    begun: AtomicBool,
}

/// Ends when the pause, or the head after it, takes too long.
struct Wait {
    sleep: Pin<Box<tokio::time::Sleep>>,
    head: Duration,
    came: Arc<AtomicBool>,
    pauses: bool,
}

impl Timer for Clock {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let pauses = self.begun.swap(true, Ordering::Relaxed);
        self.came.store(false, Ordering::Relaxed);
        let sleep = Box::pin(tokio::time::sleep(if pauses { self.pause } else { self.head }));
        Box::pin(Wait { sleep, head: self.head, came: Arc::clone(&self.came), pauses })
    }

    /// Ignores hyper's limit: the clock has its own.
    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.pauses && self.came.load(Ordering::Relaxed) {
            self.pauses = false;
            self.sleep = Box::pin(tokio::time::sleep(self.head));
        }
        self.sleep.as_mut().poll(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.came.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{self, sleep};

    use super::*;
    use crate::server::accept::http;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const LIMITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(75));

    /// A server that answers every request, on a clock that advances while all tasks wait.
    fn serve() -> DuplexStream {
        let (client, server) = duplex(4096);
        let limits = ServerLimits { handshake: LIMITS.0, keep_alive: LIMITS.1, ..ServerLimits::default() };
        let (stream, http) = timed(server, &http(), &limits);
        let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())));
        tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
        client
    }

    async fn ask(client: &mut DuplexStream) {
        client.write_all(REQUEST).await.expect("the server reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert_ne!(client.read_buf(&mut answer).await.expect("it is open"), 0, "the socket is closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }

    /// The time until the server closes the socket.
    async fn ends(client: &mut DuplexStream) -> Duration {
        let start = time::Instant::now();
        client.read_to_end(&mut Vec::new()).await.expect("it is closed");
        start.elapsed()
    }

    fn about(found: Duration, expected: Duration) {
        assert!(found >= expected && found < expected + Duration::from_secs(1), "{found:?}, not {expected:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_kept_for_longer_than_a_load_balancer_keeps_it() {
        let mut client = serve();
        for pause in [0, 60, 70] {
            sleep(Duration::from_secs(pause)).await;
            ask(&mut client).await;
        }
        about(ends(&mut client).await, LIMITS.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_own_time_whenever_it_begins() {
        about(ends(&mut serve()).await, LIMITS.0);
        let mut begun = serve();
        begun.write_all(&REQUEST[..9]).await.expect("it is open");
        about(ends(&mut begun).await, LIMITS.0);
        for pause in [0, 70] {
            let mut client = serve();
            ask(&mut client).await;
            sleep(Duration::from_secs(pause)).await;
            // A head that comes in drops gets no more time.
            let start = time::Instant::now();
            for byte in REQUEST {
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(2)).await;
            }
            ends(&mut client).await;
            assert!(start.elapsed() < LIMITS.0 + Duration::from_secs(3), "{:?}", start.elapsed());
        }
    }
}
