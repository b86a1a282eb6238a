//! The kinds of work that are measured, and one measurement of each.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use clap::ValueEnum;

use crate::dialect::Dialect;
use crate::load::echo::Echo;
use crate::load::fanout::Fanout;
use crate::load::idle::{self, Past};
use crate::load::{Plan, Span, Target, connect};
use crate::strace;

/// A kind of work, with its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Messages with an answer.
    Echo { size: usize, connections: usize, depth: usize },
    /// Publications to many members.
    Fanout { size: usize, members: usize, depth: usize },
    /// Publications on many topics in turn; one connection is subscribed to all. One publication is in flight, as there
    /// is an order within a topic only.
    Topics { size: usize, topics: usize },
    /// Connections on which nothing happens.
    Idle { connections: usize, past: Past },
    /// Connections that come and go.
    Connect,
}

impl Work {
    /// The work of the milestone's table.
    pub(crate) const USUAL: &'static str = "echo:32:100:1,echo:32:1000:1,echo:32:100:16,echo:1024:100:16,fanout:100:1000:8,\
                                            idle:10000:silent,idle:10000:spoken,idle:10000:subscribed,idle:10000:guest,connect";

    /// The work that shows how Strait's cost grows: with connections, members of a topic, and topics.
    pub(crate) const CURVES: &'static str = "idle:1000:subscribed,idle:2000:subscribed,idle:5000:subscribed,\
                                             idle:10000:subscribed,idle:19000:subscribed,echo:32:1000:1,echo:32:2000:1,\
                                             echo:32:5000:1,echo:32:10000:1,echo:32:19000:1,fanout:100:1:8,fanout:100:10:8,\
                                             fanout:100:100:8,fanout:100:1000:8,fanout:100:10000:8,topics:100:1,topics:100:100,\
                                             topics:100:1000,topics:100:10000,topics:100:100000";

    /// Whether a peer of this `dialect` can do it: bare TCP has no rooms, and only Strait has topics with names and
    /// sessions.
    pub(crate) fn possible(self, dialect: Dialect) -> bool {
        if matches!(self, Self::Topics { .. } | Self::Idle { past: Past::Guest, .. }) {
            return dialect == Dialect::Strait;
        }
        let rooms = matches!(self, Self::Fanout { .. } | Self::Idle { past: Past::Subscribed, .. });
        dialect != Dialect::Tcp || !rooms
    }

    /// The unit counted each second.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Echo { .. } => "messages",
            Self::Fanout { .. } | Self::Topics { .. } => "deliveries",
            Self::Idle { .. } | Self::Connect => "connections",
        }
    }
}

impl FromStr for Work {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str| part.parse::<usize>().with_context(|| format!("{part:?} in {text:?} is no number"));
        Ok(match parts[..] {
            ["echo", size, connections, depth] => {
                Self::Echo { size: number(size)?, connections: number(connections)?, depth: number(depth)? }
            }
            ["fanout", size, members, depth] => {
                Self::Fanout { size: number(size)?, members: number(members)?, depth: number(depth)? }
            }
            ["topics", size, topics] => Self::Topics { size: number(size)?, topics: number(topics)? },
            ["idle", connections, past] => {
                let past = Past::from_str(past, true).map_err(Error::msg)?;
                Self::Idle { connections: number(connections)?, past }
            }
            ["connect"] => Self::Connect,
            _ => bail!(
                "unknown work {text:?}: give echo:SIZE:CONNECTIONS:IN_FLIGHT, fanout:SIZE:MEMBERS:IN_FLIGHT, \
                 topics:SIZE:TOPICS, idle:CONNECTIONS:silent|spoken|subscribed|guest or connect"
            ),
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo { size, connections, depth } => {
                write!(f, "Echo, {size} B, {connections} connections, {depth} in flight on each")
            }
            Self::Fanout { size, members, depth } => {
                write!(f, "Fan-out, {size} B to {members} members, {depth} publications in flight")
            }
            Self::Topics { size, topics } => {
                write!(f, "Publications, {size} B on {topics} topics in turn, 1 in flight")
            }
            Self::Idle { connections, past } => {
                let past = match past {
                    Past::Silent => "after the handshake",
                    Past::Spoken => "after one message each",
                    Past::Subscribed => "each with a subscription",
                    Past::Guest => "each with a session and a subscription",
                };
                write!(f, "Idle memory, {connections} connections {past}")
            }
            Self::Connect => f.write_str("Connect, upgrade, close"),
        }
    }
}

/// How long a measurement takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Before it counts.
    pub(crate) warm_up: Duration,
    /// While it counts.
    pub(crate) measured: Duration,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measured {
    /// Of speed.
    Speed(Speed),
    /// Of bytes a connection.
    Memory(f64),
}

impl Measured {
    /// Cores that others kept busy; memory does not suffer from that.
    pub(crate) fn others(&self) -> f64 {
        match self {
            Self::Speed(speed) => speed.others,
            Self::Memory(_) => 0.0,
        }
    }

    /// Whether others took enough to doubt the figures.
    pub(crate) fn disturbed(&self) -> bool {
        self.others() > 0.1
    }
}

/// One measurement of speed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    /// Units a second.
    pub(crate) rate: f64,
    /// Units a second of the server's processor time, if the kernel counts any.
    pub(crate) per_cpu: Option<f64>,
    /// Half were done within this time.
    pub(crate) p50: Duration,
    /// Ninety-nine of a hundred were done within this time.
    pub(crate) p99: Duration,
    /// Cores that the server kept busy.
    pub(crate) server: f64,
    /// Share of its core that the load generator used.
    pub(crate) load: f64,
    /// Cores that others kept busy.
    pub(crate) others: f64,
    /// The load generator set the pace.
    pub(crate) load_was_the_limit: bool,
}

impl Speed {
    fn of(span: &Span, server_cores: usize) -> Self {
        let usage = &span.usage;
        Self {
            rate: span.count as f64 / usage.wall.as_secs_f64(),
            per_cpu: (!usage.server.is_zero()).then(|| span.count as f64 / usage.server.as_secs_f64()),
            p50: span.latency.quantile(0.5),
            p99: span.latency.quantile(0.99),
            server: usage.share(usage.server),
            load: usage.share(usage.load),
            others: usage.share(usage.others),
            load_was_the_limit: usage.load_was_the_limit(server_cores),
        }
    }
}

/// Does the work against a running server.
pub(crate) fn measure(work: Work, target: &Target, pace: Pace, server_cores: usize) -> Result<Measured> {
    let plan = Plan { warm_up: pace.warm_up, measured: pace.measured, server: target.pid };
    let span = match work {
        Work::Echo { size, connections, depth } => Echo::open(target, connections, depth, size)?.run(&plan)?,
        Work::Fanout { size, members, depth } => Fanout::open(target, members, depth, size, 1)?.run(&plan)?,
        Work::Topics { size, topics } => Fanout::open(target, 1, 1, size, topics)?.run(&plan)?,
        Work::Connect => connect(target, &plan)?,
        Work::Idle { connections, past } => {
            return Ok(Measured::Memory(idle::memory(target, connections, past)?));
        }
    };
    Ok(Measured::Speed(Speed::of(&span, server_cores)))
}

/// System calls of the server for each unit of the work, where that has a meaning.
pub(crate) fn syscalls(work: Work, target: &Target) -> Result<Option<f64>> {
    let plan = Plan { warm_up: Duration::ZERO, measured: Duration::from_secs(1), server: target.pid };
    let (span, calls) = match work {
        Work::Echo { size, connections, depth } => {
            let mut echo = Echo::open(target, connections, depth, size)?;
            strace::count(target.pid, || echo.run(&plan))?
        }
        Work::Fanout { size, members, depth } => {
            let mut fanout = Fanout::open(target, members, depth, size, 1)?;
            strace::count(target.pid, || fanout.run(&plan))?
        }
        Work::Topics { size, topics } => {
            let mut fanout = Fanout::open(target, 1, 1, size, topics)?;
            strace::count(target.pid, || fanout.run(&plan))?
        }
        Work::Connect => strace::count(target.pid, || connect(target, &plan))?,
        Work::Idle { .. } => return Ok(None),
    };
    Ok(Some(calls as f64 / span.total as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_work_is_understood() {
        for text in Work::USUAL.split(',').chain(Work::CURVES.split(',')) {
            text.parse::<Work>().unwrap();
        }
        "echo:32:x:1".parse::<Work>().unwrap_err();
        "idle:10:loud".parse::<Work>().unwrap_err();
    }
}
