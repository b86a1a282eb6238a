//! The outlet of a channel during one invocation: messages are posted in order, while the handler runs.

use std::collections::VecDeque;
use std::fmt;
use std::task::Context;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::app::App;
use crate::frame::{Frame, FrameKind};
use crate::gateway::{GatewayConnection, Post, Posted};
use crate::hub::EventHub;
use crate::name::{ChannelId, Topic};
use crate::outlet::Outlet;

/// A client that sends a message has finished its handshake; the gateway may learn of it this much later.
const ESTABLISHING: Duration = Duration::from_millis(500);
/// The first pause between retries for a connection that is not established yet.
const PAUSE: Duration = Duration::from_millis(10);

/// See the [module's documentation](self).
pub(super) struct Line {
    app: App,
    endpoint: String,
    channel: ChannelId,
    waker: AtomicWaker,
    arrived: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Frame>,
    /// Releases the publisher's own events once the handler's reply is out.
    replying: Option<(u32, watch::Sender<bool>)>,
    ended: bool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn new(app: App, endpoint: &str, channel: ChannelId) -> Self {
        Self {
            app,
            endpoint: endpoint.to_owned(),
            channel,
            waker: AtomicWaker::new(),
            arrived: Notify::new(),
            state: Mutex::default(),
        }
    }

    pub(super) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    fn push(&self, frame: Frame) {
        let gateway = self.app.hub().gateways().gateway.as_ref();
        let carried = gateway.map(|gateway| gateway.capabilities().carry(frame));
        let frame = carried.flatten().or_else(|| {
            if let Some(count) = self.app.hub().lines().too_large.count() {
                tracing::error!(
                    count,
                    channel = %self.channel,
                    "a message is too large for the gateway, or not text: the client is told that it misses one"
                );
            }
            self.app.endpoint(&self.endpoint).map(|endpoint| endpoint.gap_frame(None))
        });
        self.state.lock().queue.extend(frame);
        self.arrived.notify_one();
    }

    /// Marks the end of the messages.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.arrived.notify_one();
    }

    /// Takes the queued messages, for later.
    pub(super) fn take(&self) -> Vec<Frame> {
        self.state.lock().queue.drain(..).collect()
    }

    /// Posts messages until the [`end`](Self::end), and then lets the publisher's own events pass. It tries nothing
    /// after `until`, this invocation's deadline: other invocations of the process may have more time.
    pub(super) async fn pump(&self, to: &GatewayConnection, until: Instant) {
        let hub = self.app.hub();
        let mut gone = false;
        loop {
            let (frames, ended) = {
                let mut state = self.state.lock();
                (state.queue.drain(..).collect::<Vec<_>>(), state.ended)
            };
            if !frames.is_empty() && !gone {
                gone = post_all(hub, &self.channel, to, frames, until).await == Sending::Gone;
            } else if ended {
                break;
            } else {
                self.arrived.notified().await;
            }
        }
        self.replied();
    }

    /// Marks the reply as out, or as never to come.
    pub(super) fn replied(&self) {
        if let Some((_, replied)) = &self.state.lock().replying {
            let _ = replied.send(true);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some((turn, _)) = self.state.get_mut().replying.take() {
            self.app.hub().gateways().has_ended(self.channel.clone(), turn);
        }
    }
}

impl Outlet for Line {
    fn handler_begins(&self, turn: u32) {
        let replied = self.app.hub().gateways().begins_to_reply(self.channel.clone(), turn);
        if let Some((before, _)) = self.state.lock().replying.replace((turn, replied)) {
            self.app.hub().gateways().has_ended(self.channel.clone(), before);
        }
    }

    /// The reply is only queued here; [`pump`](Self::pump) reports it as out.
    fn handler_ended(&self) {}

    fn reply(&self, kind: FrameKind, parts: &[&[u8]]) {
        self.push(Frame::new(kind, parts));
    }

    fn carries(&self, kind: FrameKind, bytes: usize) -> bool {
        let gateway = self.app.hub().gateways().gateway.as_ref();
        gateway.is_some_and(|gateway| gateway.capabilities().carries(kind, bytes))
    }

    fn send(&self, frame: &Frame) {
        self.push(frame.clone());
    }

    fn events(&self, _: &Topic, frames: &[Frame], _: Option<u32>) {
        frames.iter().cloned().for_each(|frame| self.push(frame));
    }

    fn gap(&self, topic: &Topic) {
        if let Some(frame) = self.app.gap_frame(&self.endpoint, topic) {
            self.push(frame);
        }
    }

    fn wake(&self) {
        self.waker.wake();
    }
}

/// The outcome of posting in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Sent,
    /// The channel has ended, or is about to.
    Gone,
    /// The connection is not established yet.
    NotReady,
    /// Some messages may not have been sent.
    Failed,
}

/// Posts messages, in order, to a connection that has sent one. If it is gone, its disconnect notice ends the channel.
pub(super) async fn post_all(
    hub: &EventHub,
    channel: &ChannelId,
    to: &GatewayConnection,
    frames: Vec<Frame>,
    until: Instant,
) -> Sending {
    let ready = Instant::now() + ESTABLISHING;
    let sending = match post_until(hub, channel, to, frames, hub.post_deadline().min(until), ready).await {
        Sending::NotReady => Sending::Gone,
        sending => sending,
    };
    if sending == Sending::Failed {
        if let Some(count) = hub.lines().replies_not_posted.count() {
            tracing::error!(count, %channel, "what a handler has sent could not be posted");
        }
        metrics::counter!("strait_gateway_lost_total").increment(1);
    }
    sending
}

/// Posts messages to one connection in order until a deadline, and waits until `ready` for it to be established.
pub(super) async fn post_until(
    hub: &EventHub,
    channel: &ChannelId,
    to: &GatewayConnection,
    frames: Vec<Frame>,
    deadline: Instant,
    ready: Instant,
) -> Sending {
    let mut posts: Vec<Post> = frames.into_iter().map(|frame| Post { to: to.clone(), frame }).collect();
    let mut pause = PAUSE;
    loop {
        let outcomes = hub.post(&posts, deadline).await;
        let Some(at) = outcomes.iter().position(|outcome| *outcome != Posted::Sent) else { return Sending::Sent };
        if outcomes[at] != Posted::Gone {
            return Sending::Failed;
        }
        match hub.is_absent(channel, to).await {
            Ok(true) => return Sending::Gone,
            Ok(false) => {}
            Err(error) => {
                if let Some(count) = hub.lines().connection_not_looked_up.count() {
                    tracing::warn!(count, error = %error.in_full(), "a connection that is gone was not looked up");
                }
                return Sending::Failed;
            }
        }
        posts.drain(..at);
        if Instant::now() + pause >= ready.min(deadline) {
            return Sending::NotReady;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE * 25);
    }
}
