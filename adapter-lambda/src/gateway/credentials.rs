//! Where credentials come from: the environment, or the container's endpoint.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use http::Request;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http_client::{HttpClient, HttpError};
use strait_core::in_full;

/// For how long a container's answer is used, if it does not expire before: it is rotated well before that.
const KEPT: Duration = Duration::from_secs(60);
/// For how long an endpoint that has failed is not asked again: otherwise each request would wait for it.
const PAUSE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(2);
/// The host of a container's relative URIs (Amazon ECS).
const RELATIVE: &str = "http://169.254.170.2";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The environment names no credentials.
    #[error(
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where \
         AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"
    )]
    None,
    /// The endpoint could belong to an attacker.
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
    Container { uri: String, token: Token, kept: Duration, known: Mutex<Known> },
}

/// The known credentials of a container.
#[derive(Debug, Default)]
pub(super) struct Known {
    last: Option<(Instant, Credentials)>,
    failed: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Token {
    None,
    Value(String),
    /// Read again for each request of credentials: the file is rotated.
    File(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
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
        Ok(Self::Container { uri, token, kept: KEPT, known: Mutex::default() })
    }

    /// The present credentials.
    pub(super) async fn get(&self, client: &HttpClient) -> Result<Credentials, CredentialsError> {
        let (uri, token, kept, known) = match self {
            Self::Fixed(credentials) => return Ok(credentials.clone()),
            Self::Container { uri, token, kept, known } => (uri, token, *kept, known),
        };
        let mut known = known.lock().await;
        let valid = known.last.as_ref().filter(|(_, credentials)| is_valid(credentials));
        let has_failed = known.failed.is_some_and(|at| at.elapsed() < PAUSE);
        match valid {
            Some((at, credentials)) if has_failed || at.elapsed() < kept => return Ok(credentials.clone()),
            None if has_failed => return Err(CredentialsError::Fetch("it has failed a moment ago".into())),
            Some(_) | None => {}
        }
        match fetch(client, uri, token).await {
            Ok(credentials) => {
                *known = Known { last: Some((Instant::now(), credentials.clone())), failed: None };
                Ok(credentials)
            }
            Err(error) => {
                known.failed = Some(Instant::now());
                match &known.last {
                    Some((_, credentials)) if is_valid(credentials) => {
                        tracing::warn!(error = %in_full(&error), "the credentials could not be renewed");
                        Ok(credentials.clone())
                    }
                    Some(_) | None => Err(error),
                }
            }
        }
    }
}

/// By the wall clock, which goes on while a process is frozen.
fn is_valid(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|expires| SystemTime::now() < expires)
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
    let Answer { access_key_id, secret_access_key, token, expiration } = answer;
    let expires = expiration.map(|time| DateTime::from_str(&time, Format::DateTimeWithOffset)).transpose();
    let expires = expires.map_err(|error| fetch(error.into()))?.map(SystemTime::try_from).transpose();
    let expires = expires.map_err(|error| fetch(error.into()))?;
    Ok(Credentials::new(access_key_id, secret_access_key, token, expires, "container"))
}

/// Unencrypted credentials come only from this host and the container's own.
fn is_trusted(uri: &str) -> bool {
    let Ok(uri) = uri.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let container = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"].contains(&host);
    uri.scheme_str() == Some("https") || loopback || container
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn source(vars: &[(&str, &str)]) -> Result<Source, CredentialsError> {
        Source::from_env(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    type Seen = Arc<parking_lot::Mutex<Vec<String>>>;

    /// A container's endpoint that gives the answers in turn and then repeats the last; `None` is no answer.
    async fn endpoint(answers: &[Option<(u16, String)>]) -> (String, Seen) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}/v2/credentials/1?a=b", listener.local_addr().expect("an address"));
        let (seen, answers) = (Seen::default(), answers.to_vec());
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a head"));
                }
                let number = noted.lock().len();
                noted.lock().push(String::from_utf8(head).expect("text").to_lowercase());
                let Some((status, body)) = answers[number.min(answers.len() - 1)].clone() else {
                    std::future::pending::<()>().await;
                    continue;
                };
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.expect("it is written");
            }
        });
        (uri, seen)
    }

    /// As Amazon ECS answers.
    fn credentials(id: &str, expires_in: i64) -> Option<(u16, String)> {
        let now = DateTime::from(SystemTime::now()).secs();
        let expires = DateTime::from_secs(now + expires_in).fmt(Format::DateTime).expect("a time");
        let body = serde_json::json!({
            "RoleArn": "arn:aws:iam::123456789012:role/task", "AccessKeyId": id, "SecretAccessKey": "secret",
            "Token": "session", "Expiration": expires,
        });
        Some((200, body.to_string()))
    }

    fn kept(uri: &str, kept: Duration) -> Source {
        Source::Container { uri: uri.to_owned(), token: Token::None, kept, known: Mutex::default() }
    }

    fn client() -> HttpClient {
        HttpClient::new().expect("a client")
    }

    async fn id(source: &Source, client: &HttpClient) -> Result<String, CredentialsError> {
        source.get(client).await.map(|credentials| credentials.access_key_id().to_owned())
    }

    #[tokio::test]
    async fn a_container_gives_credentials_for_its_token() {
        let client = client();
        let (uri, seen) = endpoint(&[credentials("a", 3600)]).await;
        let source =
            source(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic abc")]);
        let source = source.expect("a source");
        let got = source.get(&client).await.expect("credentials");
        assert_eq!(
            (got.access_key_id(), got.secret_access_key(), got.session_token()),
            ("a", "secret", Some("session"))
        );
        assert!(got.expiry().is_some());
        assert_eq!(id(&source, &client).await.expect("they are kept"), "a");
        let seen = seen.lock().clone();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].starts_with("get /v2/credentials/1?a=b http/1.1\r\n"), "{seen:?}");
        assert!(seen[0].contains("authorization: basic abc\r\n"), "{seen:?}");
    }

    #[tokio::test]
    async fn a_tokens_file_is_read_each_time() {
        let client = client();
        let (uri, seen) = endpoint(&[credentials("a", 3600)]).await;
        let file = std::env::temp_dir().join(format!("strait-token-{}", fastrand::u64(..)));
        let path = file.to_str().expect("text").to_owned();
        let source = Source::Container { uri, token: Token::File(path), kept: Duration::ZERO, known: Mutex::default() };
        for token in ["one", "two"] {
            std::fs::write(&file, format!("{token}\n")).expect("it is written");
            id(&source, &client).await.expect("credentials");
        }
        std::fs::remove_file(&file).expect("it is removed");
        let seen = seen.lock().clone();
        assert!(seen[0].contains("authorization: one\r\n") && seen[1].contains("authorization: two\r\n"), "{seen:?}");
        let Source::Container { known, .. } = &source else { panic!("a container") };
        *known.lock().await = Known::default();
        assert!(matches!(id(&source, &client).await, Err(CredentialsError::Token(_))));
    }

    #[tokio::test]
    async fn credentials_that_have_expired_are_fetched_anew_and_never_used() {
        let client = client();
        let away = Some((500, String::new()));
        let (uri, seen) = endpoint(&[credentials("a", -1), credentials("b", -1), away]).await;
        let source = kept(&uri, Duration::from_secs(60));
        assert_eq!(id(&source, &client).await.expect("as they came"), "a");
        assert_eq!(id(&source, &client).await.expect("as they came"), "b");
        let error = id(&source, &client).await.expect_err("they have expired");
        assert!(matches!(error, CredentialsError::Fetch(_)), "{error:?}");
        assert_eq!(seen.lock().len(), 3);
    }

    #[tokio::test]
    async fn an_endpoint_that_fails_is_not_asked_again_at_once_and_what_is_valid_goes_on() {
        let client = client();
        let away = Some((500, String::new()));
        let (uri, seen) = endpoint(&[credentials("a", 3600), away.clone()]).await;
        let source = kept(&uri, Duration::ZERO);
        for _ in 0..5 {
            assert_eq!(id(&source, &client).await.expect("they are valid"), "a");
        }
        assert_eq!(seen.lock().len(), 2);
        let (uri, seen) = endpoint(&[away]).await;
        let source = kept(&uri, Duration::ZERO);
        for _ in 0..5 {
            id(&source, &client).await.expect_err("there are none");
        }
        assert_eq!(seen.lock().len(), 1);
    }

    #[tokio::test]
    async fn answers_that_are_no_credentials_are_refused() {
        let client = client();
        let late = r#"{"AccessKeyId":"a","SecretAccessKey":"b","Expiration":"tomorrow"}"#;
        for body in ["", "{}", "[]", r#"{"AccessKeyId":"a"}"#, late] {
            let (uri, _) = endpoint(&[Some((200, body.to_owned()))]).await;
            let error = id(&kept(&uri, KEPT), &client).await.expect_err(body);
            assert!(matches!(error, CredentialsError::Fetch(_)), "{error:?} of {body}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_hangs_costs_a_request_no_more_than_its_limit() {
        let (uri, _) = endpoint(&[None]).await;
        let client = crate::gateway::SignedClient::with_source("execute-api", "eu-west-1", kept(&uri, KEPT));
        let (client, limit) = (client.expect("a client"), Duration::from_millis(100));
        let began = Instant::now();
        let sent = client.send(http::Method::GET, "http://127.0.0.1:1/", Bytes::new(), limit).await;
        assert!(sent.is_err());
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    }

    #[test]
    fn a_relative_uri_is_the_containers() {
        let source = source(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/1")]).expect("a source");
        assert!(matches!(source, Source::Container { uri, .. } if uri == "http://169.254.170.2/v2/1"));
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
