use std::error::Error as StdError;
use std::fmt;

use crate::in_full::in_full;

/// The reason why a store could not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The backend cannot be reached, or refuses work for now.
    Unavailable,
    /// The backend did not answer in time; the operation may or may not have happened.
    Timeout,
    /// The request contradicts the stored record, for example an id that is in use at another location.
    Conflict,
    /// The backend's data or answer cannot be understood.
    Corrupt,
    /// The backend refuses by configuration: credentials, permissions, version.
    Misconfigured,
}

/// A failed operation of a store.
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {op} failed: {}", .kind.text())]
pub struct StoreError {
    /// The kind of failure.
    pub kind: StoreErrorKind,
    /// The store: `memory`, `redis`, `postgres`, …
    pub backend: &'static str,
    /// The method that failed.
    pub op: &'static str,
    /// The error of the backend's client.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl StoreErrorKind {
    /// The kind's name in metrics and logs: `unavailable`, `timeout`, `conflict`, `corrupt` or `misconfigured`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::Misconfigured => "misconfigured",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "the backend is unavailable, try again later",
            Self::Timeout => "the backend did not answer in time, try again",
            Self::Conflict => "the request contradicts what is stored",
            Self::Corrupt => "the backend holds data that cannot be understood",
            Self::Misconfigured => "the backend refuses, check its configuration",
        }
    }
}

impl StoreError {
    /// An error without a source.
    #[must_use]
    pub fn new(kind: StoreErrorKind, backend: &'static str, op: &'static str) -> Self {
        Self { kind, backend, op, source: None }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unavailable | StoreErrorKind::Timeout)
    }

    /// The error and its causes in one line, for the operator's log, not for clients.
    pub fn in_full(&self) -> impl fmt::Display + '_ {
        in_full(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_full_names_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect: {0}")]
        struct Outer(#[source] std::io::Error);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = StoreError::new(StoreErrorKind::Unavailable, "test", "open").because(Outer(refused));
        let expected =
            "test: open failed: the backend is unavailable, try again later: cannot connect: connection refused";
        assert_eq!(error.in_full().to_string(), expected);
    }
}
