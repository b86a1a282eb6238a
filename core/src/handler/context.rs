use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;

use super::extract::Extract;
use crate::app::{App, OpeningData};
use crate::channel::Channel;
use crate::endpoint::RouteId;
use crate::error::Error;
use crate::inbound::Received;

/// The data that every handler can use.
pub trait Context {
    /// The application.
    fn app(&self) -> &App;

    /// The client's request when it connected.
    fn opening(&self) -> &OpeningData;
}

/// A context with an open channel.
pub trait HasChannel: Context {
    /// The channel.
    fn channel(&self) -> &Channel;
}

/// The handshake, before the client is trusted: for `authenticate`.
#[derive(Debug)]
pub struct OpenContext {
    pub(crate) app: App,
    pub(crate) opening: Arc<OpeningData>,
    pub(crate) headers: Arc<HeaderMap>,
    pub(crate) peer: Option<SocketAddr>,
}

/// The channel has just been opened.
#[derive(Debug)]
pub struct ConnectContext {
    pub(crate) channel: Channel,
}

/// A message has arrived.
pub struct MessageContext {
    pub(crate) channel: Channel,
    pub(crate) route: RouteId,
    pub(crate) payload: Received,
}

impl fmt::Debug for MessageContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The payload does not belong into a log line.
        let mut debug = f.debug_struct("MessageContext");
        debug.field("channel", &self.channel).field("route", &self.route()).finish_non_exhaustive()
    }
}

impl MessageContext {
    /// The value of the routing key, if a route takes the message.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.channel.inner.endpoint.route(self.route).key.as_ref().map(|(key, _)| &**key)
    }

    /// The message's bytes; on a route, without the routing key.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// The reason why a channel has ended. Can be an argument of `on_disconnect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The client closed the connection.
    Client,
    /// The connection broke, or was silent for too long.
    Lost,
    /// The server closed it: a handler, a limit or a drain.
    Server,
    /// Its grace ended, or its node died.
    Expired,
}

/// The channel has ended.
#[derive(Debug)]
pub struct DisconnectContext {
    pub(crate) channel: Channel,
    pub(crate) reason: DisconnectReason,
}

impl Context for OpenContext {
    fn app(&self) -> &App {
        &self.app
    }

    fn opening(&self) -> &OpeningData {
        &self.opening
    }
}

macro_rules! with_channel {
    ($($context:ident),*) => {
        $(
            impl Context for $context {
                fn app(&self) -> &App {
                    self.channel.app()
                }

                fn opening(&self) -> &OpeningData {
                    self.channel.opening()
                }
            }

            impl HasChannel for $context {
                fn channel(&self) -> &Channel {
                    &self.channel
                }
            }
        )*
    };
}

with_channel!(ConnectContext, MessageContext, DisconnectContext);

/// The handshake's headers.
#[derive(Clone)]
pub struct Headers(pub Arc<HeaderMap>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Header values hold cookies and tokens.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Extract<OpenContext> for Headers {
    fn extract(context: &mut OpenContext) -> Result<Self, Error> {
        Ok(Self(Arc::clone(&context.headers)))
    }
}

/// The address of the connection's other end: the client, or the nearest proxy. `None` if it is unknown.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub Option<SocketAddr>);

impl Extract<OpenContext> for Peer {
    fn extract(context: &mut OpenContext) -> Result<Self, Error> {
        Ok(Self(context.peer))
    }
}

impl Extract<DisconnectContext> for DisconnectReason {
    fn extract(context: &mut DisconnectContext) -> Result<Self, Error> {
        Ok(context.reason)
    }
}

impl<C: HasChannel> Extract<C> for Channel {
    fn extract(context: &mut C) -> Result<Self, Error> {
        Ok(context.channel().clone())
    }
}
