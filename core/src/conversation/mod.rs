//! Drives one channel's machine: runs its handlers, writes their replies. An adapter brings what arrives and carries
//! out the close.

mod rate;
mod run;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use tracing::Span;

use crate::channel::{Channel, unauthenticated};
use crate::close::Close;
use crate::endpoint::RouteInner;
use crate::error::Error;
use crate::frame::FrameKind;
use crate::handler::{ConnectContext, DisconnectReason, MessageContext, Reply};
use crate::hub::ending;
use crate::machine::{Effect, Effects, Event, Machine, Step, Weigh};
use crate::protocol::plain::{self, Request};
use crate::store::Patch;
use rate::{Bucket, Taken};
pub(crate) use run::guarded;
use run::{Ended, Route, Run, Task, Work, call};

/// A message as it arrived.
#[derive(Debug)]
pub struct Inbound {
    payload: BytesMut,
    binary: bool,
    limited: bool,
}

impl Inbound {
    /// Text, which the adapter has checked to be UTF-8.
    #[must_use]
    pub fn text(payload: BytesMut) -> Self {
        Self { payload, binary: false, limited: false }
    }

    /// Bytes.
    #[must_use]
    pub fn binary(payload: BytesMut) -> Self {
        Self { payload, binary: true, limited: false }
    }
}

impl Weigh for Inbound {
    fn weight(&self) -> usize {
        self.payload.len()
    }
}

/// What the adapter has to carry out.
#[derive(Debug, PartialEq, Eq)]
pub enum Driven {
    /// Send what is queued and a close frame, and end the connection.
    Close(Close),
    /// The channel has come to its end, or lives elsewhere: drop the conversation.
    Done,
}

/// One channel's conversation on this node.
pub struct Conversation {
    channel: Channel,
    machine: Machine<Inbound>,
    run: Option<Box<Run>>,
    bucket: Bucket,
    span: Span,
    close: Option<Box<Close>>,
    /// Why the connection ended, once it has.
    reason: Option<DisconnectReason>,
    opened: bool,
    suspended: bool,
    displaced: bool,
    done: bool,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Conversation {
    pub(crate) fn new(channel: Channel) -> Self {
        let bucket = Bucket::new(channel.inner.endpoint.limits.rate.as_ref());
        let span = tracing::debug_span!(parent: None, "channel", id = %channel.id(), endpoint = channel.endpoint());
        Self {
            channel,
            // The plain protocol cannot resume.
            machine: Machine::new(false),
            run: None,
            bucket,
            span,
            close: None,
            reason: None,
            opened: false,
            suspended: false,
            displaced: false,
            done: false,
        }
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether messages are to be read.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.opened && self.machine.reads()
    }

    /// Whether what arrives now waits for a handler.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.machine.is_running()
    }

    /// The handshake was answered: `on_connect` runs.
    pub fn opened(&mut self, cx: &mut Context<'_>) {
        self.opened = true;
        self.channel.app().hub().register(&self.channel);
        self.channel.inner.endpoint.counters.opened.increment(1);
        self.handle(Event::Opened, cx);
    }

    /// A message has arrived.
    pub fn receive(&mut self, mut message: Inbound, now: Instant, cx: &mut Context<'_>) {
        let endpoint = &self.channel.inner.endpoint;
        endpoint.counters.messages.increment(1);
        if let Some(limit) = &endpoint.limits.rate {
            match self.bucket.take(limit, now) {
                Taken::Yes => {}
                Taken::No => {
                    endpoint.counters.limited.increment(1);
                    message.limited = true;
                }
                Taken::Flooding => return self.close(Close::policy("flooding"), cx),
            }
        }
        // The handlers of the messages before it may have taken their time.
        self.look_at_the_lease(Instant::now(), cx);
        let mut effects = Effects::new();
        let now = self.machine.offer(message, self.channel.inner.endpoint.limits.backlog, &mut effects);
        let step = now.map(Step::Message).or_else(|| self.carry_out(effects));
        self.go(step, cx);
    }

    /// The peer has closed the connection.
    pub fn peer_closed(&mut self, cx: &mut Context<'_>) {
        self.reason.get_or_insert(DisconnectReason::Client);
        self.handle(Event::PeerClosed { leaves: true }, cx);
    }

    /// The connection is gone, or nothing comes from it any more.
    pub fn lost(&mut self, cx: &mut Context<'_>) {
        self.reason.get_or_insert(DisconnectReason::Lost);
        self.handle(Event::Lost, cx);
    }

    /// Undoes what the handshake stored: instead of [`opened`](Self::opened), if its answer never reached the client.
    pub async fn abandon(mut self) {
        poll_fn(|cx| {
            self.lost(cx);
            Poll::Ready(())
        })
        .await;
        while poll_fn(|cx| self.poll(cx)).await != Driven::Done {}
    }

    /// Nothing has come from the peer for too long: it is closed, and counts as lost.
    pub fn silent(&mut self, cx: &mut Context<'_>) {
        self.reason.get_or_insert(DisconnectReason::Lost);
        self.close(Close::going_away("nothing came from you for too long"), cx);
    }

    /// The server closes.
    pub fn close(&mut self, close: Close, cx: &mut Context<'_>) {
        self.handle(Event::Close(close), cx);
    }

    /// The node drains: what waits is handled, then the channel closes.
    pub fn drain(&mut self, close: Close, cx: &mut Context<'_>) {
        self.handle(Event::Drain(close), cx);
    }

    /// Runs what can run. To be called whenever one of the other methods was, and when the waker says so.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Driven> {
        loop {
            if let Some(event) = self.asked_close() {
                self.handle(event, cx);
            }
            if let Some(close) = self.close.take() {
                return Poll::Ready(Driven::Close(*close));
            }
            if self.done {
                return Poll::Ready(Driven::Done);
            }
            self.look_at_the_lease(Instant::now(), cx);
            let Some(run) = &mut self.run else { return Poll::Pending };
            match run.poll(cx) {
                Poll::Ready(ended) => {
                    self.run = None;
                    let step = self.ended(ended);
                    self.go(step, cx);
                }
                Poll::Pending if self.channel.is_close_asked() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Without a sure lease no handler starts.
    fn look_at_the_lease(&mut self, now: Instant, cx: &mut Context<'_>) {
        let suspended = !self.channel.app().hub().is_sure_at(now);
        if suspended != self.suspended {
            self.suspended = suspended;
            self.handle(if suspended { Event::Suspend } else { Event::Unsuspend }, cx);
        }
    }

    /// Takes an event through the machine, and all that follows from it at once.
    fn handle(&mut self, event: Event<Inbound>, cx: &mut Context<'_>) {
        let step = self.step(event);
        self.go(step, cx);
    }

    fn go(&mut self, mut step: Option<Step<Inbound>>, cx: &mut Context<'_>) {
        while let Some(next) = step {
            step = self.begin(next, cx).and_then(|ended| self.ended(ended));
        }
    }

    /// Takes an event through the machine; what is to be run is told.
    fn step(&mut self, event: Event<Inbound>) -> Option<Step<Inbound>> {
        self.displaced |= matches!(event, Event::Displaced(_));
        let mut effects = Effects::new();
        self.machine.handle(event, self.channel.inner.endpoint.limits.backlog, &mut effects);
        self.carry_out(effects)
    }

    /// Notes what the machine wants; what is to be run is told.
    fn carry_out(&mut self, effects: Effects<Inbound>) -> Option<Step<Inbound>> {
        let mut step = None;
        for effect in effects {
            match effect {
                Effect::Run(next) => step = Some(next),
                Effect::Close(close) => {
                    self.reason.get_or_insert(DisconnectReason::Server);
                    self.close = Some(Box::new(close));
                }
                Effect::Done => self.finish(),
                // `reads` tells of the first two; the machine was made so that it does not detach.
                Effect::Pause | Effect::Resume | Effect::Detach => {}
            }
        }
        step
    }

    fn finish(&mut self) {
        self.done = true;
        if self.displaced {
            let channel = self.channel.clone();
            tokio::spawn(async move { channel.app().hub().leave_here(&channel).await });
        }
    }

    /// What a handler's end leads to: its reply, the close that it asked for, and then the next step.
    fn ended(&mut self, ended: Ended) -> Option<Step<Inbound>> {
        let event = match ended {
            Ended::Connect(Ok(_)) | Ended::End => Event::Ended,
            Ended::Connect(Err(error)) => {
                self.log(&error);
                let close = if error.code() == "internal" { Close::internal } else { Close::policy };
                Event::Refused(close(error.message().to_owned()))
            }
            Ended::Message(result, route) => {
                self.reply(result, &route);
                Event::Ended
            }
        };
        self.channel.inner.outlet.handler_ended();
        if let Some(close) = self.asked_close() {
            // The machine still counts the handler as running, so that this starts nothing.
            self.step(close);
        }
        self.step(event)
    }

    fn asked_close(&self) -> Option<Event<Inbound>> {
        let asked = self.channel.take_close()?;
        Some(if asked.displaced { Event::Displaced(asked.close) } else { Event::Close(asked.close) })
    }

    /// Begins a step; tells its end if it ended at once.
    fn begin(&mut self, step: Step<Inbound>, cx: &mut Context<'_>) -> Option<Ended> {
        self.channel.handler_begins();
        let work = match step {
            Step::Message(message) => match self.message(message) {
                Ok(work) => work,
                Err(ended) => return Some(ended),
            },
            Step::Connect => match self.connect() {
                Some(work) => work,
                None => return Some(Ended::End),
            },
            Step::End => {
                let reason = self.reason.unwrap_or(DisconnectReason::Lost);
                Work::End(Box::pin(ending::end(self.channel.clone(), reason, self.opened)))
            }
        };
        let mut task = Task::new(work, &self.span);
        match task.poll(cx) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => {
                self.run = Some(Box::new(Run::new(task, self.channel.inner.endpoint.limits.handler)));
                None
            }
        }
    }

    fn connect(&self) -> Option<Work> {
        let handler = self.channel.inner.endpoint.connect.clone();
        let resumable = self.channel.inner.endpoint.grace.is_some();
        if handler.is_none() && self.channel.session_value().is_none() && !resumable {
            return None;
        }
        let channel = self.channel.clone();
        Some(Work::Connect(Box::pin(async move {
            channel.index_user().await?;
            if let Some(handler) = handler {
                handler(ConnectContext { channel: channel.clone() }).await?;
            }
            if resumable {
                // Only an open channel is detached when its node dies.
                channel.write(Patch { opened: true, ..Patch::default() }).await?;
            }
            Ok(())
        })))
    }

    /// Finds the handler of a message and calls it.
    fn message(&self, message: Inbound) -> Result<Work, Ended> {
        let endpoint = &self.channel.inner.endpoint;
        let refused = |error, route| Err(Ended::Message(Err(error), route));
        let Inbound { payload, binary, limited } = message;
        if binary {
            return match &endpoint.binary {
                _ if limited => refused(too_many(), Route::None),
                None => refused(Error::invalid("this endpoint takes no binary messages"), Route::None),
                Some(found) => self.call(found, payload, true),
            };
        }
        let find = |key: &str| endpoint.routes.get(key).cloned();
        let unknown = |key: Option<String>| key.map_or(Route::None, Route::Unknown);
        match plain::decode(payload, &endpoint.routing_key, find) {
            Request::Routed { route, .. } if limited => refused(too_many(), Route::Known(route)),
            Request::Routed { route, payload } => self.call(&route, payload, false),
            Request::Twice { route } => {
                let error = Error::invalid("a key stands twice in the message");
                refused(error, route.map_or(Route::None, Route::Known))
            }
            Request::Whole { key, .. } if limited => refused(too_many(), unknown(key)),
            Request::Whole { payload, key } => match &endpoint.message {
                Some(found) => self.call(found, payload, false),
                None => refused(unknown_route(), unknown(key)),
            },
        }
    }

    fn call(&self, found: &Arc<RouteInner>, payload: BytesMut, binary: bool) -> Result<Work, Ended> {
        let route = Route::Known(Arc::clone(found));
        if !found.public && !self.channel.inner.endpoint.public && self.channel.session_value().is_none() {
            return Err(Ended::Message(Err(unauthenticated()), route));
        }
        let context = MessageContext {
            channel: self.channel.clone(),
            route: Arc::clone(found),
            payload: payload.freeze(),
            binary,
        };
        match call(|| (found.handler)(context)) {
            Ok(future) => Ok(Work::Message(future, route)),
            Err(error) => Err(Ended::Message(Err(error), route)),
        }
    }

    fn reply(&self, result: Result<Reply, Error>, route: &Route) {
        let endpoint = &self.channel.inner.endpoint;
        let outlet = &self.channel.inner.outlet;
        let text = |parts: &[&[u8]]| outlet.reply(FrameKind::Text, parts);
        let unknown;
        let prefix = match route {
            Route::None => None,
            Route::Known(route) => route.key.as_ref().map(|(_, prefix)| &**prefix),
            Route::Unknown(key) => {
                unknown = plain::reply_prefix(&endpoint.routing_key, key);
                Some(&*unknown)
            }
        };
        match (result, prefix) {
            (Ok(Reply::None), _) | (Ok(Reply::Acknowledged), None) => {}
            (Ok(Reply::Acknowledged), Some(prefix)) => text(&[prefix, b"}"]),
            (Ok(Reply::Json(json)), Some(prefix)) => plain::reply(prefix, &endpoint.routing_key, &json, text),
            (Ok(Reply::Json(json)), None) => text(&[&json]),
            (Ok(Reply::Text(reply)), Some(prefix)) => {
                let json = serde_json::Value::String(reply).to_string();
                plain::reply(prefix, &endpoint.routing_key, json.as_bytes(), text);
            }
            (Ok(Reply::Text(reply)), None) => text(&[reply.as_bytes()]),
            (Ok(Reply::Bytes(bytes)), _) => outlet.reply(FrameKind::Binary, &[&bytes]),
            (Err(error), prefix) => {
                self.log(&error);
                plain::error(prefix, &error, text);
            }
        }
    }

    fn log(&self, error: &Error) {
        let endpoint = &self.channel.inner.endpoint;
        endpoint.counters.failed.increment(1);
        if error.code() == "internal" {
            let source = error.source().map(tracing::field::display);
            tracing::error!(channel = %self.channel.id(), endpoint = %endpoint.name, source, "a handler failed");
        } else {
            tracing::debug!(channel = %self.channel.id(), code = error.code(), "a handler answered with an error");
        }
    }
}

fn too_many() -> Error {
    Error::rate_limited("too many messages, slow down")
}

fn unknown_route() -> Error {
    Error::unknown_route("there is no such route")
}
