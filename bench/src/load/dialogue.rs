//! The fixed conversation before (and after) the measured messages.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::socket::{self, Poller};
use crate::dialect::Step;
use crate::wire;

/// Handshakes under way at once: below every server's listen backlog.
const AT_ONCE: usize = 64;
/// Connections from one source address: Linux offers some 28,000 ports.
const PORTS: usize = 20_000;
/// A server that takes longer for a step is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that follows its steps.
#[derive(Debug)]
pub(crate) struct Dialogue {
    socket: OwnedFd,
    steps: Rc<[Step]>,
    next: usize,
    unread: Vec<u8>,
    started: Instant,
}

impl Dialogue {
    /// Starts to connect.
    pub(crate) fn start(target: SocketAddrV4, source: usize, steps: Rc<[Step]>) -> Result<Self> {
        Ok(Self { started: Instant::now(), socket: socket::dial(target, source)?, steps, next: 0, unread: Vec::new() })
    }

    /// Advances as far as it can without waiting; true once all steps are done.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        let steps = Rc::clone(&self.steps);
        while let Some(step) = steps.get(self.next) {
            self.answer_pings()?;
            if let Step::Send(bytes) = step {
                match socket::write(&self.socket, bytes)? {
                    0 => return Ok(false),
                    count => ensure!(count == bytes.len(), "a fresh socket took only a part of the handshake"),
                }
            } else if let Some(len) = self.heard(step)? {
                self.unread.drain(..len);
            } else if self.read()? {
                continue;
            } else {
                return Ok(false);
            }
            self.next += 1;
        }
        self.answer_pings()?;
        ensure!(self.unread.is_empty(), "the server said more than it was asked: {}", self.unread.escape_ascii());
        Ok(true)
    }

    /// How long it has lasted.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let count = socket::read(&self.socket, &mut buffer)?;
        self.unread.extend_from_slice(&buffer[..count.unwrap_or(0)]);
        Ok(count.is_some())
    }

    /// Engine.IO pings at once, other peers might.
    fn answer_pings(&mut self) -> Result<()> {
        if !self.steps.iter().take(self.next).any(|step| matches!(step, Step::Upgraded)) {
            return Ok(());
        }
        while let Some(frame) = wire::parse(&self.unread)? {
            let Some(pong) = wire::pong(&frame) else {
                break;
            };
            let len = frame.len;
            let count = socket::write(&self.socket, &pong)?;
            ensure!(count == pong.len(), "a fresh socket took only a part of a pong");
            self.unread.drain(..len);
        }
        Ok(())
    }

    /// Length of the answer to `step`, once it is there.
    fn heard(&mut self, step: &Step) -> Result<Option<usize>> {
        match step {
            Step::Upgraded => return wire::upgraded(&self.unread),
            Step::Exactly(wanted) => {
                if self.unread.len() < wanted.len() {
                    return Ok(None);
                }
                ensure!(self.unread.starts_with(wanted), "a wrong answer: {}", self.unread.escape_ascii());
                return Ok(Some(wanted.len()));
            }
            Step::Send(_) | Step::Text(_) | Step::Closed => {}
        }
        let Some(frame) = wire::parse(&self.unread)? else {
            return Ok(None);
        };
        match step {
            Step::Text(start) if frame.opcode == wire::TEXT && frame.payload.starts_with(start.as_bytes()) => {}
            Step::Closed if frame.opcode == wire::CLOSE => {}
            _ => bail!("expected {step:?}, heard opcode {} {}", frame.opcode, frame.payload.escape_ascii()),
        }
        Ok(Some(frame.len))
    }
}

/// Opens `count` connections, taken through `steps`.
pub(crate) fn open(target: SocketAddrV4, count: usize, steps: Vec<Step>) -> Result<Vec<OwnedFd>> {
    let mut open = Vec::with_capacity(count);
    through(target, count, steps, |ended| {
        open.extend(ended.drain(..).map(|dialogue| dialogue.socket));
        Ok(true)
    })?;
    Ok(open)
}

/// Takes connections through `steps`: `count` of them, or until `go_on`, which gets the ended ones, says no.
pub(crate) fn through(
    target: SocketAddrV4,
    count: usize,
    steps: Vec<Step>,
    mut go_on: impl FnMut(&mut Vec<Dialogue>) -> Result<bool>,
) -> Result<()> {
    let steps: Rc<[Step]> = steps.into();
    // Some dialogues have very many steps.
    let patience = PATIENCE + Duration::from_millis(1) * u32::try_from(steps.len())?;
    let mut poller = Poller::new()?;
    let mut slots: Vec<Option<Dialogue>> = (0..AT_ONCE.min(count)).map(|_| None).collect();
    let mut free: Vec<usize> = (0..slots.len()).collect();
    let (mut started, mut ended) = (0, 0);
    let mut just_ended = Vec::new();
    let mut progress = Instant::now();
    while ended < count {
        let mut due = Vec::new();
        while let Some(slot) = free.pop_if(|_| started < count) {
            // Only lasting connections use their ports up.
            let source = if count == usize::MAX { 0 } else { started / PORTS };
            let dialogue = Dialogue::start(target, source, Rc::clone(&steps))?;
            poller.watch(&dialogue.socket, slot)?;
            slots[slot] = Some(dialogue);
            started += 1;
            due.push(slot);
        }
        if due.is_empty() {
            due.extend(poller.ready(Duration::from_millis(100))?);
        }
        for slot in due {
            let Some(mut dialogue) = slots[slot].take() else {
                continue;
            };
            if dialogue.advance().with_context(|| format!("connection {}", ended + 1))? {
                ended += 1;
                progress = Instant::now();
                just_ended.push(dialogue);
                free.push(slot);
            } else {
                slots[slot] = Some(dialogue);
            }
        }
        if !go_on(&mut just_ended)? {
            return Ok(());
        }
        just_ended.clear();
        ensure!(
            progress.elapsed() < patience,
            "the server let a handshake wait for {patience:?} after {ended} connections"
        );
    }
    Ok(())
}
