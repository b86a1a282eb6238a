//! Drives a conversation within an invocation.

use std::future::poll_fn;
use std::task::{Context, Poll};

use futures_util::future::join;

use super::Invocation;
use super::line::Line;
use crate::close::Close;
use crate::conversation::{Conversation, Driven};
use crate::gateway::GatewayConnection;

/// The end of a conversation's turn.
pub(super) enum Ended {
    /// No handler runs any more; the channel stays open.
    Idle,
    /// The server closes.
    Close(Close),
    /// The channel has ended.
    Done,
}

/// Begins a step, and goes on until no handler runs.
pub(super) async fn drive(
    conversation: &mut Conversation,
    line: &Line,
    begin: impl FnOnce(&mut Conversation, &mut Context<'_>),
) -> Ended {
    let mut begin = Some(begin);
    poll_fn(|cx| {
        line.register(cx);
        if let Some(begin) = begin.take() {
            begin(conversation, cx);
        }
        match conversation.poll(cx) {
            Poll::Ready(Driven::Close(close)) => Poll::Ready(Ended::Close(close)),
            Poll::Ready(Driven::Done) => Poll::Ready(Ended::Done),
            Poll::Pending if conversation.is_running() => Poll::Pending,
            Poll::Pending => Poll::Ready(Ended::Idle),
        }
    })
    .await
}

impl Invocation {
    /// Does the same as [`drive`], and posts sent messages meanwhile. A close is carried out after them.
    pub(super) async fn converse(
        &self,
        conversation: &mut Conversation,
        line: &Line,
        at: &GatewayConnection,
        begin: impl FnOnce(&mut Conversation, &mut Context<'_>),
    ) {
        let running = async {
            let ended = drive(conversation, line, begin).await;
            line.end();
            ended
        };
        let (ended, ()) = join(running, line.pump(at, self.posts)).await;
        if let Ended::Close(close) = ended {
            self.close(conversation, line, at, &close).await;
        }
    }

    /// Closes the connection, and brings the channel to its end.
    pub(super) async fn close(
        &self,
        conversation: &mut Conversation,
        line: &Line,
        at: &GatewayConnection,
        close: &Close,
    ) {
        let closing = async {
            if let Some(gateway) = self.hub().gateways().gateway.as_ref() {
                gateway.close(at, close, self.posts).await;
            }
        };
        let ending = drive(conversation, line, |conversation, cx| conversation.peer_closed(cx));
        // End the channel first, so that no message that arrives meanwhile is handled.
        join(ending, closing).await;
    }

    /// Ends a channel that cannot go on, without a conversation.
    pub(super) async fn hang_up(&self, at: &GatewayConnection) {
        if let Some(gateway) = self.hub().gateways().gateway.as_ref() {
            gateway.close(at, &Close::restart("the channel has ended, connect again"), self.posts).await;
        }
    }
}
