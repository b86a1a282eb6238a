//! Continuation: the function invokes itself asynchronously.
//!
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use strait_core::{Continuation, Error, Work};

use crate::event::Own;
use crate::gateway::{ConfigError, SignedClient};

/// How long the hand-over may take.
const LIMIT: Duration = Duration::from_secs(2);
const TRY: Duration = Duration::from_millis(900);

/// Hands work to a later invocation of this function. The function's role needs `lambda:InvokeFunction` on itself.
#[derive(Debug)]
pub struct SelfInvoke {
    client: SignedClient,
    url: String,
}

impl SelfInvoke {
    /// Invokes the function and version that runs: `AWS_LAMBDA_FUNCTION_NAME` and `AWS_LAMBDA_FUNCTION_VERSION`, at
    /// `AWS_ENDPOINT_URL_LAMBDA` if that is set. `None` outside of Lambda.
    ///
    /// # Errors
    /// [`ConfigError`] names the missing setting.
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        use crate::gateway::variable;
        let Some(function) = variable("AWS_LAMBDA_FUNCTION_NAME") else { return Ok(None) };
        let client = SignedClient::from_env("lambda")?;
        let endpoint = variable("AWS_ENDPOINT_URL_LAMBDA").unwrap_or_else(|| {
            let region = client.region();
            format!("https://lambda.{region}.{}", crate::event::domain(region))
        });
        let version = variable("AWS_LAMBDA_FUNCTION_VERSION").filter(|version| version != "$LATEST");
        Ok(Some(Self::new(client, &endpoint, &function, version.as_deref())))
    }

    pub(crate) fn new(client: SignedClient, endpoint: &str, function: &str, version: Option<&str>) -> Self {
        let function = utf8_percent_encode(function, NON_ALPHANUMERIC);
        let mut url = format!("{}/2015-03-31/functions/{function}/invocations", endpoint.trim_end_matches('/'));
        if let Some(version) = version {
            url.push_str("?Qualifier=");
            url.push_str(version);
        }
        Self { client, url }
    }
}

#[async_trait]
impl Continuation for SelfInvoke {
    async fn hand_over(&self, work: Work) -> Result<(), Error> {
        let body = Bytes::from(serde_json::to_vec(&Own::GoOn(work))?);
        let event = [(HeaderName::from_static("x-amz-invocation-type"), "Event")];
        let deadline = Instant::now() + LIMIT;
        loop {
            let sent = self.client.send_with(Method::POST, &self.url, &event, body.clone(), TRY).await;
            let error = match sent {
                Ok((StatusCode::ACCEPTED, _)) => return Ok(()),
                Ok((status, answer)) => {
                    let answer = String::from_utf8_lossy(&answer).into_owned();
                    let error = format!("the function could not invoke itself: {status}: {answer}");
                    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
                        return Err(Error::internal(error));
                    }
                    error.into()
                }
                Err(error) => error,
            };
            let pause = Duration::from_millis(20 + fastrand::u64(..80));
            if Instant::now() + pause >= deadline {
                return Err(Error::unavailable("the work could not be handed over").because(error));
            }
            tokio::time::sleep(pause).await;
        }
    }
}
