use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Channel;
use crate::error::Error;
use crate::event::to_bytes;
use crate::handler::{Extract, HasChannel};
use crate::store::{Change, Patch, Versioned};

/// Attempts at an update when other updates come first.
const ATTEMPTS: usize = 16;

/// The state of one channel, kept in the store and removed with the channel. A channel without a stored state has
/// `T::default()`.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use strait_core::{ChannelState, Error, Json};
///
/// #[derive(Default, Clone, Serialize, Deserialize)]
/// struct Seen {
///     messages: u64,
/// }
///
/// async fn count(state: ChannelState<Seen>) -> Result<Json<u64>, Error> {
///     let count = state.update(|seen| {
///         seen.messages += 1;
///         seen.messages
///     });
///     Ok(Json(count.await?))
/// }
/// ```
pub struct ChannelState<T> {
    channel: Channel,
    kind: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for ChannelState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelState").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl<C: HasChannel, T> Extract<C> for ChannelState<T> {
    fn extract(context: &mut C) -> Result<Self, Error> {
        Ok(Self { channel: context.channel().clone(), kind: PhantomData })
    }
}

/// A channel's state in memory: the stored bytes, and the typed value after its first use. A channel without a state
/// pays one word for it.
#[derive(Default)]
pub(crate) struct StateValue(Option<Box<Held>>);

#[derive(Default)]
struct Held {
    version: u64,
    bytes: Option<Bytes>,
    typed: Option<Arc<dyn Any + Send + Sync>>,
}

impl StateValue {
    pub(crate) fn stored(Versioned { version, value: bytes }: Versioned<Bytes>) -> Self {
        // Version 0 has no value.
        Self((version > 0).then(|| Box::new(Held { version, bytes, typed: None })))
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.as_ref().map_or(0, |held| held.version)
    }

    fn typed<T: Default + DeserializeOwned + Send + Sync + 'static>(&mut self) -> Result<Arc<T>, Error> {
        let held = self.0.get_or_insert_default();
        if let Some(value) = held.typed.as_ref().and_then(|value| Arc::clone(value).downcast::<T>().ok()) {
            return Ok(value);
        }
        let value: Arc<T> = match &held.bytes {
            Some(bytes) => Arc::new(serde_json::from_slice(bytes)?),
            None => Arc::default(),
        };
        held.typed = Some(value.clone());
        Ok(value)
    }
}

impl<T> ChannelState<T>
where
    T: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The state as it is now.
    ///
    /// # Errors
    /// `internal` for a stored state that is no `T`.
    pub fn get(&self) -> Result<Arc<T>, Error> {
        self.channel.inner.live.lock().state.typed::<T>()
    }

    /// Changes the state by compare-and-set. `change` gets the newest state, and runs again if another update came
    /// first, so its only effect must be on its argument.
    ///
    /// # Errors
    /// `conflict` if the channel has moved on or ended, or other updates kept coming first; the store's error.
    pub async fn update<R>(&self, mut change: impl FnMut(&mut T) -> R) -> Result<R, Error> {
        for _ in 0..ATTEMPTS {
            let (expected, current) = {
                let mut live = self.channel.inner.live.lock();
                (live.state.version(), live.state.typed::<T>()?)
            };
            let mut next = T::clone(&current);
            let result = change(&mut next);
            let bytes = to_bytes(&next)?;
            let patch = Patch { state: Some(Change { expected, value: Some(bytes.clone()) }), ..Patch::default() };
            if self.channel.write(patch).await? {
                let mut live = self.channel.inner.live.lock();
                if live.state.version() <= expected {
                    let held = Held { version: expected + 1, bytes: Some(bytes), typed: Some(Arc::new(next)) };
                    live.state = StateValue(Some(Box::new(held)));
                }
                return Ok(result);
            }
        }
        Err(Error::conflict("the state was changed by others all the time, try again"))
    }
}
