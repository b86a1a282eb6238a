//! Signed requests to one AWS service.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode};

use super::credentials::Source;
use super::http_client::{HttpClient, HttpError};
use super::settings::ConfigError;
use super::sign::sign_request;

pub(crate) struct SignedClient {
    http: HttpClient,
    credentials: Source,
    region: String,
    service: &'static str,
}

impl fmt::Debug for SignedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedClient")
            .field("region", &self.region)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// A variable of the environment, unless it is empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl SignedClient {
    pub(crate) fn from_env(service: &'static str) -> Result<Self, ConfigError> {
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")).ok_or(ConfigError::NoRegion)?;
        let credentials = Source::from_env(variable)?;
        let http = HttpClient::new().map_err(ConfigError::Roots)?;
        Ok(Self { http, credentials, region, service })
    }

    /// A client with given credentials.
    #[cfg(any(test, feature = "local"))]
    pub(crate) fn with_keys(service: &'static str, region: &str, id: &str, secret: &str) -> Result<Self, ConfigError> {
        let credentials = Source::Fixed(aws_credential_types::Credentials::new(id, secret, None, None, "given"));
        Self::with_source(service, region, credentials)
    }

    #[cfg(any(test, feature = "local"))]
    pub(super) fn with_source(service: &'static str, region: &str, credentials: Source) -> Result<Self, ConfigError> {
        let http = HttpClient::new().map_err(ConfigError::Roots)?;
        Ok(Self { http, credentials, region: region.to_owned(), service })
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// Sends a request and reads its answer within `limit`, including the time to get credentials for signing.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        self.send_with(method, url, &[], body, limit).await
    }

    pub(crate) async fn send_with(
        &self,
        method: Method,
        url: &str,
        headers: &[(HeaderName, &'static str)],
        body: Bytes,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let mut request = request.body(body)?;
        let began = Instant::now();
        let credentials = tokio::time::timeout(limit, self.credentials.get(&self.http)).await??;
        sign_request(&mut request, &credentials, &self.region, self.service, SystemTime::now())?;
        self.http.send(request, limit.saturating_sub(began.elapsed())).await
    }
}
