//! SIGINT, SIGTERM and SIGHUP end a run in good order: the waiting code notices them and returns [`Interrupted`], and
//! the run stops its processes on the way out.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static RECEIVED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// A signal asked this program to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interrupted(pub(crate) Signal);

impl Interrupted {
    /// The status by which shells tell a death by this signal.
    pub(crate) fn exit_status(self) -> u8 {
        128 + u8::try_from(self.0.as_raw()).unwrap_or(0)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Signal::INT => "SIGINT",
            Signal::HUP => "SIGHUP",
            _ => "SIGTERM",
        };
        write!(f, "interrupted by {name}")
    }
}

impl std::error::Error for Interrupted {}

/// Takes the signals over. Until [`check`] is called they change nothing.
pub(crate) fn listen() -> anyhow::Result<()> {
    let received = RECEIVED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_usize(signal, Arc::clone(received), signal.unsigned_abs() as usize)
            .context("cannot listen for signals")?;
    }
    Ok(())
}

/// Fails once a signal has come.
pub(crate) fn check() -> Result<(), Interrupted> {
    let received = RECEIVED.get().map_or(0, |received| received.load(Ordering::Relaxed));
    match i32::try_from(received) {
        Ok(0) | Err(_) => Ok(()),
        Ok(SIGINT) => Err(Interrupted(Signal::INT)),
        Ok(SIGHUP) => Err(Interrupted(Signal::HUP)),
        Ok(_) => Err(Interrupted(Signal::TERM)),
    }
}
