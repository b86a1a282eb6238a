//! The task of a socket: the handshake, and then its connection.

use std::any::Any;
use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{self, Context, Poll};

use crate::connection::Connection;

/// First the handshake, in memory that it frees at its end, and after that the connection.
pub(crate) enum Task {
    Connected(Box<Connection>),
    /// The handshake, or the clean-up after a panic.
    Apart(Pin<Box<dyn Future<Output = Option<Box<Connection>>> + Send>>),
}

impl Task {
    fn open(&mut self, mut connection: Box<Connection>, cx: &mut Context<'_>) {
        let opened = catch_unwind(AssertUnwindSafe(|| connection.open(cx)));
        *self = Self::Connected(connection);
        if let Err(panic) = opened {
            self.fail(panic);
        }
    }

    /// Panic isolation: a panic ends this connection, and no other.
    fn fail(&mut self, panic: Box<dyn Any + Send>) {
        if let Self::Connected(connection) = std::mem::replace(self, Self::Apart(Box::pin(ready(None)))) {
            *self = Self::Apart(Box::pin(async move {
                connection.fail(panic).await;
                None
            }));
        }
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut *self {
                Self::Connected(connection) => match catch_unwind(AssertUnwindSafe(|| Pin::new(connection).poll(cx))) {
                    Ok(polled) => return polled,
                    Err(panic) => self.fail(panic),
                },
                Self::Apart(future) => match task::ready!(future.as_mut().poll(cx)) {
                    Some(connection) => self.open(connection, cx),
                    None => return Poll::Ready(()),
                },
            }
        }
    }
}
