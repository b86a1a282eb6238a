//! Settings of the gateway client, each with a default.

use std::time::Duration;

use strait_core::{Binary, Capabilities};

use super::CredentialsError;

/// How the client treats its gateway.
///
/// The limits of API Gateway are its quotas:
/// <https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-execution-service-websocket-limits-table.html>
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The longest message, in bytes: 128 KiB.
    pub max_message: usize,
    /// The encoding of bytes; API Gateway takes text alone.
    pub binary: Binary,
    /// How many requests are under way at once: 64.
    pub at_once: usize,
    /// How long one request may take before it is tried again: 3 s.
    pub request: Duration,
    /// How long to go on trying to post one message, where no invocation's deadline is nearer: 10 s.
    pub patience: Duration,
    /// For how long after a channel was opened 410 may mean that its connection is not established yet: 35 s, as the
    /// integration of `$connect` may take 29 s.
    pub handshake: Duration,
    /// How long a connection can last: 2 h.
    pub lifetime: Duration,
    /// Connections older than this are probed by the janitor: 10 min, after which API Gateway closes quiet ones.
    pub quiet: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_message: 128 * 1024,
            binary: Binary::Refused,
            at_once: 64,
            request: Duration::from_secs(3),
            patience: Duration::from_secs(10),
            handshake: Duration::from_secs(35),
            lifetime: Duration::from_hours(2),
            quiet: Duration::from_mins(10),
        }
    }
}

impl Settings {
    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_message: self.max_message,
            binary: self.binary,
            close_codes: false,
            lifetime: Some(self.lifetime),
            handshake: self.handshake,
            patience: self.patience,
            quiet: self.quiet,
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No region.
    #[error("set AWS_REGION to the region of the API, eu-central-1 say")]
    NoRegion,
    /// No credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No root certificates.
    #[error("the machine's root certificates cannot be read")]
    Roots(#[source] std::io::Error),
}
