//! The channel state machine: events in, effects out. It holds no socket, clock or task, so that a node's connection
//! and a serverless invocation drive the same machine.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::close::Close;

/// The backlog that may wait while a handler runs, before the socket is no longer read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Messages.
    pub messages: usize,
    /// Bytes of payload.
    pub bytes: usize,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { messages: 16, bytes: 64 * 1024 }
    }
}

/// A value that has a size and can wait.
pub trait Weigh {
    /// The size in bytes.
    fn weight(&self) -> usize;
}

/// The phase of a channel's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// `on_connect` has not ended.
    Opening,
    /// Messages are handled.
    Open,
    /// The server has closed it; the machine awaits the peer's answer or the end of a running handler.
    Closing,
    /// The connection is gone, the channel can be resumed.
    Detached,
    /// Final.
    Closed,
}

/// An input of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<M> {
    /// The handshake was answered.
    Opened,
    /// A client resumed the detached channel.
    Resumed,
    /// A whole message arrived.
    Received(M),
    /// The work that [`Effect::Run`] began has ended.
    Ended,
    /// `on_connect` has ended by refusing the client.
    Refused(Close),
    /// The server closes: a handler, the hub or a policy.
    Close(Close),
    /// The peer closed the connection.
    PeerClosed {
        /// Whether a resumable channel ends with it.
        leaves: bool,
    },
    /// The connection is gone without a closing handshake.
    Lost,
    /// The node drains: waiting messages are handled, then the channel closes.
    Drain(Close),
    /// The node is not sure of its lease: no handler starts.
    Suspend,
    /// It is sure again.
    Unsuspend,
    /// A detached channel's grace has ended.
    GraceEnded,
    /// Another connection has taken over the channel: it goes on there.
    Displaced(Close),
}

/// The work of one handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<M> {
    /// `on_connect`.
    Connect,
    /// A message.
    Message(M),
    /// The end: claim the channel, run `on_disconnect`, remove its record.
    End,
}

/// A task for the driver, to be done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<M> {
    /// Start this work, and report [`Event::Ended`] when it has ended.
    Run(Step<M>),
    /// Stop reading messages; control frames are still answered.
    Pause,
    /// Read again.
    Resume,
    /// Send a close frame and end the connection.
    Close(Close),
    /// Store that the channel is detached.
    Detach,
    /// The machine has finished: drop it.
    Done,
}

/// The caller's buffer of effects; one event never has more than a few.
pub type Effects<M> = SmallVec<[Effect<M>; 4]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Nothing,
    Connect,
    Message,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    /// The server's close ends the connection.
    Closing,
    Down,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Machine<M> {
    waiting: VecDeque<M>,
    waiting_bytes: usize,
    draining: Option<Box<Close>>,
    phase: Phase,
    running: Running,
    link: Link,
    resumable: bool,
    /// The channel ends rather than detaches when the link is down.
    leaving: bool,
    displaced: bool,
    suspended: bool,
    paused: bool,
}

impl<M: Weigh> Machine<M> {
    /// A channel that is not open yet; `resumable` if both its endpoint and its protocol are.
    #[must_use]
    pub fn new(resumable: bool) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            draining: None,
            phase: Phase::Opening,
            running: Running::Nothing,
            link: Link::Up,
            resumable,
            leaving: false,
            displaced: false,
            suspended: false,
            paused: false,
        }
    }

    /// A channel from its record: open and connected.
    #[must_use]
    pub fn rehydrated(resumable: bool) -> Self {
        Self { phase: Phase::Open, ..Self::new(resumable) }
    }

    /// The phase of the channel's life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether a handler runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running != Running::Nothing
    }

    /// Whether messages should be read.
    #[must_use]
    pub fn reads(&self) -> bool {
        !self.paused && self.link == Link::Up && self.draining.is_none()
    }

    /// Starts a message's handler at once if nothing is in its way, and returns `true`. Otherwise give the message to
    /// [`handle`](Self::handle). Most messages take this short path.
    pub fn try_begin(&mut self) -> bool {
        let idle = self.phase == Phase::Open && self.running == Running::Nothing && self.waiting.is_empty();
        let begins = idle && !self.suspended && self.draining.is_none() && self.link == Link::Up;
        if begins {
            self.running = Running::Message;
        }
        begins
    }

    /// Ends a message's handler, and returns `true` if nothing else is to be done. Otherwise report the end to
    /// [`handle`](Self::handle). Most messages take this short path.
    pub fn try_rest(&mut self) -> bool {
        let rests = self.running == Running::Message
            && self.phase == Phase::Open
            && self.link == Link::Up
            && self.waiting.is_empty()
            && self.draining.is_none()
            && !self.displaced;
        if rests {
            self.running = Running::Nothing;
        }
        rests
    }

    /// Handles an event and pushes its effects.
    pub fn handle(&mut self, event: Event<M>, backlog: Backlog, effects: &mut Effects<M>) {
        match event {
            Event::Opened => {
                self.running = Running::Connect;
                effects.push(Effect::Run(Step::Connect));
                return;
            }
            Event::Resumed => {
                if self.phase == Phase::Detached && self.running == Running::Nothing {
                    self.phase = Phase::Open;
                    self.link = Link::Up;
                    self.leaving = false;
                }
            }
            Event::Received(message) => self.received(message, backlog, effects),
            Event::Ended => self.ended(effects),
            Event::Refused(close) => {
                self.close(close, effects);
                self.ended(effects);
            }
            Event::Close(close) => self.close(close, effects),
            Event::PeerClosed { leaves } => {
                self.leaving |= leaves;
                self.link = Link::Down;
            }
            Event::Lost => {
                self.link = Link::Down;
                // The connection was lost before the handshake was answered: nothing has started, only the record must
                // go.
                if self.phase == Phase::Opening && self.running == Running::Nothing {
                    return self.end(effects);
                }
            }
            Event::Drain(close) => self.draining = Some(Box::new(close)),
            Event::Suspend => self.suspended = true,
            Event::Unsuspend => self.suspended = false,
            Event::GraceEnded => {
                if self.phase == Phase::Detached {
                    self.leaving = true;
                }
            }
            Event::Displaced(close) => {
                self.displaced = true;
                self.close(close, effects);
            }
        }
        self.go_on(backlog, effects);
    }

    fn received(&mut self, message: M, backlog: Backlog, effects: &mut Effects<M>) {
        if self.link != Link::Up || self.draining.is_some() || matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        self.waiting_bytes += message.weight();
        self.waiting.push_back(message);
        let more_than_next = self.is_running() || self.suspended;
        let full = self.waiting.len() >= backlog.messages || self.waiting_bytes >= backlog.bytes;
        if more_than_next && full && !self.paused {
            self.paused = true;
            effects.push(Effect::Pause);
        }
    }

    fn ended(&mut self, effects: &mut Effects<M>) {
        match self.running {
            Running::Connect if self.phase == Phase::Opening => self.phase = Phase::Open,
            Running::End => {
                self.phase = Phase::Closed;
                effects.push(Effect::Done);
            }
            Running::Nothing | Running::Connect | Running::Message => {}
        }
        self.running = Running::Nothing;
    }

    fn close(&mut self, close: Close, effects: &mut Effects<M>) {
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
        self.leaving = true;
        self.phase = Phase::Closing;
        if self.link == Link::Up {
            self.link = Link::Closing;
            effects.push(Effect::Close(close));
        }
    }

    fn go_on(&mut self, backlog: Backlog, effects: &mut Effects<M>) {
        if self.running != Running::Nothing || matches!(self.phase, Phase::Opening | Phase::Closed) {
            return;
        }
        if self.phase == Phase::Open {
            if self.suspended && self.link == Link::Up && self.draining.is_none() {
                return;
            }
            if !self.suspended
                && let Some(message) = self.waiting.pop_front()
            {
                self.waiting_bytes -= message.weight();
                self.running = Running::Message;
                effects.push(Effect::Run(Step::Message(message)));
                if self.waiting.is_empty() {
                    self.waiting = VecDeque::new();
                }
                let roomy = self.waiting.len() * 2 <= backlog.messages && self.waiting_bytes * 2 <= backlog.bytes;
                if self.paused && roomy {
                    self.paused = false;
                    effects.push(Effect::Resume);
                }
                return;
            }
            if let Some(close) = self.draining.take_if(|_| self.waiting.is_empty()) {
                if self.resumable && self.link == Link::Up {
                    self.link = Link::Closing;
                    effects.push(Effect::Close(*close));
                } else {
                    self.close(*close, effects);
                }
            }
        }
        if self.displaced {
            self.phase = Phase::Closed;
            effects.push(Effect::Done);
        } else if self.phase == Phase::Closing || (self.phase == Phase::Detached && self.leaving) {
            self.end(effects);
        } else if self.link != Link::Up && self.phase == Phase::Open && (self.waiting.is_empty() || self.suspended) {
            if self.resumable && !self.leaving {
                self.phase = Phase::Detached;
                effects.push(Effect::Detach);
            } else {
                self.end(effects);
            }
        }
    }

    fn end(&mut self, effects: &mut Effects<M>) {
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
        self.phase = Phase::Closing;
        self.running = Running::End;
        effects.push(Effect::Run(Step::End));
    }
}
