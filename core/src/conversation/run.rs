//! A handler that is running.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tracing::Span;

use crate::endpoint::{EndpointInner, RouteId};
use crate::error::Error;
use crate::handler::{BoxFuture, Reply};
use crate::panics;

/// The routing key that a reply begins with.
pub(super) enum Route {
    /// None: a reply to a whole message.
    None,
    /// The key of a route.
    Known(RouteId),
    /// A key that no route has.
    Unknown(String),
}

impl Route {
    fn key<'a>(&self, endpoint: &'a EndpointInner) -> Option<&'a str> {
        match self {
            Self::Known(route) => endpoint.route(*route).key.as_ref().map(|(key, _)| &**key),
            // A key from the client does not belong into a log.
            Self::None | Self::Unknown(_) => None,
        }
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::None)
    }
}

/// The running handler of a message.
pub(super) type Handling = BoxFuture<Result<Reply, Error>>;

/// A running step, in its own span.
pub(super) struct Task {
    work: Work,
    span: Span,
}

pub(super) enum Work {
    Connect(BoxFuture<Result<(), Error>>),
    Message(Handling, Route),
    End(BoxFuture<()>),
}

/// The outcome of a task.
pub(super) enum Ended {
    Connect(Result<(), Error>),
    Message(Result<Reply, Error>, Route),
    End,
}

impl Task {
    pub(super) fn new(work: Work, channel: &Span, endpoint: &EndpointInner) -> Self {
        let span = match &work {
            Work::Connect(_) => tracing::debug_span!(parent: channel, "connect"),
            Work::Message(_, route) => tracing::debug_span!(parent: channel, "message", route = route.key(endpoint)),
            Work::End(_) => tracing::debug_span!(parent: channel, "end"),
        };
        Self { work, span }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let _entered = self.span.enter();
        match &mut self.work {
            Work::Connect(future) => poll(future, cx).map(Ended::Connect),
            Work::Message(future, route) => poll(future, cx).map(|result| Ended::Message(result, route.take())),
            Work::End(future) => future.as_mut().poll(cx).map(|()| Ended::End),
        }
    }

    fn late(&mut self) -> Option<Ended> {
        let error = || Error::timeout("the server took too long");
        match &mut self.work {
            Work::Connect(_) => Some(Ended::Connect(Err(error()))),
            Work::Message(_, route) => Some(Ended::Message(Err(error()), route.take())),
            // The end limits its own handler, and must be completed.
            Work::End(_) => None,
        }
    }
}

/// A task that did not end at once, with its time limit.
pub(super) struct Run {
    task: Task,
    limit: Pin<Box<Sleep>>,
}

impl Run {
    pub(super) fn new(task: Task, limit: Duration) -> Self {
        Self { task, limit: Box::pin(sleep(limit)) }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, endpoint: &EndpointInner) -> Poll<Ended> {
        if let Poll::Ready(ended) = self.task.poll(cx) {
            return Poll::Ready(ended);
        }
        if !matches!(self.task.work, Work::End(_)) && self.limit.as_mut().poll(cx).is_ready() {
            if let Some(count) = endpoint.counters.late_lines.count() {
                self.task.span.in_scope(|| tracing::warn!(count, "a handler took too long and was dropped"));
            }
            return self.task.late().map_or(Poll::Pending, Poll::Ready);
        }
        Poll::Pending
    }
}

/// Calls a handler; a panic in its extractors is `internal`.
pub(super) fn call<O>(
    handler: impl FnOnce() -> BoxFuture<Result<O, Error>>,
) -> Result<BoxFuture<Result<O, Error>>, Error> {
    catch_unwind(AssertUnwindSafe(handler)).map_err(|panic| panicked(&*panic))
}

/// Polls a handler; a panic becomes `internal`, and ends only this handler.
fn poll<O>(future: &mut BoxFuture<Result<O, Error>>, cx: &mut Context<'_>) -> Poll<Result<O, Error>> {
    catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)))
        .unwrap_or_else(|panic| Poll::Ready(Err(panicked(&*panic))))
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    metrics::counter!("strait_handler_panics_total").increment(1);
    Error::internal(format!("a handler panicked: {}", panics::message(panic)))
}

/// Calls a handler outside of a conversation, with its panics caught.
pub(crate) async fn guarded<O>(handler: impl FnOnce() -> BoxFuture<Result<O, Error>>) -> Result<O, Error> {
    let mut future = call(handler)?;
    std::future::poll_fn(|cx| poll(&mut future, cx)).await
}
