//! Redis failures as a store's errors. An error never repeats a server's text if that may hold a value that was sent,
//! such as a password.

use std::time::Duration;

use redis::{RedisError, ServerError, ServerErrorKind};
use strait_core::store::{StoreError, StoreErrorKind};

use crate::event::Foreign;

/// A failure of a server.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    /// The server cannot be reached.
    #[error("cannot connect to {address}: {what}")]
    Connect { address: String, what: String },
    /// The server is a replica of another one.
    #[error("{address} is a replica now, which takes no writes: its address must lead to the master")]
    Replica { address: String },
    /// The server refuses us.
    #[error("{address} refuses the connection: {code}")]
    Refused { address: String, code: String },
    /// The connection broke while an answer was awaited.
    #[error("the connection to {address} was lost: {what}")]
    Lost { address: String, what: String },
    /// No answer came in time.
    #[error("{address} did not answer in time")]
    Timeout { address: String },
    /// The server answered with an error.
    #[error("{address} answered {code}")]
    Server { address: String, code: String, kind: StoreErrorKind },
    /// A script's answer is not one of ours.
    #[error("{0}")]
    Foreign(&'static str),
    /// No server gives the assignment of slots.
    #[error("no server of the cluster tells which one has which slots: {0}")]
    Topology(String),
    /// A call of the store's own failed.
    #[error("{message}")]
    Call { kind: StoreErrorKind, message: String },
}

impl From<Foreign> for Failure {
    fn from(_: Foreign) -> Self {
        Self::Foreign("the answer is not of Strait's making, or of another version of it")
    }
}

impl Failure {
    /// The failure of an attempt to connect.
    pub(crate) fn connecting(address: &str, error: &RedisError) -> Self {
        let address = address.to_owned();
        if error.is_timeout() {
            return Self::Connect { address, what: "no answer in time".to_owned() };
        }
        match error.code() {
            Some(code) if is_of_configuration(code) => Self::Refused { address, code: code.to_owned() },
            Some("ERR") if error.detail().is_some_and(|words| words.contains("DB index is out of range")) => {
                Self::Refused { address, code: "it has no database of this number".to_owned() }
            }
            Some(code) => Self::Connect { address, what: code.to_owned() },
            None if error.is_io_error() => Self::Connect { address, what: io_text(error) },
            None if error.kind() == redis::ErrorKind::AuthenticationFailed => {
                Self::Refused { address, code: "the user name or the password is wrong".to_owned() }
            }
            None if error.kind() == redis::ErrorKind::RESP3NotSupported => Self::too_old(&address),
            None => Self::Connect { address, what: error.category().to_owned() },
        }
    }

    /// The failure of a request on a connection.
    pub(crate) fn requesting(address: &str, error: &RedisError) -> Self {
        let address = address.to_owned();
        if error.is_timeout() {
            return Self::Timeout { address };
        }
        let what = if error.is_io_error() { io_text(error) } else { error.category().to_owned() };
        Self::Lost { address, what }
    }

    /// A server without shard channels.
    pub(crate) fn too_old(address: &str) -> Self {
        Self::Refused { address: address.to_owned(), code: NEEDED.to_owned() }
    }

    pub(crate) fn server(address: &str, error: &ServerError) -> Self {
        let address = address.to_owned();
        // Within a script this error has no code of its own.
        let words = error.details().unwrap_or_default();
        if words.contains("user executing the script") || words.contains("ACL failure in script") {
            return Self::Server {
                address,
                kind: StoreErrorKind::Misconfigured,
                code: "NOPERM in a script".to_owned(),
            };
        }
        Self::Server { address, kind: kind_of(error), code: error.code().to_owned() }
    }

    pub(crate) fn of(error: &StoreError) -> Self {
        let source = error.source.as_ref().map_or_else(|| error.to_string(), ToString::to_string);
        Self::Call { kind: error.kind, message: source }
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Connect { .. } | Self::Replica { .. } | Self::Lost { .. } | Self::Topology(_) => {
                StoreErrorKind::Unavailable
            }
            Self::Refused { .. } => StoreErrorKind::Misconfigured,
            Self::Timeout { .. } => StoreErrorKind::Timeout,
            Self::Server { kind, .. } | Self::Call { kind, .. } => *kind,
            Self::Foreign(_) => StoreErrorKind::Corrupt,
        }
    }

    /// Whether the connection failed, and not the call.
    pub(crate) fn is_of_connection(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Replica { .. } | Self::Lost { .. } | Self::Timeout { .. })
    }

    pub(crate) fn store(self, op: &'static str) -> StoreError {
        StoreError::new(self.kind(), BACKEND, op).because(self)
    }
}

pub(crate) const BACKEND: &str = "redis";
const NEEDED: &str = "Redis 7 or later, or Valkey, is needed";

pub(crate) fn conflict(op: &'static str, source: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, BACKEND, op).because(source)
}

fn io_text(error: &RedisError) -> String {
    // Only the system error's text, without the words that the client adds.
    std::error::Error::source(error).map_or_else(|| error.category().to_owned(), ToString::to_string)
}

fn is_of_configuration(code: &str) -> bool {
    matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" | "NOPROTO")
}

/// Whether an error of a standalone server means that calls belong to another server. This one is a replica now, loads
/// its new master's data, or has replicas that follow another server. Returns the least age of a connection that is
/// given up for it. So connections are remade at most this often while the address leads to the same server.
pub(crate) fn leads_elsewhere(error: &ServerError) -> Option<Duration> {
    match error.code() {
        "READONLY" | "MASTERDOWN" | "LOADING" => Some(Duration::from_secs(1)),
        // The right server gives this answer too, while its replicas are away.
        "NOREPLICAS" => Some(Duration::from_secs(10)),
        _ => None,
    }
}

fn kind_of(error: &ServerError) -> StoreErrorKind {
    match error.kind() {
        Some(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::NoScript,
        ) => StoreErrorKind::Unavailable,
        Some(ServerErrorKind::NoPerm) => StoreErrorKind::Misconfigured,
        Some(_) | None => match error.code() {
            "OOM" | "MISCONF" | "BUSY" | "NOREPLICAS" | "UNKILLABLE" => StoreErrorKind::Unavailable,
            code if is_of_configuration(code) => StoreErrorKind::Misconfigured,
            _ => StoreErrorKind::Corrupt,
        },
    }
}
