//! HTTP/1.1 requests with a time limit, over TLS where the URL says so.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;

/// The longest answer that is read.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// How long an unused connection is kept: a shorter time than the other side's.
const IDLE: Duration = Duration::from_secs(45);

pub(crate) type HttpError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    connector: HttpsConnector<HttpConnector>,
    pool: Arc<Mutex<Pool>>,
}

#[derive(Debug)]
struct Pool {
    number: u64,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Pool {
    fn new(number: u64, connector: HttpsConnector<HttpConnector>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { number, client }
    }
}

/// Root certificates are read once a process: nothing else at a function's start takes as long.
fn connector() -> std::io::Result<HttpsConnector<HttpConnector>> {
    static CONNECTOR: OnceLock<HttpsConnector<HttpConnector>> = OnceLock::new();
    if let Some(connector) = CONNECTOR.get() {
        return Ok(connector.clone());
    }
    let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
    Ok(CONNECTOR.get_or_init(|| connector).clone())
}

impl HttpClient {
    /// # Errors
    /// The machine's root certificates cannot be read.
    pub(crate) fn new() -> std::io::Result<Self> {
        let connector = connector()?;
        let pool = Arc::new(Mutex::new(Pool::new(0, connector.clone())));
        Ok(Self { connector, pool })
    }

    /// Drops the pool after a request without an answer. Its other idle connections may also have died in silence while
    /// the process was frozen, and each would cost a failed request.
    fn forget(&self, number: u64) {
        let mut pool = self.pool.lock();
        if pool.number == number {
            *pool = Pool::new(number.wrapping_add(1), self.connector.clone());
        }
    }

    /// Sends a request and reads the whole answer within `limit`.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let (number, client) = {
            let pool = self.pool.lock();
            (pool.number, pool.client.clone())
        };
        let answer = async {
            let response = client.request(request.map(Full::new)).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>((status, body))
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(late) => {
                self.forget(number);
                Err(late.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn head(stream: &mut TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        Ok(())
    }

    /// As after a freeze, when a middlebox has silently forgotten the connections.
    #[tokio::test]
    async fn of_connections_that_died_in_silence_one_is_tried() {
        const CONNECTIONS: usize = 8;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}/", listener.local_addr().expect("an address"));
        let is_silent = Arc::new(AtomicBool::new(false));
        let all_there = Arc::new(tokio::sync::Barrier::new(CONNECTIONS));
        tokio::spawn({
            let is_silent = Arc::clone(&is_silent);
            async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let (is_old, is_silent) = (!is_silent.load(Ordering::SeqCst), Arc::clone(&is_silent));
                    let all_there = Arc::clone(&all_there);
                    tokio::spawn(async move {
                        while head(&mut stream).await.is_ok() {
                            if is_old && is_silent.load(Ordering::SeqCst) {
                                std::future::pending::<()>().await;
                            }
                            if is_old {
                                // Answers once all requests are there: so each has a connection of its own.
                                all_there.wait().await;
                            }
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("written");
                        }
                    });
                }
            }
        });
        let client = HttpClient::new().expect("a client");
        let send = |limit| {
            let request = Request::get(&uri).body(Bytes::new()).expect("a request");
            client.send(request, limit)
        };
        let warm = futures_util::future::join_all((0..CONNECTIONS).map(|_| send(Duration::from_secs(10)))).await;
        assert!(warm.iter().all(Result::is_ok), "{warm:?}");
        is_silent.store(true, Ordering::SeqCst);
        let first = send(Duration::from_millis(100)).await;
        assert!(first.is_err(), "an old connection is used: {first:?}");
        assert!(send(Duration::from_secs(2)).await.is_ok(), "a new one is answered");
    }
}
