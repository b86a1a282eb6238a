//! HTTP/1.1 requests with a time limit, over TLS where the URL says so.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// No answer that is read is longer.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// How long an unused connection is kept: less than the other side keeps it.
const IDLE: Duration = Duration::from_secs(45);

pub(crate) type HttpError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone)]
pub(crate) struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient {
    /// # Errors
    /// The machine's root certificates cannot be read.
    pub(crate) fn new() -> std::io::Result<Self> {
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request and reads the whole answer within `limit`.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let answer = async {
            let response = self.0.request(request.map(Full::new)).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>((status, body))
        };
        tokio::time::timeout(limit, answer).await?
    }
}
