//! A handshake at a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::drive::{Ended, drive};
use super::line::Line;
use super::order::Lock;
use super::{Invocation, held};
use crate::app::{Refusal, path_in_query};
use crate::channel::Channel;
use crate::conversation::Conversation;
use crate::error::Error;
use crate::gateway::GatewayConnection;
use crate::hub::ending;
use crate::name::ChannelId;
use crate::outlet::Outlet;
use crate::policy::Transport;
use crate::store::{Patch, Record, RecordPhase};

/// A client that asks to connect.
#[derive(Debug)]
pub struct Handshake<'a> {
    /// The gateway's name for the new connection.
    pub connection: GatewayConnection,
    /// The path; `/` if the gateway has no paths, and then the query gives it.
    pub path: &'a str,
    /// The query, encoded.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: HeaderMap,
    /// The client's address.
    pub peer: Option<SocketAddr>,
    /// Whether the request came over TLS.
    pub transport: Transport,
}

/// A client that may connect.
#[derive(Debug)]
pub struct Handshaken {
    /// The agreed subprotocol.
    pub subprotocol: Option<HeaderValue>,
    /// The channel, if `on_connect` has sent messages: call [`Invocation::connected`] once the answer was handed over.
    pub held: Option<ChannelId>,
}

impl Invocation {
    /// Authenticates, opens the channel and runs `on_connect`. A repeated request for the same connection does not run
    /// steps again that have succeeded.
    ///
    /// # Errors
    /// The HTTP status for the refused handshake: as on a node, or the status of `on_connect`'s error.
    pub async fn connect(&self, handshake: Handshake<'_>) -> Result<Handshaken, Refusal> {
        let Handshake { connection, path, query, headers, peer, transport } = handshake;
        let (path, query) = path_in_query(path, query)?;
        let accepted = self.app.accept(&path, Some(&query), &headers, transport)?;
        let subprotocol = accepted.subprotocol().cloned();
        let admitted = accepted.authenticate(headers, peer).await?;
        let mut line = None;
        let make = |record: &Record| {
            let made = Arc::new(Line::new(self.app.clone(), &record.endpoint, record.id.clone()));
            line = Some(Arc::clone(&made));
            made as Arc<dyn Outlet>
        };
        let (channel, record, created) = admitted.open_at(&connection.location(), self.posts, make).await?;
        let Some(line) = line else { return Err(Refusal::unavailable("the channel could not be opened")) };
        let result = match (record.phase, created) {
            (RecordPhase::Opening, true) => self.run_on_connect(channel, &line).await,
            (RecordPhase::Opening, false) => self.run_on_connect_once(channel, &line).await,
            (RecordPhase::Open | RecordPhase::Detached { .. }, _) => Ok(None),
            (RecordPhase::Dead, _) => Err(Refusal::new(StatusCode::FORBIDDEN, "the channel has ended")),
        };
        line.replied();
        self.settle().await;
        result.map(|held| Handshaken { subprotocol, held })
    }

    /// Runs `on_connect` unless an earlier try runs it or has run it.
    async fn run_on_connect_once(&self, channel: Channel, line: &Line) -> Result<Option<ChannelId>, Refusal> {
        let id = channel.id().clone();
        let refused = |error: Error| Refusal::of_error(self.hub(), &error);
        if held::is_held(self.hub(), &id).await.map_err(refused)? {
            // The invocation that posts the messages holds the lock until the connection is established.
            return Ok(Some(id));
        }
        let busy = || Refusal::unavailable("the connection is being made by another try");
        let ttl = Lock::ttl(&channel);
        let lock = Lock::take(self.hub(), &id, ttl, self.posts).await.map_err(refused)?.ok_or_else(busy)?;
        let record = self.hub().store().get(&id).await.map_err(|error| refused(error.into()));
        let result = match record {
            Err(refusal) => Err(refusal),
            Ok(Some(record)) if record.phase == RecordPhase::Open => Ok(None),
            Ok(Some(record)) if record.phase == RecordPhase::Opening => {
                match held::is_held(self.hub(), &id).await.map_err(refused) {
                    Ok(true) => Ok(Some(id)),
                    Ok(false) => self.run_locked(channel, line, false).await,
                    Err(refusal) => Err(refusal),
                }
            }
            Ok(_) => Err(Refusal::new(StatusCode::FORBIDDEN, "the channel has ended")),
        };
        lock.release().await;
        result
    }

    async fn run_on_connect(&self, channel: Channel, line: &Line) -> Result<Option<ChannelId>, Refusal> {
        let ttl = Lock::ttl(&channel);
        let taken = Lock::take(self.hub(), channel.id(), ttl, self.posts).await;
        let lock = taken.map_err(|error| Refusal::of_error(self.hub(), &error))?;
        let lock = lock.ok_or_else(|| Refusal::unavailable("the connection is being made by another try"))?;
        let result = self.run_locked(channel, line, true).await;
        lock.release().await;
        result
    }

    async fn run_locked(&self, channel: Channel, line: &Line, created: bool) -> Result<Option<ChannelId>, Refusal> {
        let hub = self.hub();
        if let Err(error) = hub.list_at_gateway(&channel).await {
            if created {
                // No client knows of the channel, and the janitor would not find it.
                ending::undo_now(hub, &channel, self.posts).await;
            }
            return Err(Refusal::of_error(self.hub(), &error));
        }
        let id = channel.id().clone();
        let opening =
            channel.inner.at.as_deref().cloned().map(|at| hub.gateways().opens(at, Arc::clone(&channel.inner.outlet)));
        let mut conversation = Conversation::new(channel.clone());
        conversation.limit(self.posts.saturating_duration_since(Instant::now()));
        match drive(&mut conversation, line, |conversation, cx| conversation.opened(cx)).await {
            Ended::Idle => {}
            Ended::Done => return Err(Refusal::new(StatusCode::FORBIDDEN, "the channel has ended")),
            Ended::Close(close) => {
                let refusal = match conversation.take_refusal() {
                    Some(error) => Refusal::of_error(self.hub(), &error),
                    // There is no connection yet that could be closed.
                    None => Refusal::new(StatusCode::FORBIDDEN, close.reason().to_owned()),
                };
                drive(&mut conversation, line, |conversation, cx| conversation.peer_closed(cx)).await;
                return Err(refusal);
            }
        }
        // The channel gets its own handler's events, too, if it has subscribed.
        line.replied();
        self.settle().await;
        drop(opening);
        let sent = line.take();
        let kept = async {
            if sent.is_empty() {
                channel.write(Patch { opened: true, ..Patch::default() }).await?;
                return Ok(None);
            }
            held::hold(hub, &id, &sent).await?;
            Ok(Some(id))
        };
        match kept.await {
            Ok(held) => Ok(held),
            Err(error) => {
                drive(&mut conversation, line, |conversation, cx| conversation.lost(cx)).await;
                Err(Refusal::of_error(self.hub(), &error))
            }
        }
    }
}
