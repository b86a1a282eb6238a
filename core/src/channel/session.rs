use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::handler::{Extract, HasChannel};
use crate::name::{InvalidName, Topic, UserId};
use crate::store::StoredSession;

/// The client's identity: a user and the application's value.
///
/// As an argument of a handler it is the session at the handler's start. A client without one gets the error
/// `unauthenticated`, unless the argument is an `Option<Session<U>>`.
pub struct Session<U> {
    user: UserId,
    value: Arc<U>,
}

impl<U> Session<U> {
    /// A session of a user.
    ///
    /// # Errors
    /// A user id that is not a name, or too long to name the topic that lists the user's channels: 249 bytes fit.
    pub fn new(user: impl AsRef<str>, value: U) -> Result<Self, InvalidName> {
        let user = UserId::new(user)?;
        Topic::of_user(&user)?;
        Ok(Self { user, value: Arc::new(value) })
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }
}

impl<U> Deref for Session<U> {
    type Target = U;

    fn deref(&self) -> &U {
        &self.value
    }
}

impl<U> Clone for Session<U> {
    fn clone(&self) -> Self {
        Self { user: self.user.clone(), value: Arc::clone(&self.value) }
    }
}

impl<U> fmt::Debug for Session<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither user nor value belong into a log line.
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl<C: HasChannel, U: DeserializeOwned + Send + Sync + 'static> Extract<C> for Session<U> {
    fn extract(context: &mut C) -> Result<Self, Error> {
        let value = context.channel().session_value();
        value.ok_or_else(unauthenticated)?.typed()
    }
}

impl<C: HasChannel, U: DeserializeOwned + Send + Sync + 'static> Extract<C> for Option<Session<U>> {
    fn extract(context: &mut C) -> Result<Self, Error> {
        context.channel().session_value().map(|value| value.typed()).transpose()
    }
}

pub(crate) fn unauthenticated() -> Error {
    Error::unauthenticated("log in first")
}

/// A session without its type: the stored bytes, and the typed value after its first use.
pub(crate) struct SessionValue {
    stored: StoredSession,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for SessionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionValue").finish_non_exhaustive()
    }
}

impl SessionValue {
    pub(crate) fn of<U: Serialize + Send + Sync + 'static>(session: Session<U>) -> Result<Arc<Self>, Error> {
        let value = serde_json::to_vec(&*session.value)?.into_boxed_slice().into();
        let typed = OnceLock::from(session.value as Arc<dyn Any + Send + Sync>);
        Ok(Arc::new(Self { stored: StoredSession { user: session.user, value }, typed }))
    }

    pub(crate) fn stored(stored: StoredSession) -> Arc<Self> {
        Arc::new(Self { stored, typed: OnceLock::new() })
    }

    pub(crate) fn to_stored(&self) -> StoredSession {
        self.stored.share()
    }

    pub(crate) fn user(&self) -> &UserId {
        &self.stored.user
    }

    /// The session as a `U`; it is decoded once, and again only for another type.
    pub(crate) fn typed<U: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Session<U>, Error> {
        let user = self.stored.user.clone();
        if let Some(value) = self.typed.get().and_then(|value| Arc::clone(value).downcast::<U>().ok()) {
            return Ok(Session { user, value });
        }
        let value: Arc<U> = Arc::new(serde_json::from_slice(&self.stored.value)?);
        let _ = self.typed.set(value.clone());
        Ok(Session { user, value })
    }
}
