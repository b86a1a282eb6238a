use std::any::TypeId;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::context::{Context, MessageContext};
use crate::error::Error;
use crate::hub::EventHub;
use crate::inbound::Received;

/// A state that the application must provide for an argument; `App::build` checks it.
#[derive(Debug, Clone, Copy)]
pub struct Requirement {
    pub(crate) state: TypeId,
    pub(crate) name: &'static str,
}

/// An argument of a handler that runs with the context `C`. The context's type limits the arguments: before
/// authentication there is no `Channel`, for example.
///
/// Extraction is synchronous; asynchronous work belongs into a layer or the handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler of `{C}`",
    note = "does it exist at that time? there is no channel in `authenticate`, no message in `on_connect`"
)]
pub trait Extract<C>: Sized {
    /// Takes the argument out of the context.
    ///
    /// # Errors
    /// The error for the client; the handler does not run.
    fn extract(context: &mut C) -> Result<Self, Error>;

    /// The state that the application must provide for it.
    #[must_use]
    fn requirement() -> Option<Requirement> {
        None
    }
}

/// A value of the application, as it was given to `AppBuilder::state`; cloned for each handler.
#[derive(Debug, Clone, Copy)]
pub struct State<T>(pub T);

impl<C: Context, T: Clone + Send + Sync + 'static> Extract<C> for State<T> {
    fn extract(context: &mut C) -> Result<Self, Error> {
        // `App::build` refuses applications in which it is missing.
        context
            .app()
            .state::<T>()
            .cloned()
            .map(Self)
            .ok_or_else(|| Error::internal(format!("no state of type {} was given", std::any::type_name::<T>())))
    }

    fn requirement() -> Option<Requirement> {
        Some(Requirement { state: TypeId::of::<T>(), name: std::any::type_name::<T>() })
    }
}

impl<C: Context> Extract<C> for EventHub {
    fn extract(context: &mut C) -> Result<Self, Error> {
        Ok(context.app().hub().clone())
    }
}

/// Path parameters and query of the handshake, as a `T`.
///
/// The handshake reads the type of `Endpoint::opening`, and answers mistakes with 422.
#[derive(Debug, Clone)]
pub struct Opening<T>(pub Arc<T>);

impl<T> Deref for Opening<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<C: Context, T: DeserializeOwned + Send + Sync + 'static> Extract<C> for Opening<T> {
    fn extract(context: &mut C) -> Result<Self, Error> {
        context.opening().read().map(Self)
    }
}

/// JSON: as an argument the message, as a result the reply.
///
/// Input that does not fit `T` is answered with `invalid`, and the channel stays open. `Json<Box<RawValue>>` takes any
/// JSON unchanged, with numbers as they were written.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

fn json<T: DeserializeOwned>(context: &MessageContext) -> Result<T, Error> {
    match &context.payload {
        Received::Text(text) => serde_json::from_str(text).map_err(|error| unreadable::<T>(text, &error)),
        Received::Binary(_) => Err(Error::invalid("this takes JSON text, not bytes")),
    }
}

/// Reads bad input once more, for the name of the field: tracking it costs more than reading.
#[cold]
fn unreadable<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Error {
    match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text)) {
        // Text after the value belongs to no field.
        Ok(_) => Error::invalid(error.to_string()),
        Err(error) => Error::unreadable(&error),
    }
}

impl<T: DeserializeOwned> Extract<MessageContext> for Json<T> {
    fn extract(context: &mut MessageContext) -> Result<Self, Error> {
        json(context).map(Self)
    }
}

/// Input with its own validation rules.
pub trait Validate {
    /// Checks the rules.
    ///
    /// # Errors
    /// The error for the client, for example [`Error::invalid`] with details.
    fn validate(&self) -> Result<(), Error>;
}

/// JSON input that was validated before the handler runs.
#[derive(Debug, Clone, Copy)]
pub struct Valid<T>(pub T);

impl<T: DeserializeOwned + Validate> Extract<MessageContext> for Valid<T> {
    fn extract(context: &mut MessageContext) -> Result<Self, Error> {
        let input: T = json(context)?;
        input.validate()?;
        Ok(Self(input))
    }
}

/// The message's text; on a route, the JSON object without its key.
impl Extract<MessageContext> for String {
    fn extract(context: &mut MessageContext) -> Result<Self, Error> {
        match &context.payload {
            Received::Text(text) => Ok(text.clone()),
            Received::Binary(bytes) => {
                Self::from_utf8(bytes.to_vec()).map_err(|_| Error::invalid("this takes text, not bytes"))
            }
        }
    }
}

/// The message's bytes.
impl Extract<MessageContext> for Bytes {
    fn extract(context: &mut MessageContext) -> Result<Self, Error> {
        Ok(match &context.payload {
            Received::Text(text) => Self::copy_from_slice(text.as_bytes()),
            Received::Binary(bytes) => bytes.clone(),
        })
    }
}
