//! The error that a handler answers when it cannot do its task.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::in_full::in_full;
use crate::name::InvalidName;
use crate::store::{StoreError, StoreErrorKind};

/// An error for the client: a code, a message that is safe to show, and optional details. Its source is logged and
/// never sent.
///
/// Every `std::error::Error` becomes `internal` by `?`. Its text stays in the source, so that none of it reaches a
/// client by accident. There are three exceptions: a [`StoreError`] that may pass becomes `unavailable`, an
/// [`InvalidName`] `invalid`, an elapsed time limit of tokio or tower `timeout`. (This type is no `std::error::Error`
/// itself: otherwise the conversion could not exist.)
pub struct Error(Box<Inner>);

struct Inner {
    code: Cow<'static, str>,
    /// Set by the application; otherwise it follows from the code.
    status: Option<StatusCode>,
    message: Cow<'static, str>,
    details: Option<Box<RawValue>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(stringify!($name), message)
        })*
    };
}

impl Error {
    codes! {
        /// No route takes the message.
        unknown_route;
        /// The input cannot be read or violates a rule.
        invalid;
        /// The client has no session.
        unauthenticated;
        /// The client may not do this.
        forbidden;
        /// Too many requests.
        rate_limited;
        /// It took too long.
        timeout;
        /// The operation conflicts with another one that came first.
        conflict;
        /// The reply is longer than the endpoint's or the gateway's limit, or of a kind that the gateway does not
        /// carry.
        too_large;
        /// A service that the operation needs is away; trying again later may help.
        unavailable;
    }

    /// An error of the application's own code.
    #[must_use]
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { code: code.into(), status: None, message: message.into(), details: None, source: None }))
    }

    /// `internal`: the source is logged, and the client learns nothing of it.
    #[must_use]
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new("internal", "something went wrong on the server").because(source)
    }

    /// The same error with the details that the client gets.
    ///
    /// Details that cannot be serialised make it `internal`.
    #[must_use]
    pub fn with_details<T: Serialize + ?Sized>(mut self, details: &T) -> Self {
        match serde_json::value::to_raw_value(details) {
            Ok(details) => {
                self.0.details = Some(details);
                self
            }
            Err(error) => Self::internal(error),
        }
    }

    /// The same error with the HTTP status of a refused handshake: 404 for a room that does not exist, for example.
    ///
    /// Only client and server errors (4xx and 5xx) are refusals. Another status is ignored, and a debug build panics.
    /// Messages are answered with the code alone.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        let refuses = status.is_client_error() || status.is_server_error();
        debug_assert!(refuses, "{status} is no refusal");
        if refuses {
            self.0.status = Some(status);
        }
        self
    }

    /// The client's error for a cause that needs more than "something went wrong".
    fn known(cause: &(dyn StdError + 'static)) -> Option<Self> {
        if let Some(name) = cause.downcast_ref::<InvalidName>() {
            return Some(Self::invalid(name.to_string()));
        }
        if cause.is::<tower::timeout::error::Elapsed>() || cause.is::<tokio::time::error::Elapsed>() {
            return Some(Self::timeout("this took too long"));
        }
        let store = cause.downcast_ref::<StoreError>()?;
        if store.is_retryable() {
            return Some(Self::unavailable("the server cannot do this at the moment, try again later"));
        }
        let conflict = store.kind == StoreErrorKind::Conflict;
        conflict.then(|| Self::conflict("this contradicts what is stored"))
    }

    /// `invalid` for input that `serde` could not read; `details.field` names the field, `post.tags[2]` for example,
    /// where it is known.
    pub(crate) fn unreadable<E: StdError>(error: &serde_path_to_error::Error<E>) -> Self {
        let invalid = Self::invalid(error.inner().to_string());
        // A missing field is its parent's error: the message alone names it.
        match error.path().iter().next() {
            Some(_) => invalid.with_details(&serde_json::json!({ "field": error.path().to_string() })),
            None => invalid,
        }
    }

    /// An [`anyhow::Error`], which is no `std::error::Error` and so cannot pass by `?` alone:
    /// `work().await.map_err(Error::from_anyhow)?`.
    ///
    /// A [`StoreError`] or [`InvalidName`] anywhere among its causes counts as if it came without `anyhow`. Every
    /// other error is `internal`, with the whole chain in the log.
    #[cfg(feature = "anyhow")]
    #[must_use]
    pub fn from_anyhow(error: anyhow::Error) -> Self {
        match error.chain().find_map(Self::known) {
            Some(known) => known.because(error),
            None => Self::internal(error),
        }
    }

    /// The same error with its cause, for the log.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The message that the client gets.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The cause; never sent.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// The error and its causes in one line, for the operator's log and never for clients.
    pub fn in_full(&self) -> impl fmt::Display + '_ {
        InFull(self)
    }

    /// The HTTP status with which a handshake is refused.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        if let Some(status) = self.0.status {
            return status;
        }
        match self.code() {
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            "invalid" => StatusCode::UNPROCESSABLE_ENTITY,
            "rate_limited" => StatusCode::TOO_MANY_REQUESTS,
            "timeout" | "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::FORBIDDEN,
        }
    }

    /// The body that the client gets: `{"code","message","details"?}`.
    pub(crate) fn body(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Body<'a> {
            code: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a RawValue>,
        }
        Body { code: &self.0.code, message: &self.0.message, details: self.0.details.as_deref() }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("code", &self.0.code).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        match Self::known(&error) {
            Some(known) => known.because(error),
            None => Self::internal(error),
        }
    }
}

struct InFull<'a>(&'a Error);

impl fmt::Display for InFull<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        match self.0.source() {
            Some(source) => write!(f, ": {}", in_full(source)),
            None => Ok(()),
        }
    }
}

/// Keeps code, message and details of an [`Error`] on its way through tower's boxed errors, which would lose them.
struct Boxed(Error);

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Boxed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Error> for Box<dyn StdError + Send + Sync> {
    fn from(error: Error) -> Self {
        Box::new(Boxed(error))
    }
}

impl Error {
    /// Converts an error that came through a layer. An [`Error`] in the box comes out unchanged.
    pub(crate) fn unboxed(error: Box<dyn StdError + Send + Sync>) -> Self {
        match error.downcast::<Boxed>() {
            Ok(ours) => ours.0,
            Err(error) => match Self::known(&*error) {
                Some(known) => known.because(error),
                None => Self::internal(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(error: &Error) -> String {
        serde_json::to_string(&error.body()).expect("serialises")
    }

    #[test]
    fn sources_never_reach_the_client() {
        let error: Error = std::io::Error::other("password is hunter2").into();
        assert_eq!(json(&error), r#"{"code":"internal","message":"something went wrong on the server"}"#);
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("password is hunter2"));
    }

    #[test]
    fn an_error_comes_out_of_a_box_as_it_went_in() {
        let boxed: Box<dyn StdError + Send + Sync> = Error::new("full", "try later").because("the source").into();
        assert_eq!(boxed.to_string(), "full: try later");
        assert_eq!(boxed.source().map(ToString::to_string).as_deref(), Some("the source"));
        let back = Error::unboxed(boxed);
        assert_eq!((back.code(), back.message()), ("full", "try later"));
        assert_eq!(Error::unboxed("another".into()).code(), "internal");
    }

    #[test]
    fn a_time_limit_is_a_timeout() {
        let elapsed = tower::timeout::error::Elapsed::new();
        assert_eq!(Error::unboxed(elapsed.into()).code(), "timeout");
        assert_eq!(Error::from(tower::timeout::error::Elapsed::new()).code(), "timeout");
    }

    #[test]
    fn a_refusal_chooses_its_status() {
        let error = Error::new("no_such_room", "there is no such room").with_status(StatusCode::NOT_FOUND);
        assert_eq!((error.code(), error.status()), ("no_such_room", StatusCode::NOT_FOUND));
        assert_eq!(Error::new("full", "the room is full").status(), StatusCode::FORBIDDEN);
    }

    #[cfg(feature = "anyhow")]
    #[test]
    fn what_anyhow_carries_is_told_apart() {
        use anyhow::Context;

        let away = StoreError::new(StoreErrorKind::Timeout, "test", "publish");
        let error = Error::from_anyhow(Err::<(), _>(away).context("cannot greet").expect_err("an error"));
        assert_eq!(error.code(), "unavailable");
        let error = Error::from_anyhow(anyhow::anyhow!("password is hunter2").context("cannot greet"));
        assert_eq!(json(&error), r#"{"code":"internal","message":"something went wrong on the server"}"#);
        let source = error.source().expect("the source is kept");
        assert_eq!(source.to_string(), "cannot greet");
        assert_eq!(source.source().map(ToString::to_string).as_deref(), Some("password is hunter2"));
    }

    #[test]
    fn details_are_sent_as_they_are() {
        let error = Error::invalid("too short").with_details(&serde_json::json!({"min": 3}));
        assert_eq!(json(&error), r#"{"code":"invalid","message":"too short","details":{"min":3}}"#);
    }

    #[test]
    fn a_store_that_is_away_is_unavailable() {
        let error: Error = StoreError::new(StoreErrorKind::Timeout, "test", "publish").into();
        assert_eq!(error.code(), "unavailable");
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        let error: Error = StoreError::new(StoreErrorKind::Corrupt, "test", "publish").into();
        assert_eq!(error.code(), "internal");
    }
}
