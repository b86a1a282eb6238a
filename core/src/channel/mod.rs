//! A channel as handlers see it.

mod indexed;
mod session;
mod state;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;

use indexed::{Indexed, ToIndex};
pub use session::Session;
pub(crate) use session::SessionValue;
pub(crate) use session::unauthenticated;
pub use state::ChannelState;
pub(crate) use state::StateValue;

use crate::app::{App, OpeningData};
use crate::close::Close;
use crate::endpoint::EndpointInner;
use crate::error::Error;
use crate::event::{Event, EventKind, Payload, Position, Publisher};
use crate::frame::Frame;
use crate::gateway::GatewayConnection;
use crate::hub::{Memberships, Publish};
use crate::name::{ChannelId, Topic};
use crate::outlet::Outlet;
use crate::store::{Change, Fence, Patch, PresenceEntry, Record, Versioned, Written};

/// One client's conversation with an endpoint. Clones are the same channel.
///
/// A handler may keep a clone after it has ended, even after the channel has ended. Sends then reach no client, changes
/// of the channel answer `conflict`, and publishing still works.
#[derive(Clone)]
pub struct Channel {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) app: App,
    pub(crate) endpoint: Arc<EndpointInner>,
    pub(crate) id: ChannelId,
    pub(crate) generation: AtomicU64,
    pub(crate) opening: Arc<OpeningData>,
    pub(crate) outlet: Arc<dyn Outlet>,
    /// The connection, if it is at a gateway. Memory then holds only the data of one invocation; the store holds the
    /// rest.
    pub(crate) at: Option<Box<GatewayConnection>>,
    pub(crate) live: Mutex<Live>,
    /// Held while a subscription changes, so that memory and store agree in the end.
    pub(crate) joining: tokio::sync::Mutex<()>,
    /// The number of the node's lease under which the channel was last connected or attached.
    pub(crate) lease: AtomicU64,
    /// The store lost the node's lease before it ran out: no other node can have ended the channel.
    pub(crate) forgotten: AtomicBool,
    /// The channel has no record any more, and waits for its close.
    pub(crate) stray: AtomicBool,
    /// This node has begun to end the channel.
    pub(crate) ending: AtomicBool,
    close_asked: AtomicBool,
    /// Counts the handlers of this connection.
    turn: AtomicU32,
}

/// Handlers of different invocations have different numbers.
static TURNS: AtomicU32 = AtomicU32::new(0);

/// The mutable part of a channel.
#[derive(Default)]
pub(crate) struct Live {
    session_version: u64,
    session: Option<Arc<SessionValue>>,
    state: StateValue,
    pub(crate) topics: Memberships,
    /// Topics that the channel has left while the store may still list it: the store is asked again.
    unswept: Box<[Topic]>,
    indexed: Indexed,
    close: Option<Box<CloseAsked>>,
    /// The channel can join no more topics.
    pub(crate) left: bool,
}

impl Live {
    fn next_to_index(&mut self) -> Option<ToIndex> {
        self.indexed.next(self.session.as_ref().map(|session| session.user()))
    }

    pub(crate) fn is_unswept(&self, topic: &Topic) -> bool {
        self.unswept.contains(topic)
    }

    pub(crate) fn add_unswept(&mut self, topic: &Topic) {
        if !self.is_unswept(topic) {
            let mut unswept = std::mem::take(&mut self.unswept).into_vec();
            unswept.reserve_exact(1);
            unswept.push(topic.clone());
            self.unswept = unswept.into();
        }
    }

    /// The store has removed the membership, or the channel has joined the topic again.
    pub(crate) fn remove_unswept(&mut self, topic: &Topic) {
        let mut unswept = std::mem::take(&mut self.unswept).into_vec();
        unswept.retain(|unswept| unswept != topic);
        self.unswept = unswept.into();
    }

    /// Refuses all further joins, and returns the memberships so far.
    pub(crate) fn leave(&mut self) -> Memberships {
        self.left = true;
        self.unswept = Box::default();
        std::mem::take(&mut self.topics)
    }
}

/// The source of our own `conflict` errors, to tell them from the application's.
#[derive(Debug, thiserror::Error)]
#[error("the store has no record of the channel at this connection")]
struct Gone;

/// The error of an operation on a channel without a record, or with a record of another connection.
pub(crate) fn gone() -> Error {
    Error::conflict("the channel has ended or is connected elsewhere").because(Gone)
}

/// Whether an error says that the client should connect again, as the channel's record is gone.
pub(crate) fn is_gone(error: &Error) -> bool {
    error.source().is_some_and(|source| source.is::<Gone>())
}

/// A close that the driver has yet to carry out.
#[derive(Debug)]
pub(crate) struct CloseAsked {
    pub(crate) close: Close,
    /// The channel goes on elsewhere, or in another generation.
    pub(crate) displaced: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.at.is_none() {
            self.app.hub().is_done_with(&self.id);
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Channel {
    pub(crate) fn new(
        app: App,
        endpoint: Arc<EndpointInner>,
        record: Record,
        opening: Arc<OpeningData>,
        session: Option<Arc<SessionValue>>,
        outlet: Arc<dyn Outlet>,
    ) -> Self {
        let at = GatewayConnection::of(&record.location).map(Box::new);
        // A start number that no other invocation of this process has.
        let turn = if at.is_some() { TURNS.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let live = Live {
            session_version: record.session.version,
            session: session.or_else(|| record.session.value.map(SessionValue::stored)),
            state: StateValue::stored(record.state),
            ..Live::default()
        };
        Self {
            inner: Arc::new(Inner {
                app,
                endpoint,
                id: record.id,
                generation: AtomicU64::new(record.generation),
                opening,
                outlet,
                at,
                live: Mutex::new(live),
                joining: tokio::sync::Mutex::const_new(()),
                lease: AtomicU64::new(u64::MAX),
                forgotten: AtomicBool::new(false),
                stray: AtomicBool::new(false),
                ending: AtomicBool::new(false),
                close_asked: AtomicBool::new(false),
                turn: AtomicU32::new(turn),
            }),
        }
    }

    /// The channel's id.
    #[must_use]
    pub fn id(&self) -> &ChannelId {
        &self.inner.id
    }

    /// The name of its endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.inner.endpoint.name
    }

    /// A parameter of the path, decoded: `room` of `/rooms/{room}`.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<String> {
        self.inner.opening.param(name)
    }

    /// Whether its connection is at a gateway.
    pub(crate) fn is_at_gateway(&self) -> bool {
        self.inner.at.is_some()
    }

    /// The next handler begins.
    pub(crate) fn handler_begins(&self) {
        // 0 says that no handler runs.
        let turn = self.inner.turn.load(Ordering::Relaxed).wrapping_add(1).max(1);
        self.inner.turn.store(turn, Ordering::Release);
        self.inner.outlet.handler_begins(turn);
    }

    /// Whether no handler may start: the node is not sure of its lease, or the channel has no record any more.
    pub(crate) fn is_suspended(&self, now: Instant) -> bool {
        // A channel at a gateway depends on no lease.
        !self.is_at_gateway() && (!self.app().hub().is_sure_at(now) || self.inner.stray.load(Ordering::Acquire))
    }

    pub(crate) fn app(&self) -> &App {
        &self.inner.app
    }

    pub(crate) fn is_subscribed(&self) -> bool {
        self.inner.live.lock().topics.len() > 0
    }

    pub(crate) fn opening(&self) -> &OpeningData {
        &self.inner.opening
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence { id: self.inner.id.clone(), generation: self.inner.generation.load(Ordering::Acquire) }
    }

    /// Sends a message to the client.
    ///
    /// # Errors
    /// On a node none: a client that has gone gets nothing. At a gateway the store's error, if the message must wait
    /// there.
    #[allow(clippy::unused_async)] // a resumable protocol gives direct sends their place in the inbox first
    pub async fn send(&self, payload: &Payload) -> Result<(), Error> {
        self.inner.outlet.send(&Frame::of(payload));
        Ok(())
    }

    /// Sends a value as JSON.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send), and a value that cannot be serialised.
    pub async fn send_json<T: Serialize + ?Sized + Sync>(&self, value: &T) -> Result<(), Error> {
        self.send(&Payload::json(value)?).await
    }

    /// Closes the channel. The sends and the reply of this handler still go out if it ends at once, then the close
    /// frame. No other message is handled. A second close changes nothing.
    pub fn close(&self, close: Close) {
        self.ask_close(close, false);
    }

    /// Drops the connection without ending the channel, which goes on elsewhere.
    pub(crate) fn displace(&self) {
        self.ask_close(Close::restart("connected elsewhere"), true);
    }

    fn ask_close(&self, close: Close, displaced: bool) {
        let mut live = self.inner.live.lock();
        if live.close.is_none() {
            live.close = Some(Box::new(CloseAsked { close, displaced }));
            self.inner.close_asked.store(true, Ordering::Release);
            drop(live);
            self.inner.outlet.wake();
        }
    }

    /// Whether a close was requested and the driver has not taken it yet.
    pub(crate) fn is_close_asked(&self) -> bool {
        self.inner.close_asked.load(Ordering::Acquire)
    }

    pub(crate) fn take_close(&self) -> Option<CloseAsked> {
        if !self.is_close_asked() {
            return None;
        }
        let mut live = self.inner.live.lock();
        self.inner.close_asked.store(false, Ordering::Release);
        live.close.take().map(|asked| *asked)
    }

    /// Subscribes the channel: every event that is published after this has returned reaches it.
    ///
    /// The handler decides whether a client may subscribe. If the client chose the topic, check [`Topic::is_reserved`]
    /// first.
    ///
    /// # Errors
    /// `conflict` if the channel has ended; the store's error, and then the channel is not subscribed.
    pub async fn subscribe(&self, topic: &Topic) -> Result<(), Error> {
        self.app().hub().join(self, topic, None).await
    }

    /// Subscribes as [`subscribe`](Self::subscribe) does, and shows the channel in the topic's presence, with `data`.
    ///
    /// # Errors
    /// The errors of [`subscribe`](Self::subscribe), and data that cannot be serialised.
    pub async fn subscribe_present<T: Serialize + Sync>(&self, topic: &Topic, data: Option<&T>) -> Result<(), Error> {
        let data = data.map(serde_json::to_vec).transpose()?.map(Into::into);
        let user = self.session_value().map(|session| session.user().clone());
        self.app().hub().join(self, topic, Some(PresenceEntry { user, data })).await
    }

    /// Ends a subscription; `false` if there was none.
    ///
    /// # Errors
    /// The store's error; the channel no longer gets the topic's events all the same.
    pub async fn unsubscribe(&self, topic: &Topic) -> Result<bool, Error> {
        self.app().hub().leave(self, topic).await
    }

    /// Publishes on a topic, to every subscriber. A channel that is subscribed itself gets the event after the reply to
    /// the message that is being handled.
    ///
    /// # Errors
    /// The store's error. Nothing was delivered then, unless only the store's answer was lost.
    pub async fn publish(&self, topic: &Topic, payload: Payload) -> Result<Position, Error> {
        self.publish_event(topic, payload, None).await
    }

    /// Publishes on a topic, to every subscriber but this channel.
    ///
    /// # Errors
    /// The errors of [`publish`](Self::publish).
    pub async fn publish_to_others(&self, topic: &Topic, payload: Payload) -> Result<Position, Error> {
        self.publish_event(topic, payload, Some(self.inner.id.clone())).await
    }

    async fn publish_event(
        &self,
        topic: &Topic,
        payload: Payload,
        exclude: Option<ChannelId>,
    ) -> Result<Position, Error> {
        let turn = self.inner.turn.load(Ordering::Acquire);
        let publisher = Some(Publisher { channel: self.inner.id.clone(), turn });
        let event = Event { kind: EventKind::Message, payload, publisher, exclude };
        let published = self.app().hub().publish(Publish::event(topic.clone(), event)).await?;
        Ok(published.position)
    }

    pub(crate) fn session_value(&self) -> Option<Arc<SessionValue>> {
        self.inner.live.lock().session.clone()
    }

    /// Sets the client's session; the next message sees it, in every deployment.
    ///
    /// # Errors
    /// `conflict` if the channel has ended or another handler's change came first; the store's error.
    pub async fn login<U: Serialize + Send + Sync + 'static>(&self, session: Session<U>) -> Result<(), Error> {
        self.set_session(Some(SessionValue::of(session)?)).await
    }

    /// Forgets the client's session, at once.
    ///
    /// # Errors
    /// The errors of [`login`](Self::login).
    pub async fn logout(&self) -> Result<(), Error> {
        self.set_session(None).await
    }

    async fn set_session(&self, session: Option<Arc<SessionValue>>) -> Result<(), Error> {
        if self.is_at_gateway() {
            // Other invocations may have changed it.
            let indexed = self.app().hub().indexed_users(self).await?;
            self.inner.live.lock().indexed = indexed.into_iter().map(|user| (user, true)).collect();
        }
        loop {
            let expected = {
                let mut live = self.inner.live.lock();
                if session.is_none() {
                    // A logout holds here even if the write to the store fails.
                    live.session = None;
                }
                live.session_version
            };
            let value = session.as_ref().map(|session| session.to_stored());
            let patch = Patch { session: Some(Change { expected, value }), ..Patch::default() };
            if self.write(patch).await? {
                let mut live = self.inner.live.lock();
                if live.session_version <= expected {
                    live.session_version = expected + 1;
                    live.session = session;
                }
                break;
            }
            if session.is_some() {
                return Err(Error::conflict("the session was changed by another handler meanwhile, try again"));
            }
            // A logout wins over every earlier change: try again.
        }
        self.index_user().await?;
        self.app().hub().show_user(self).await
    }

    /// Updates the index of users' channels to match the session, and retries earlier updates that failed.
    pub(crate) async fn index_user(&self) -> Result<(), Error> {
        loop {
            let next = self.inner.live.lock().next_to_index();
            match next {
                None => return Ok(()),
                Some(ToIndex::Add(user)) => {
                    self.app().hub().index_user(self, &user).await?;
                    self.inner.live.lock().indexed.added(&user);
                }
                Some(ToIndex::Remove(user)) => {
                    self.app().hub().unindex_user(self, &user).await?;
                    self.inner.live.lock().indexed.removed(&user);
                }
            }
        }
    }

    /// Writes to the record; `false` after a conflict, when memory was brought up to date.
    pub(crate) async fn write(&self, patch: Patch) -> Result<bool, Error> {
        match self.app().store().write(&self.fence(), patch).await? {
            Written::Done => Ok(true),
            Written::Conflict(record) => {
                self.refresh(*record);
                Ok(false)
            }
            Written::Stale => {
                self.app().hub().doubt(self).await;
                Err(gone())
            }
        }
    }

    fn refresh(&self, record: Record) {
        let mut live = self.inner.live.lock();
        if record.state.version > live.state.version() {
            live.state = StateValue::stored(record.state);
        }
        let Versioned { version, value } = record.session;
        if version > live.session_version {
            live.session_version = version;
            live.session = value.map(SessionValue::stored);
        }
    }
}
