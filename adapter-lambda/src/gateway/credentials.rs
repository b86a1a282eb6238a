//! Where credentials come from: the environment, or the container's endpoint.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use bytes::Bytes;
use http::Request;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http_client::{HttpClient, HttpError};

/// For how long a container's answer is used. It is rotated well before it expires.
const KEPT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(2);
/// Where relative URIs of containers are (Amazon ECS).
const RELATIVE: &str = "http://169.254.170.2";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The environment names none.
    #[error(
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where \
         AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"
    )]
    None,
    /// The endpoint may be anybody's.
    #[error("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or of this host or the container's")]
    Endpoint,
    /// The token cannot be read.
    #[error("the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names cannot be read")]
    Token(#[source] std::io::Error),
    /// The endpoint did not answer with credentials.
    #[error("the container's endpoint did not give credentials")]
    Fetch(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A source of credentials.
#[derive(Debug)]
pub(super) enum Source {
    Fixed(Credentials),
    Container { uri: String, token: Token, last: Mutex<Option<(Instant, Credentials)>> },
}

#[derive(Debug)]
pub(super) enum Token {
    None,
    Value(String),
    /// Read anew each time: it is rotated.
    File(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
}

impl Source {
    pub(super) fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, CredentialsError> {
        if let (Some(id), Some(secret)) = (var("AWS_ACCESS_KEY_ID"), var("AWS_SECRET_ACCESS_KEY")) {
            return Ok(Self::Fixed(Credentials::new(id, secret, var("AWS_SESSION_TOKEN"), None, "environment")));
        }
        let uri = match (var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), var("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
            (Some(path), _) => format!("{RELATIVE}{path}"),
            (None, Some(uri)) if is_trusted(&uri) => uri,
            (None, Some(_)) => return Err(CredentialsError::Endpoint),
            (None, None) => return Err(CredentialsError::None),
        };
        let token = match (var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), var("AWS_CONTAINER_AUTHORIZATION_TOKEN")) {
            (Some(file), _) => Token::File(file),
            (None, Some(token)) => Token::Value(token),
            (None, None) => Token::None,
        };
        Ok(Self::Container { uri, token, last: Mutex::new(None) })
    }

    /// The present credentials.
    pub(super) async fn get(&self, client: &HttpClient) -> Result<Credentials, CredentialsError> {
        let (uri, token, last) = match self {
            Self::Fixed(credentials) => return Ok(credentials.clone()),
            Self::Container { uri, token, last } => (uri, token, last),
        };
        let mut last = last.lock().await;
        if let Some((at, credentials)) = &*last
            && at.elapsed() < KEPT
        {
            return Ok(credentials.clone());
        }
        match fetch(client, uri, token).await {
            Ok(credentials) => {
                *last = Some((Instant::now(), credentials.clone()));
                Ok(credentials)
            }
            // They are valid for longer than they are kept.
            Err(error) => match &*last {
                Some((_, credentials)) => {
                    tracing::warn!(error = %error, "the credentials could not be renewed");
                    Ok(credentials.clone())
                }
                None => Err(error),
            },
        }
    }
}

async fn fetch(client: &HttpClient, uri: &str, token: &Token) -> Result<Credentials, CredentialsError> {
    let fetch = |error: HttpError| CredentialsError::Fetch(error);
    let token = match token {
        Token::None => None,
        Token::Value(token) => Some(token.clone()),
        Token::File(file) => Some(tokio::fs::read_to_string(file).await.map_err(CredentialsError::Token)?),
    };
    let mut request = Request::get(uri);
    if let Some(token) = token {
        request = request.header("authorization", token.trim());
    }
    let request = request.body(Bytes::new()).map_err(|error| fetch(error.into()))?;
    let (status, body) = client.send(request, LIMIT).await.map_err(fetch)?;
    if !status.is_success() {
        return Err(CredentialsError::Fetch(format!("it answered {status}").into()));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| CredentialsError::Fetch(error.into()))?;
    let Answer { access_key_id, secret_access_key, token } = answer;
    Ok(Credentials::new(access_key_id, secret_access_key, token, None, "container"))
}

/// Credentials come unencrypted from this host and the container's own only.
fn is_trusted(uri: &str) -> bool {
    let Ok(uri) = uri.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let container = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"].contains(&host);
    uri.scheme_str() == Some("https") || loopback || container
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(vars: &[(&str, &str)]) -> Result<Source, CredentialsError> {
        Source::from_env(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_environment_comes_before_the_container() {
        let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/creds");
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), full];
        assert!(matches!(source(&keys), Ok(Source::Fixed(_))));
        assert!(matches!(source(&keys[2..]), Ok(Source::Container { .. })));
        assert!(matches!(source(&[]), Err(CredentialsError::None)));
    }

    #[test]
    fn credentials_come_from_trusted_endpoints_only() {
        for (uri, trusted) in [
            ("http://127.0.0.1/x", true),
            ("http://[::1]:80/x", true),
            ("http://169.254.170.23/v1", true),
            ("https://anywhere.example/x", true),
            ("http://anywhere.example/x", false),
            ("http://169.254.169.254/x", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_trusted(uri), trusted, "{uri}");
            let source = source(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)]);
            assert_eq!(matches!(source, Err(CredentialsError::Endpoint)), !trusted, "{uri}");
        }
    }
}
