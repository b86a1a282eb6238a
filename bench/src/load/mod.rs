//! The load generator: one thread, raw sockets, frames encoded beforehand.

pub(crate) mod dialogue;
pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod socket;
mod stream;

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Pid;

use crate::dialect::{Dialect, Role};
use crate::latency::Latency;
use crate::machine::{Clocks, Usage};

/// A server that stays silent for longer while answers are due is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server under load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: SocketAddrV4,
    /// The server's dialect.
    pub(crate) dialect: Dialect,
    /// Its process.
    pub(crate) pid: Pid,
}

/// How long to load, and how much of it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Until everything is warm; not counted.
    pub(crate) warm_up: Duration,
    /// The time that counts.
    pub(crate) measured: Duration,
    /// The process to read processor time of.
    pub(crate) server: Pid,
}

/// The figures of a measured span.
#[derive(Debug)]
pub(crate) struct Span {
    /// Messages, deliveries or connections in it.
    pub(crate) count: u64,
    /// The same, with the messages before and after the span.
    pub(crate) total: u64,
    /// How long each took.
    pub(crate) latency: Latency,
    /// The processor time that it took.
    pub(crate) usage: Usage,
}

impl Plan {
    fn clock(&self) -> Clock<'_> {
        Clock { plan: self, start: None, end: None, count: 0 }
    }
}

/// Tells warm-up, measured time and the rest apart.
struct Clock<'a> {
    plan: &'a Plan,
    start: Option<Clocks>,
    end: Option<Clocks>,
    count: u64,
}

impl Clock<'_> {
    /// Looks at the time since `begin`; false once no more is to be sent.
    fn tick(&mut self, begin: Instant) -> Result<bool> {
        match &self.start {
            None if begin.elapsed() >= self.plan.warm_up => {
                self.start = Some(Clocks::read(self.plan.server)?);
            }
            // Count from the true start: on a busy machine this tick may come late.
            Some(start) if self.end.is_none() && start.age() >= self.plan.measured => {
                self.end = Some(Clocks::read(self.plan.server)?);
            }
            _ => {}
        }
        Ok(self.end.is_none())
    }

    fn measuring(&self) -> bool {
        self.start.is_some() && self.end.is_none()
    }

    fn count(&mut self, more: u64) {
        self.count += more;
    }

    fn span(self, latency: Latency, total: u64) -> Result<Span> {
        let (start, end) = self.start.zip(self.end).context("the run ended before its time was measured")?;
        Ok(Span { count: self.count, total, latency, usage: start.until(&end) })
    }
}

/// Connects, upgrades and closes, over and over.
pub(crate) fn connect(target: &Target, plan: &Plan) -> Result<Span> {
    let mut steps = target.dialect.opening(Role::Echo, &target.address.to_string());
    steps.extend(target.dialect.closing()?);
    let begin = Instant::now();
    let mut clock = plan.clock();
    let mut latency = Latency::new();
    let mut total = 0;
    dialogue::through(target.address, usize::MAX, steps, |ended| {
        let go_on = clock.tick(begin)?;
        total += ended.len() as u64;
        if clock.measuring() {
            clock.count(ended.len() as u64);
            for dialogue in ended {
                latency.record(u64::try_from(dialogue.age().as_nanos())?);
            }
        }
        Ok(go_on)
    })?;
    clock.span(latency, total)
}
