//! A client in the same process: an outlet that records, and a task that drives the conversation as an adapter does.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use strait_core::{ChannelId, Close, Conversation, Driven, Frame, FrameKind, Gaps, Inbound, Outlet, Topic};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::log::PATIENCE;

/// An event at the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
}

/// One connection's outlet, which holds own events back as the trait asks.
#[derive(Debug)]
pub(crate) struct Recorder {
    waker: AtomicWaker,
    arrived: Notify,
    gaps: Gaps,
    out: Mutex<Out>,
}

#[derive(Debug, Default)]
struct Out {
    seen: VecDeque<Seen>,
    held: Vec<Seen>,
    handling: Option<u32>,
    closed: bool,
}

fn seen(kind: FrameKind, bytes: &[u8]) -> Seen {
    match kind {
        FrameKind::Text => Seen::Text(String::from_utf8(bytes.to_vec()).expect("text is UTF-8")),
        FrameKind::Binary => Seen::Binary(bytes.to_vec()),
    }
}

impl Recorder {
    pub(crate) fn new(gaps: Gaps) -> Self {
        Self { waker: AtomicWaker::new(), arrived: Notify::new(), gaps, out: Mutex::default() }
    }

    fn push(&self, out: &mut Out, what: Seen) {
        if !out.closed {
            out.closed = matches!(what, Seen::Close(..));
            out.seen.push_back(what);
            self.arrived.notify_one();
        }
    }
}

impl Outlet for Recorder {
    fn handler_begins(&self, turn: u32) {
        self.out.lock().handling = Some(turn);
    }

    fn handler_ended(&self) {
        let mut out = self.out.lock();
        out.handling = None;
        for held in std::mem::take(&mut out.held) {
            self.push(&mut out, held);
        }
    }

    fn reply(&self, kind: FrameKind, parts: &[&[u8]]) {
        self.push(&mut self.out.lock(), seen(kind, &parts.concat()));
    }

    fn send(&self, frame: &Frame) {
        self.push(&mut self.out.lock(), seen(frame.kind(), &frame.payload()));
    }

    fn events(&self, _: &Topic, frames: &[Frame], turn: Option<u32>) {
        let mut out = self.out.lock();
        for frame in frames {
            let event = seen(frame.kind(), &frame.payload());
            if (turn.is_some() && turn == out.handling) || !out.held.is_empty() {
                out.held.push(event);
            } else {
                self.push(&mut out, event);
            }
        }
    }

    fn gap(&self, topic: &Topic) {
        let frame = self.gaps.frame(topic);
        self.push(&mut self.out.lock(), seen(frame.kind(), &frame.payload()));
    }

    fn wake(&self) {
        self.waker.wake();
    }
}

/// An event on the wire, in order.
enum Wire {
    Message(Inbound),
    Close,
}

/// An event that the adapter itself finds.
enum Event {
    Lost,
    Drain(Close),
}

/// A connected client.
pub(crate) struct Client {
    pub(crate) id: ChannelId,
    recorder: Arc<Recorder>,
    wire: mpsc::UnboundedSender<Wire>,
    events: mpsc::UnboundedSender<Event>,
    task: JoinHandle<()>,
}

impl Client {
    pub(crate) fn drive(conversation: Conversation, recorder: Arc<Recorder>, runtime: &tokio::runtime::Handle) -> Self {
        let id = conversation.channel().id().clone();
        let (wire, wires) = mpsc::unbounded_channel();
        let (events, found) = mpsc::unbounded_channel();
        let mut driver = Driver { conversation, recorder: Arc::clone(&recorder), wires, found, opened: false };
        let task = runtime.spawn(poll_fn(move |cx| driver.poll(cx)));
        Self { id, recorder, wire, events, task }
    }

    pub(crate) fn send(&self, text: &str) {
        let _ = self.wire.send(Wire::Message(Inbound::text(text.to_owned())));
    }

    pub(crate) fn send_binary(&self, bytes: &[u8]) {
        let _ = self.wire.send(Wire::Message(Inbound::binary(bytes.to_vec())));
    }

    /// Closes as a client does, behind the messages it has sent.
    pub(crate) fn close(&self) {
        let _ = self.wire.send(Wire::Close);
    }

    /// The connection breaks.
    pub(crate) fn lose(&self) {
        let _ = self.events.send(Event::Lost);
    }

    pub(crate) fn drain(&self) {
        let _ = self.events.send(Event::Drain(Close::restart("the server restarts")));
    }

    pub(crate) async fn next(&self) -> Seen {
        let next = async {
            loop {
                if let Some(seen) = self.recorder.out.lock().seen.pop_front() {
                    return seen;
                }
                self.recorder.arrived.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("the client waited in vain")
    }

    #[track_caller]
    pub(crate) fn expect(&self, text: &str) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            assert_eq!(self.next().await, Seen::Text(text.to_owned()), "at {place}");
        }
    }

    pub(crate) async fn ask(&self, text: &str) -> String {
        self.send(text);
        match self.next().await {
            Seen::Text(text) => text,
            other => panic!("expected text, got {other:?}"),
        }
    }

    pub(crate) async fn closed(&self) -> (u16, String) {
        match self.next().await {
            Seen::Close(code, reason) => (code, reason),
            other => panic!("expected a close, got {other:?}"),
        }
    }

    /// Waits until the conversation has come to its end.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the conversation ends").expect("and does not panic");
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

struct Driver {
    conversation: Conversation,
    recorder: Arc<Recorder>,
    wires: mpsc::UnboundedReceiver<Wire>,
    found: mpsc::UnboundedReceiver<Event>,
    opened: bool,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.recorder.waker.register(cx.waker());
        if !self.opened {
            self.opened = true;
            self.conversation.opened(cx);
        }
        // As in a node's connection: messages that arrive together have one arrival time.
        let now = Instant::now();
        loop {
            match self.conversation.poll(cx) {
                Poll::Ready(Driven::Done) => return Poll::Ready(()),
                Poll::Ready(Driven::Close(close)) => {
                    let close = Seen::Close(close.code(), close.reason().to_owned());
                    self.recorder.push(&mut self.recorder.out.lock(), close);
                    // The peer answers at once.
                    self.conversation.peer_closed(cx);
                    continue;
                }
                Poll::Pending => {}
            }
            match self.found.poll_recv(cx) {
                Poll::Ready(Some(Event::Lost)) => {
                    self.conversation.lost(cx);
                    continue;
                }
                Poll::Ready(Some(Event::Drain(close))) => {
                    self.conversation.drain(close);
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if !self.conversation.reads() {
                return Poll::Pending;
            }
            match self.wires.poll_recv(cx) {
                Poll::Ready(Some(Wire::Message(message))) => self.conversation.receive(message, now, cx),
                Poll::Ready(Some(Wire::Close)) => self.conversation.peer_closed(cx),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
