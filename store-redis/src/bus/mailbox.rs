use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use strait_core::store::Sink;
use strait_core::{Position, in_full};

/// The node's mailbox: commands are kept for a while, so that a connection that breaks loses none.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) slot: u16,
    pub(crate) channel: String,
    /// The connection on which the subscription was confirmed last, by its number; 0 for none.
    pub(crate) on: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Position,
    /// Something is missing: what comes is read from the log instead.
    behind: bool,
    /// Something has come meanwhile.
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

    /// A command has come on the shard channel; tells whether the log must be read.
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

    /// Commands may be missing.
    pub(crate) fn doubt(&self) {
        let mut state = self.state.lock();
        state.behind = true;
        state.more = true;
    }

    /// From where the log is to be read, if it is.
    pub(crate) fn missing_after(&self) -> Option<Position> {
        let mut state = self.state.lock();
        state.more = false;
        state.behind.then_some(state.last)
    }

    /// Commands that were read from the log.
    pub(crate) fn read(&self, commands: Vec<(Position, Bytes)>, sink: &dyn Sink) {
        let mut state = self.state.lock();
        for (position, blob) in commands {
            state.last = position;
            obey(blob, sink);
        }
    }

    /// Commands may have been lost: the log no longer has them. It is read on from here.
    pub(crate) fn lost(&self, from: Position) {
        metrics::counter!("strait_bus_commands_lost_total").increment(1);
        tracing::error!(
            "commands to this node may have been lost: it did not hear for too long, or Redis lost its data"
        );
        self.state.lock().last = from;
    }

    /// All of the log was read; `false` if something came meanwhile.
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
