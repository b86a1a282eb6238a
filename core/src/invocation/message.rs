//! A message from a gateway.

use std::sync::Arc;
use std::time::Instant;

use super::Invocation;
use super::line::Line;
use super::order::Lock;
use crate::channel::Channel;
use crate::conversation::Conversation;
use crate::endpoint::EndpointInner;
use crate::error::Error;
use crate::frame::FrameKind;
use crate::gateway::GatewayConnection;
use crate::inbound::Inbound;
use crate::outlet::Outlet;
use crate::policy::Ordering;
use crate::protocol::plain;
use crate::store::{Record, RecordPhase};

/// The content of a client's message.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Body<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Some gateways deliver text as bytes: an endpoint without `on_binary` takes UTF-8 bytes as text.
    fn as_meant(self, endpoint: &EndpointInner) -> Self {
        match self {
            Self::Bytes(bytes) if endpoint.binary.is_none() => str::from_utf8(bytes).map_or(self, Body::Text),
            Self::Bytes(_) | Self::Text(_) => self,
        }
    }
}

impl Invocation {
    /// Handles a text message of a connection and posts the reply. A connection without a channel is closed.
    ///
    /// # Errors
    /// The store's error: the message was not handled.
    pub async fn message(&self, at: &GatewayConnection, text: &str) -> Result<(), Error> {
        self.receive(at, Body::Text(text)).await
    }

    /// Does the same as [`message`](Self::message) for bytes and `on_binary`. An endpoint without it takes UTF-8 bytes
    /// as text.
    ///
    /// # Errors
    /// The store's error: the message was not handled.
    pub async fn bytes(&self, at: &GatewayConnection, bytes: &[u8]) -> Result<(), Error> {
        self.receive(at, Body::Bytes(bytes)).await
    }

    async fn receive(&self, at: &GatewayConnection, body: Body<'_>) -> Result<(), Error> {
        let handled = self.handle(at, body).await;
        self.settle().await;
        handled
    }

    async fn handle(&self, at: &GatewayConnection, body: Body<'_>) -> Result<(), Error> {
        let Some(record) = self.find(at).await? else {
            tracing::debug!("a message of a connection without a channel");
            self.hang_up(at).await;
            return Ok(());
        };
        if record.phase == RecordPhase::Opening && !self.post_held(&record.id, self.posts).await? {
            return Err(Error::unavailable("what on_connect has sent could not be posted yet"));
        }
        let Some(endpoint) = self.app.endpoint(&record.endpoint).cloned() else {
            return Err(Error::internal("the channel's endpoint is not one of this application"));
        };
        let body = body.as_meant(&endpoint);
        match &endpoint.ordering {
            Ordering::Concurrent => self.handle_now(at, record, body).await,
            Ordering::Serialized => {
                let ttl = endpoint.limits.handler + Lock::MARGIN;
                let Some(lock) = Lock::take(self.hub(), &record.id, ttl, self.posts).await? else {
                    return self.refuse(at, &record, &Error::timeout("earlier messages took too long")).await;
                };
                let handled = match self.find(at).await {
                    // The record after the previous message.
                    Ok(Some(record)) => self.handle_now(at, record, body).await,
                    Ok(None) => Ok(()),
                    Err(error) => Err(error.into()),
                };
                lock.release().await;
                handled
            }
            Ordering::Sequenced(member) => self.handle_in_sequence(at, &record, member, body).await,
        }
    }

    fn rehydrate(&self, record: Record) -> Result<(Channel, Arc<Line>), Error> {
        let line = Arc::new(Line::new(self.app.clone(), &record.endpoint, record.id.clone()));
        let channel = self.app.rehydrate_with(record, Arc::clone(&line) as Arc<dyn Outlet>);
        let unknown = || Error::internal("the channel's endpoint is not one of this application");
        Ok((channel.ok_or_else(unknown)?, line))
    }

    /// Runs the message's handler.
    pub(super) async fn handle_now(&self, at: &GatewayConnection, record: Record, body: Body<'_>) -> Result<(), Error> {
        let (channel, line) = self.rehydrate(record)?;
        let limit = channel.inner.endpoint.limits.message;
        let gateway = self.hub().gateways().gateway.as_ref();
        let inbound = match body {
            Body::Bytes(bytes) => Inbound::binary(bytes.to_vec()),
            Body::Text(text) => match gateway.and_then(|g| g.capabilities().open_envelope(text.as_bytes())) {
                Some(bytes) => Inbound::binary(bytes),
                None => Inbound::text(text.to_owned()),
            },
        };
        let mut conversation = Conversation::rehydrated(channel);
        conversation.limit(self.posts.saturating_duration_since(Instant::now()));
        if body.len() > limit {
            // A node would have stopped reading it at the limit.
            let close = crate::close::Close::too_big("the message is longer than this endpoint takes");
            self.converse(&mut conversation, &line, at, |conversation, cx| conversation.close(close, cx)).await;
            return Ok(());
        }
        let begin = |conversation: &mut Conversation, cx: &mut std::task::Context<'_>| {
            conversation.receive(inbound, Instant::now(), cx);
        };
        self.converse(&mut conversation, &line, at, begin).await;
        Ok(())
    }

    /// Answers a message with an error, without reading it.
    pub(super) async fn refuse(&self, at: &GatewayConnection, record: &Record, error: &Error) -> Result<(), Error> {
        let (_channel, line) = self.rehydrate(record.clone())?;
        plain::error(None, error, |parts| line.reply(FrameKind::Text, parts));
        line.end();
        line.pump(at, self.posts).await;
        Ok(())
    }
}
