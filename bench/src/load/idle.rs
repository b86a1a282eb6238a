//! The cost of connections while nothing happens on them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::{Target, dialogue};
use crate::dialect::Role;
use crate::machine::resident;

/// The past of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Past {
    /// Nothing but the handshake.
    Silent,
    /// One message and its answer.
    Spoken,
    /// It is a member of the room, or subscribed to the topic.
    Subscribed,
    /// The same, with a session.
    Guest,
}

/// Opens `connections` and tells by how many bytes each makes the server's resident memory grow.
pub(crate) fn memory(target: &Target, connections: usize, past: Past) -> Result<f64> {
    ensure!(connections > 0, "memory is measured over at least one connection");
    let role = match past {
        Past::Silent | Past::Spoken => Role::Echo,
        Past::Subscribed => Role::Member,
        Past::Guest => Role::Guest,
    };
    let mut steps = target.dialect.opening(role, &target.address.to_string());
    // The first connections also pay for things made once: lazily built tables, threads' stacks.
    drop(dialogue::open(target.address, 64, steps.clone())?);
    let before = settled(target)?;
    if past == Past::Spoken {
        steps.extend(target.dialect.touch()?);
    }
    let open = dialogue::open(target.address, connections, steps)?;
    let after = settled(target)?;
    drop(open);
    Ok((after as f64 - before as f64) / connections as f64)
}

/// Resident memory once it has stopped to change.
fn settled(target: &Target) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(8);
    let mut last = resident(target.pid)?;
    let mut quiet = 0;
    while quiet < 10 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
        let now = resident(target.pid)?;
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}
