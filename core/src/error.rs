//! What a handler answers when it cannot do what was asked.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::in_full::in_full;
use crate::name::InvalidName;
use crate::store::{StoreError, StoreErrorKind};

/// An error for the client: a code, a message that is safe to show, and optional details; and a source that is logged
/// and never sent.
///
/// Every `std::error::Error` becomes `internal` by `?`, its text kept as the source, so that nothing of it reaches a
/// client by accident. Two kinds are told apart: a [`StoreError`] that may pass becomes `unavailable`, an
/// [`InvalidName`] `invalid`. (So that this conversion can exist, this type is no `std::error::Error` itself.)
pub struct Error(Box<Inner>);

struct Inner {
    code: Cow<'static, str>,
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
        /// The input cannot be read or does not hold what it must.
        invalid;
        /// The client has not said who it is.
        unauthenticated;
        /// The client may not do this.
        forbidden;
        /// Too many requests.
        rate_limited;
        /// It took too long.
        timeout;
        /// It contradicts what another has done meanwhile.
        conflict;
        /// Something that is needed is away; trying again later may help.
        unavailable;
    }

    /// An error of the application's own code.
    #[must_use]
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { code: code.into(), message: message.into(), details: None, source: None }))
    }

    /// `internal`: what went wrong is logged, and the client learns nothing of it.
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

    /// The same error with what caused it, for the log.
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

    /// What caused it; never sent.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// The error with what caused it, in one line, for the operator's log and never for clients.
    pub fn in_full(&self) -> impl fmt::Display + '_ {
        InFull(self)
    }

    /// The HTTP status with which a handshake is refused.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.code() {
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            "invalid" => StatusCode::UNPROCESSABLE_ENTITY,
            "rate_limited" => StatusCode::TOO_MANY_REQUESTS,
            "timeout" | "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::FORBIDDEN,
        }
    }

    /// What is sent: `{"code","message","details"?}`.
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
        let any: &dyn Any = &error;
        if let Some(name) = any.downcast_ref::<InvalidName>() {
            return Self::invalid(name.to_string());
        }
        match any.downcast_ref::<StoreError>() {
            Some(store) if store.is_retryable() => {
                Self::unavailable("the server cannot do this at the moment, try again later").because(error)
            }
            Some(store) if store.kind == StoreErrorKind::Conflict => {
                Self::conflict("this contradicts what is stored").because(error)
            }
            _ => Self::internal(error),
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

/// What cannot be told from a standard error otherwise: code, message and details of an [`Error`] on its way through
/// tower's boxed errors.
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
    /// An error that came through a layer; one of ours that is in the box comes out as it went in.
    pub(crate) fn unboxed(error: Box<dyn StdError + Send + Sync>) -> Self {
        match error.downcast::<Boxed>() {
            Ok(ours) => ours.0,
            Err(error) => Self::internal(error),
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
