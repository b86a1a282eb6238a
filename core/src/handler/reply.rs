use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::extract::Json;
use crate::channel::{Session, SessionValue};
use crate::error::Error;
use crate::spare;

/// The reply of a message handler, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// One JSON value.
    Json(Vec<u8>),
    /// Text.
    Text(String),
    /// Bytes, sent as a binary message.
    Bytes(Bytes),
    /// Success without content: a route answers with its key alone.
    Acknowledged,
    /// Nothing is sent.
    None,
}

/// A value that can be the reply to a message.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a reply",
    note = "a reply is `Json<T>`, `()`, `NoReply`, text, bytes, or a `Result` of these with an error"
)]
pub trait IntoReply {
    /// Converts it to a reply.
    ///
    /// # Errors
    /// The error that is sent instead.
    fn into_reply(self) -> Result<Reply, Error>;
}

/// The client gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoReply;

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(self)
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Result<Reply, Error> {
        // The same capacity as `serde_json::to_vec` starts with.
        let mut json = spare::take(128);
        serde_json::to_writer(&mut json, &self.0)?;
        Ok(Reply::Json(json))
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(Reply::Acknowledged)
    }
}

impl IntoReply for NoReply {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(Reply::None)
    }
}

impl IntoReply for String {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(Reply::Text(self))
    }
}

impl IntoReply for &'static str {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(Reply::Text(self.to_owned()))
    }
}

impl IntoReply for Bytes {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(Reply::Bytes(self))
    }
}

impl IntoReply for Vec<u8> {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(Reply::Bytes(self.into()))
    }
}

impl<R: IntoReply, E: Into<Error>> IntoReply for Result<R, E> {
    fn into_reply(self) -> Result<Reply, Error> {
        self.map_err(Into::into).and_then(R::into_reply)
    }
}

/// A value that a handler may return for an `O`.
#[diagnostic::on_unimplemented(message = "`{Self}` cannot be the result of this handler, which needs a `{O}`")]
pub trait Respond<O> {
    /// Converts it to an `O`.
    ///
    /// # Errors
    /// The handler's error.
    fn respond(self) -> Result<O, Error>;
}

impl<R: IntoReply> Respond<Reply> for R {
    fn respond(self) -> Result<Reply, Error> {
        self.into_reply()
    }
}

/// The result of `on_connect` and `on_disconnect`: `()`, or a `Result` of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected;

impl Respond<Connected> for () {
    fn respond(self) -> Result<Connected, Error> {
        Ok(Connected)
    }
}

impl<E: Into<Error>> Respond<Connected> for Result<(), E> {
    fn respond(self) -> Result<Connected, Error> {
        self.map(|()| Connected).map_err(Into::into)
    }
}

/// The result of `authenticate`: a [`Session`], perhaps one (`Option`), `()` for a check alone, or a `Result` of these.
#[derive(Debug, Clone)]
pub struct Admit(pub(crate) Option<Arc<SessionValue>>);

impl<U: Serialize + Send + Sync + 'static> Respond<Admit> for Session<U> {
    fn respond(self) -> Result<Admit, Error> {
        Ok(Admit(Some(SessionValue::of(self)?)))
    }
}

impl<U: Serialize + Send + Sync + 'static> Respond<Admit> for Option<Session<U>> {
    fn respond(self) -> Result<Admit, Error> {
        Ok(Admit(self.map(SessionValue::of).transpose()?))
    }
}

impl Respond<Admit> for () {
    fn respond(self) -> Result<Admit, Error> {
        Ok(Admit(None))
    }
}

impl<A: Respond<Admit>, E: Into<Error>> Respond<Admit> for Result<A, E> {
    fn respond(self) -> Result<Admit, Error> {
        self.map_err(Into::into).and_then(A::respond)
    }
}
