//! Drives one channel's machine: runs its handlers and writes their replies. The adapter feeds in messages and carries
//! out the close.

mod dispatch;
mod flush;
mod rate;
mod run;

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tracing::Span;

use crate::channel::{Channel, is_gone};
use crate::close::Close;
use crate::error::Error;
use crate::handler::DisconnectReason;
use crate::hub::ending;
use crate::inbound::Inbound;
use crate::machine::{Effect, Effects, Event, Machine, Step};
use crate::panics;
use flush::Flush;
use rate::{Bucket, Taken};
pub(crate) use run::guarded;
use run::{Ended, Run, Task, Work};

/// The adapter's next task.
#[derive(Debug, PartialEq, Eq)]
pub enum Driven {
    /// Send the queue and a close frame, and end the connection.
    Close(Close),
    /// The channel has ended, or lives elsewhere: drop the conversation.
    Done,
}

/// The pending end of the connection.
enum Ending {
    /// The adapter carries it out.
    Close(Close),
    /// Running handlers finish first, and queued events go out.
    Drain(Close, Option<Flush>),
}

/// One channel's conversation on this node.
pub struct Conversation {
    channel: Channel,
    machine: Machine<Inbound>,
    run: Option<Box<Run>>,
    bucket: Bucket,
    /// Messages that the metrics do not count yet: a burst of messages is counted in one call.
    received: u32,
    span: Span,
    ending: Option<Box<Ending>>,
    /// The reason for which the connection ended, once it has.
    reason: Option<DisconnectReason>,
    /// The error with which `on_connect` refused the client.
    refused: Option<Error>,
    /// The time limit of a handler.
    limit: Duration,
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
        let limit = channel.inner.endpoint.limits.handler;
        Self {
            channel,
            limit,
            refused: None,
            // The plain protocol cannot resume.
            machine: Machine::new(false),
            run: None,
            bucket,
            received: 0,
            span,
            ending: None,
            reason: None,
            opened: false,
            suspended: false,
            displaced: false,
            done: false,
        }
    }

    /// Goes on with a channel that is open, in an invocation.
    pub(crate) fn rehydrated(channel: Channel) -> Self {
        Self { machine: Machine::rehydrated(false), opened: true, ..Self::new(channel) }
    }

    /// Lowers the time limit of handlers.
    pub(crate) fn limit(&mut self, limit: Duration) {
        self.limit = self.limit.min(limit);
    }

    /// The error with which `on_connect` refused the client.
    pub(crate) fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether the adapter should read messages.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.opened && self.ending.is_none() && self.machine.reads()
    }

    /// Whether a handler runs, so that a message that arrives now must wait.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.machine.is_running()
    }

    /// The handshake was answered: `on_connect` runs, unless the channel was closed before.
    pub fn opened(&mut self, cx: &mut Context<'_>) {
        if self.channel.inner.stray.load(Ordering::Acquire) {
            // The close of a stray channel comes later, but `on_connect` must not run before it.
            self.channel.close(Close::restart("this node lost its lease"));
        }
        if let Some(event) = self.asked_close() {
            return self.handle(event, cx);
        }
        self.opened = true;
        self.channel.inner.endpoint.counters.opened.increment(1);
        self.handle(Event::Opened, cx);
    }

    /// A message has arrived.
    pub fn receive(&mut self, mut message: Inbound, now: Instant, cx: &mut Context<'_>) {
        let endpoint = &self.channel.inner.endpoint;
        self.received += 1;
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
        // The handlers of earlier messages may have taken long: read the clock again.
        self.look_at_the_lease(Instant::now(), cx);
        let step = if self.machine.try_begin() {
            Some(Step::Message(message))
        } else {
            message.shrink();
            self.step(Event::Received(message))
        };
        self.go(step, cx);
    }

    /// Whether a message that arrived at `now` was beyond the rate limit.
    #[must_use]
    pub fn is_limited(&self, now: Instant) -> bool {
        self.bucket.was_beyond(now)
    }

    /// The peer has closed the connection.
    pub fn peer_closed(&mut self, cx: &mut Context<'_>) {
        self.reason.get_or_insert(DisconnectReason::Client);
        self.handle(Event::PeerClosed { leaves: true }, cx);
    }

    /// The connection is gone, or no message can come from it any more.
    pub fn lost(&mut self, cx: &mut Context<'_>) {
        self.reason.get_or_insert(DisconnectReason::Lost);
        self.handle(Event::Lost, cx);
    }

    /// Undoes the handshake's changes in the store. Replaces [`opened`](Self::opened) if the answer never reached the
    /// client.
    pub async fn abandon(mut self) {
        poll_fn(|cx| {
            self.lost(cx);
            Poll::Ready(())
        })
        .await;
        while poll_fn(|cx| self.poll(cx)).await != Driven::Done {}
    }

    /// Ends the channel after a panic in its driver, and runs `on_disconnect`. A running handler is dropped, and
    /// waiting messages are not handled.
    pub async fn end_after_panic(mut self, panic: Box<dyn Any + Send>) {
        panics::tell("connection", &*panic);
        let run = self.run.take();
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(run))) {
            panics::tell("connection", &*again);
        }
        if self.displaced {
            self.channel.app().hub().leave_here(&self.channel).await;
        } else if !self.done {
            let reason = self.reason.unwrap_or(DisconnectReason::Server);
            ending::end(self.channel.clone(), reason, self.opened).await;
        }
    }

    /// The peer has been silent for too long: the server closes the connection, which counts as lost.
    pub fn silent(&mut self, cx: &mut Context<'_>) {
        self.reason.get_or_insert(DisconnectReason::Lost);
        self.close(Close::going_away("nothing came from you for too long"), cx);
    }

    /// The server closes.
    pub fn close(&mut self, close: Close, cx: &mut Context<'_>) {
        self.handle(Event::Close(close), cx);
    }

    /// The node drains: waiting messages are handled, events of the channel's topics go out, then the channel closes.
    pub fn drain(&mut self, close: Close) {
        if self.ending.is_none() {
            self.ending = Some(Box::new(Ending::Drain(close, None)));
        }
    }

    /// Runs all work that is ready. Call it after every other method, and when the waker fires.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Driven> {
        if self.received > 0 {
            self.channel.inner.endpoint.counters.messages.increment(std::mem::take(&mut self.received).into());
        }
        loop {
            if let Some(event) = self.asked_close() {
                self.handle(event, cx);
            }
            if self.ending.is_some()
                && let Poll::Ready(ending) = self.poll_ending(cx)
            {
                match ending {
                    Ending::Close(close) => return Poll::Ready(Driven::Close(close)),
                    Ending::Drain(close, _) => {
                        self.handle(Event::Drain(close), cx);
                        continue;
                    }
                }
            }
            if self.done {
                return Poll::Ready(Driven::Done);
            }
            // If nothing runs and nothing is held back, nothing can start: the next message checks the lease.
            if self.run.is_some() || self.suspended {
                self.look_at_the_lease(Instant::now(), cx);
            }
            let Some(run) = &mut self.run else { return Poll::Pending };
            match run.poll(cx, &self.channel.inner.endpoint) {
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

    /// The pending end of the connection, once it is due.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some(Ending::Drain(_, flush)) = self.ending.as_deref_mut() {
            if self.machine.is_running() {
                return Poll::Pending;
            }
            if flush.is_none() && self.channel.is_subscribed() {
                *flush = Some(Flush::new());
            }
            if let Some(flush) = flush {
                ready!(flush.poll(&self.channel, cx));
            }
        }
        self.ending.take().map_or(Poll::Pending, |ending| Poll::Ready(*ending))
    }

    /// Suspends or resumes handlers: they need a sure lease and a record.
    fn look_at_the_lease(&mut self, now: Instant, cx: &mut Context<'_>) {
        let suspended = self.channel.is_suspended(now);
        if suspended != self.suspended {
            self.suspended = suspended;
            self.handle(if suspended { Event::Suspend } else { Event::Unsuspend }, cx);
        }
    }

    /// Feeds an event to the machine and runs all the steps that follow at once.
    fn handle(&mut self, event: Event<Inbound>, cx: &mut Context<'_>) {
        let step = self.step(event);
        self.go(step, cx);
    }

    fn go(&mut self, mut step: Option<Step<Inbound>>, cx: &mut Context<'_>) {
        while let Some(next) = step {
            step = self.begin(next, cx);
        }
    }

    /// Feeds an event to the machine, and returns the step to run.
    fn step(&mut self, event: Event<Inbound>) -> Option<Step<Inbound>> {
        self.displaced |= matches!(event, Event::Displaced(_));
        let mut effects = Effects::new();
        self.machine.handle(event, self.channel.inner.endpoint.limits.backlog, &mut effects);
        self.carry_out(effects)
    }

    /// Carries out the machine's effects, and returns the step to run.
    fn carry_out(&mut self, effects: Effects<Inbound>) -> Option<Step<Inbound>> {
        let mut step = None;
        for effect in effects {
            match effect {
                Effect::Run(next) => step = Some(next),
                Effect::Close(close) => {
                    self.reason.get_or_insert(DisconnectReason::Server);
                    self.ending = Some(Box::new(Ending::Close(close)));
                }
                Effect::Done => self.finish(),
                // The first two are answered by `reads`; this machine never detaches.
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

    /// Handles a handler's end: its reply, then the close that it asked for, then the next step.
    fn ended(&mut self, ended: Ended) -> Option<Step<Inbound>> {
        match ended {
            Ended::Connect(Err(error)) => {
                self.log(&error);
                // A client that was not refused may come again.
                let close = match error.code() {
                    "internal" | "unavailable" | "timeout" => Close::internal,
                    _ if is_gone(&error) => Close::restart,
                    _ => Close::policy,
                };
                let close = close(error.message().to_owned());
                self.refused = Some(error);
                self.handler_over();
                self.step(Event::Refused(close))
            }
            Ended::Message(result, route) => {
                self.reply(result, &route);
                self.after_handler()
            }
            Ended::Connect(Ok(_)) | Ended::End => self.after_handler(),
        }
    }

    /// The next step after a handler that has ended and answered.
    fn after_handler(&mut self) -> Option<Step<Inbound>> {
        self.handler_over();
        if self.machine.try_rest() { None } else { self.step(Event::Ended) }
    }

    /// A handler has ended; if it asked for a close, that comes first.
    fn handler_over(&mut self) {
        self.channel.inner.outlet.handler_ended();
        if let Some(close) = self.asked_close() {
            // The machine still counts the handler as running, so that this starts no other one.
            self.step(close);
        }
    }

    fn asked_close(&self) -> Option<Event<Inbound>> {
        let asked = self.channel.take_close()?;
        Some(if asked.displaced { Event::Displaced(asked.close) } else { Event::Close(asked.close) })
    }

    /// Begins a step; if it ends at once, returns the step after it.
    fn begin(&mut self, step: Step<Inbound>, cx: &mut Context<'_>) -> Option<Step<Inbound>> {
        self.channel.handler_begins();
        let work = match step {
            Step::Message(message) => match self.message(message) {
                Ok((future, route)) => Work::Message(future, route),
                Err((error, route)) => {
                    self.reply(Err(error), &route);
                    return self.after_handler();
                }
            },
            Step::Connect => match self.connect() {
                Some(work) => work,
                None => return self.after_handler(),
            },
            Step::End => {
                let reason = self.reason.unwrap_or(DisconnectReason::Lost);
                Work::End(Box::pin(ending::end(self.channel.clone(), reason, self.opened)))
            }
        };
        let mut task = Task::new(work, &self.span, &self.channel.inner.endpoint);
        match task.poll(cx) {
            Poll::Ready(ended) => {
                drop(task);
                self.ended(ended)
            }
            Poll::Pending => {
                self.run = Some(Box::new(Run::new(task, self.limit)));
                None
            }
        }
    }
}
