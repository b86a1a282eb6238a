//! What goes wrong with Redis, as a store's errors. No error repeats what a server says word for word where that may
//! hold what was sent to it: a password, say.

use redis::{RedisError, ServerError, ServerErrorKind};
use strait_core::store::{StoreError, StoreErrorKind};

use crate::event::Foreign;

/// What went wrong with a server.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    /// The server cannot be reached.
    #[error("cannot connect to {address}: {what}")]
    Connect { address: String, what: String },
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
    /// The server answered something else than a script of ours would.
    #[error("{0}")]
    Foreign(&'static str),
    /// No server tells who has the slots.
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
    /// What an attempt to connect ended with.
    pub(crate) fn connecting(address: &str, error: &RedisError) -> Self {
        let address = address.to_owned();
        if error.is_timeout() {
            return Self::Connect { address, what: "no answer in time".to_owned() };
        }
        match error.code() {
            Some(code) if is_of_configuration(code) => Self::Refused { address, code: code.to_owned() },
            Some(code) => Self::Connect { address, what: code.to_owned() },
            None if error.is_io_error() => Self::Connect { address, what: io_text(error) },
            None if error.kind() == redis::ErrorKind::AuthenticationFailed => {
                Self::Refused { address, code: "the user name or the password is wrong".to_owned() }
            }
            None => Self::Connect { address, what: error.category().to_owned() },
        }
    }

    /// What a request on a connection ended with.
    pub(crate) fn requesting(address: &str, error: &RedisError) -> Self {
        let address = address.to_owned();
        if error.is_timeout() {
            return Self::Timeout { address };
        }
        let what = if error.is_io_error() { io_text(error) } else { error.category().to_owned() };
        Self::Lost { address, what }
    }

    pub(crate) fn server(address: &str, error: &ServerError) -> Self {
        let code = error.code().to_owned();
        Self::Server { address: address.to_owned(), kind: kind_of(error), code }
    }

    pub(crate) fn of(error: &StoreError) -> Self {
        let source = error.source.as_ref().map_or_else(|| error.to_string(), ToString::to_string);
        Self::Call { kind: error.kind, message: source }
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Connect { .. } | Self::Lost { .. } | Self::Topology(_) => StoreErrorKind::Unavailable,
            Self::Refused { .. } => StoreErrorKind::Misconfigured,
            Self::Timeout { .. } => StoreErrorKind::Timeout,
            Self::Server { kind, .. } | Self::Call { kind, .. } => *kind,
            Self::Foreign(_) => StoreErrorKind::Corrupt,
        }
    }

    /// Whether it is the way to the server that failed.
    pub(crate) fn is_of_connection(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Lost { .. } | Self::Timeout { .. })
    }

    pub(crate) fn store(self, op: &'static str) -> StoreError {
        StoreError::new(self.kind(), BACKEND, op).because(self)
    }
}

pub(crate) const BACKEND: &str = "redis";

pub(crate) fn conflict(op: &'static str, source: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, BACKEND, op).because(source)
}

fn io_text(error: &RedisError) -> String {
    // The text of the system's error, without what the client adds.
    std::error::Error::source(error).map_or_else(|| error.category().to_owned(), ToString::to_string)
}

fn is_of_configuration(code: &str) -> bool {
    matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" | "NOPROTO")
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
