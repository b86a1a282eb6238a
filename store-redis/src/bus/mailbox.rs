use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use strait_core::store::Sink;
use strait_core::{Position, in_full};

/// The node's mailbox. Its log keeps commands for a while, so that a broken connection loses none.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) slot: u16,
    pub(crate) channel: String,
    /// The number of the connection that last confirmed the subscription; 0 for none.
    pub(crate) on: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Position,
    /// Commands are missing: the node reads the log instead of the shard channel.
    behind: bool,
    /// Commands have come since the last read of the log began.
    more: bool,
}

impl Mailbox {
    pub(crate) fn new(slot: u16, channel: String, head: Position) -> Self {
        // Behind until the subscription is confirmed.
        let state = State { last: head, behind: true, more: true };
        Self { slot, channel, on: AtomicU64::new(0), state: Mutex::new(state) }
    }

    pub(crate) fn is_on(&self, connection: u64) -> bool {
        self.on.load(Ordering::Acquire) == connection
    }

    /// Takes a command from the shard channel; returns whether the log must be read.
    pub(crate) fn command(&self, position: Position, blob: Bytes, sink: &dyn Sink) -> bool {
        let mut state = self.state.lock();
        if state.behind {
            state.more = true;
            return true;
        }
        if position.epoch == state.last.epoch && position.offset <= state.last.offset {
            return false;
        }
        if position.epoch != state.last.epoch || position.offset != state.last.offset + 1 {
            state.behind = true;
            state.more = true;
            return true;
        }
        state.last = position;
        obey(blob, sink);
        false
    }

    /// Commands may be missing: the log must be read.
    pub(crate) fn doubt(&self) {
        let mut state = self.state.lock();
        state.behind = true;
        state.more = true;
    }

    /// The position after which the log must be read, if it must be.
    pub(crate) fn missing_after(&self) -> Option<Position> {
        let mut state = self.state.lock();
        state.more = false;
        state.behind.then_some(state.last)
    }

    /// Takes commands from the log.
    pub(crate) fn read(&self, commands: Vec<(Position, Bytes)>, sink: &dyn Sink) {
        let mut state = self.state.lock();
        for (position, blob) in commands {
            state.last = position;
            obey(blob, sink);
        }
    }

    /// The log no longer has some commands: it is read on from here.
    pub(crate) fn lost(&self, from: Position) {
        metrics::counter!("strait_bus_commands_lost_total").increment(1);
        tracing::error!(
            "commands to this node may have been lost: it did not hear for too long, or Redis lost its data"
        );
        self.state.lock().last = from;
    }

    /// The whole log was read; `false` if another command came meanwhile.
    pub(crate) fn caught_up(&self) -> bool {
        let mut state = self.state.lock();
        state.behind = state.more;
        !state.behind
    }
}

fn obey(blob: Bytes, sink: &dyn Sink) {
    match crate::event::decode_command(blob) {
        Ok(command) => sink.command(command),
        Err(error) => tracing::error!(error = %in_full(&error), "a command was not understood"),
    }
}
