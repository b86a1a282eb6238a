//! The gateway client: `@connections` of an API Gateway WebSocket API.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-how-to-call-websocket-api-connections.html>

mod credentials;
mod http_client;
mod lines;
mod settings;
mod sign;
mod signed;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use strait_core::{Capabilities, Close, Gateway, GatewayConnection, Post, Posted, Probed, Throttled, in_full};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

pub use credentials::CredentialsError;
use lines::Lines;
pub use settings::{ConfigError, Settings};
#[cfg(all(test, feature = "local"))]
pub(crate) use sign::sign_request;
pub(crate) use signed::{SignedClient, variable};

/// All characters but the unreserved ones of RFC 3986 §2.3: connection ids end with `=`.
const ID: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// With less time left than this there is no retry: a request that is cut off may have sent its message, and the work
/// handed over would send it twice.
const LAST_TRY: Duration = Duration::from_millis(100);

/// Posts to, closes and probes connections of API Gateway WebSocket APIs. One client serves any number of APIs: each
/// channel keeps the address of its connection.
#[derive(Debug)]
pub struct ApiGateway {
    client: SignedClient,
    settings: Settings,
    lines: Lines,
    under_way: Arc<Semaphore>,
    complained: AtomicBool,
    silent: AtomicBool,
    not_understood: Throttled,
}

/// The result of one try.
enum Tried {
    Done(StatusCode),
    /// The connection failed, or no answer came in time.
    Failed,
}

impl ApiGateway {
    /// A client with the default settings, with region and credentials of the environment: `AWS_REGION`, and
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, or the container's endpoint.
    ///
    /// # Errors
    /// [`ConfigError`] names the missing setting.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::with(Settings::default())
    }

    /// As [`from_env`](Self::from_env), with other settings.
    ///
    /// # Errors
    /// [`ConfigError`] names the missing setting.
    pub fn with(settings: Settings) -> Result<Self, ConfigError> {
        Ok(Self::new(settings, SignedClient::from_env("execute-api")?))
    }

    pub(crate) fn new(settings: Settings, client: SignedClient) -> Self {
        let under_way = Arc::new(Semaphore::new(settings.at_once.max(1)));
        Self {
            client,
            settings,
            lines: Lines::default(),
            under_way,
            complained: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            not_understood: Throttled::default(),
        }
    }

    /// Tries until an answer is final, or the deadline has come.
    async fn request(&self, method: Method, to: &GatewayConnection, body: &Bytes, deadline: Instant) -> Tried {
        let id = utf8_percent_encode(to.id.as_str(), ID);
        let url = format!("{}/@connections/{id}", to.endpoint.trim_end_matches('/'));
        let mut pause = FIRST_PAUSE;
        let (mut last, mut least) = (Tried::Failed, Duration::ZERO);
        loop {
            let Ok(Ok(under_way)) = timeout_at(deadline.into(), self.under_way.acquire()).await else { return last };
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= least {
                return last;
            }
            let limit = self.settings.request.min(left);
            let sent = self.client.send(method.clone(), &url, body.clone(), limit).await;
            drop(under_way);
            last = match sent {
                Ok((status, _)) if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                    Tried::Done(status)
                }
                Ok((status, answer)) => {
                    self.silent.store(false, Ordering::Relaxed);
                    if status == StatusCode::FORBIDDEN {
                        self.complain(&to.endpoint, &answer);
                    }
                    return Tried::Done(status);
                }
                Err(error) => {
                    self.is_silent(&to.endpoint, error.as_ref());
                    Tried::Failed
                }
            };
            // Full jitter: requests that were throttled together do not come back together.
            let wait = pause.mul_f64(fastrand::f64());
            if Instant::now() + wait + LAST_TRY > deadline {
                return last;
            }
            tokio::time::sleep(wait).await;
            least = LAST_TRY;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// No credentials, no connection, no answer: logged once, until a request is answered.
    fn is_silent(&self, endpoint: &str, error: &(dyn std::error::Error + 'static)) {
        if self.silent.swap(true, Ordering::Relaxed) {
            tracing::debug!(endpoint, error = %in_full(error), "the gateway could not be asked again");
        } else {
            tracing::warn!(endpoint, error = %in_full(error), "the gateway could not be asked, it is tried again");
        }
    }

    /// Logs an error, but not for each message.
    fn complain(&self, endpoint: &str, answer: &Bytes) {
        let answer = String::from_utf8_lossy(answer);
        if self.complained.swap(true, Ordering::Relaxed) {
            tracing::debug!(endpoint, answer = &*answer, "the gateway refuses us again");
        } else {
            tracing::error!(
                endpoint,
                answer = &*answer,
                "the gateway refuses us: allow execute-api:ManageConnections on this API and stage, and check endpoint, \
                 region and credentials"
            );
        }
    }

    async fn post_one(&self, to: &GatewayConnection, payload: Bytes, deadline: Instant) -> Posted {
        if payload.len() > self.settings.max_message {
            return Posted::TooLarge;
        }
        let tried = self.request(Method::POST, to, &payload, deadline).await;
        self.outcome(&tried)
    }

    fn outcome(&self, tried: &Tried) -> Posted {
        match tried {
            Tried::Failed => Posted::Unsent,
            Tried::Done(status) => {
                let outcome = match *status {
                    status if status.is_success() => Posted::Sent,
                    StatusCode::GONE => Posted::Gone,
                    StatusCode::PAYLOAD_TOO_LARGE => Posted::TooLarge,
                    StatusCode::TOO_MANY_REQUESTS => Posted::Throttled,
                    status if status.is_server_error() => Posted::Unsent,
                    // 400 for an invalid id, 404 for a path that does not exist.
                    _ => Posted::Misconfigured,
                };
                if outcome == Posted::Sent {
                    self.complained.store(false, Ordering::Relaxed);
                } else if outcome == Posted::Misconfigured
                    && let Some(count) = self.not_understood.count()
                {
                    tracing::warn!(count, status = status.as_u16(), "the gateway does not understand us");
                }
                outcome
            }
        }
    }

    /// Posts to one connection in order; after a message that was not sent, the later ones are not tried.
    async fn post_line(
        &self,
        (to, payloads): (GatewayConnection, Vec<(usize, Bytes)>),
        deadline: Instant,
    ) -> Vec<(usize, Posted)> {
        let Ok(_in_order) = timeout_at(deadline.into(), self.lines.enter(&to)).await else { return Vec::new() };
        let mut outcomes = Vec::new();
        let mut failed = None;
        for (at, payload) in payloads {
            let outcome = match failed {
                Some(failed) => failed,
                None => self.post_one(&to, payload, deadline).await,
            };
            failed = (outcome != Posted::Sent).then_some(outcome);
            outcomes.push((at, outcome));
        }
        outcomes
    }
}

#[async_trait]
impl Gateway for ApiGateway {
    fn capabilities(&self) -> Capabilities {
        self.settings.capabilities()
    }

    async fn post(&self, posts: &[Post], deadline: Instant) -> Vec<Posted> {
        let mut lines: Vec<(GatewayConnection, Vec<(usize, Bytes)>)> = Vec::new();
        let mut found = HashMap::new();
        for (at, post) in posts.iter().enumerate() {
            let line = *found.entry(&post.to).or_insert_with(|| {
                lines.push((post.to.clone(), Vec::new()));
                lines.len() - 1
            });
            lines[line].1.push((at, post.frame.payload()));
        }
        let mut outcomes = vec![Posted::Unsent; posts.len()];
        let mut lines = lines.into_iter();
        let mut posting = FuturesUnordered::new();
        let most = self.settings.at_once.max(1);
        posting.extend(lines.by_ref().take(most).map(|line| self.post_line(line, deadline)));
        while let Some(posted) = posting.next().await {
            for (at, outcome) in posted {
                outcomes[at] = outcome;
            }
            posting.extend(lines.next().map(|line| self.post_line(line, deadline)));
        }
        outcomes
    }

    async fn close(&self, to: &GatewayConnection, _: &Close, deadline: Instant) -> Posted {
        // Messages posted before the close arrive before it.
        let Ok(_in_order) = timeout_at(deadline.into(), self.lines.enter(to)).await else { return Posted::Unsent };
        let tried = self.request(Method::DELETE, to, &Bytes::new(), deadline).await;
        self.outcome(&tried)
    }

    async fn probe(&self, to: &GatewayConnection, deadline: Instant) -> Probed {
        match self.request(Method::GET, to, &Bytes::new(), deadline).await {
            Tried::Done(status) if status.is_success() => Probed::Alive,
            Tried::Done(StatusCode::GONE) => Probed::Gone,
            Tried::Done(_) | Tried::Failed => Probed::Unknown,
        }
    }
}
