//! Faults on purpose.

use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;

/// One fault, as often as its rate says.
///
/// As text: `post=429`, `post=500:0.1` (one in ten), `post=hang`, `post=403`, `disconnect=lost:0.5`,
/// `disconnect=twice`, `connect=twice`, `message=error`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    on: On,
    what: What,
    rate: f64,
    connection: Option<String>,
    times: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Post,
    Connect,
    Message,
    Disconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// `@connections` answers this status.
    Status(u16),
    /// `@connections` takes the request and never answers.
    Hang,
    /// The event is not handed over.
    Lost,
    /// The event is handed over twice.
    Twice,
    /// The integration fails, after the function has run.
    Error,
}

/// The text names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no fault, write post=429, post=500:0.1, post=hang, disconnect=lost, disconnect=twice, connect=twice or message=error"
)]
pub struct BadFault(String);

impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let bad = || BadFault(text.to_owned());
        let (on, rest) = text.split_once('=').ok_or_else(bad)?;
        let (what, rate) = rest.split_once(':').unwrap_or((rest, "1"));
        let rate: f64 = rate.parse().ok().filter(|rate| (0.0..=1.0).contains(rate)).ok_or_else(bad)?;
        let status = what.parse::<u16>().ok().filter(|status| (400..600).contains(status));
        let (on, what) = match (on, what, status) {
            ("post", "hang", _) => (On::Post, What::Hang),
            ("post", _, Some(status)) => (On::Post, What::Status(status)),
            ("disconnect", "lost", _) => (On::Disconnect, What::Lost),
            ("disconnect", "twice", _) => (On::Disconnect, What::Twice),
            ("connect", "twice", _) => (On::Connect, What::Twice),
            ("message", "error", _) => (On::Message, What::Error),
            _ => return Err(bad()),
        };
        Ok(Self { on, what, rate, connection: None, times: None })
    }
}

impl Fault {
    /// Limits the fault to the first so many times.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    /// Limits the fault to one connection.
    #[must_use]
    pub fn at(mut self, connection: impl Into<String>) -> Self {
        self.connection = Some(connection.into());
        self
    }
}

/// The injected faults. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    /// Adds a fault from here on.
    pub fn add(&self, fault: Fault) {
        self.0.lock().push(fault);
    }

    /// Ends all faults from here on.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    fn find(&self, on: On, connection: &str) -> Option<What> {
        let mut faults = self.0.lock();
        let found = faults.iter_mut().find(|fault| {
            let concerns = fault.on == on && fault.connection.as_deref().is_none_or(|only| only == connection);
            concerns && fault.times != Some(0) && fastrand::f64() < fault.rate
        })?;
        if let Some(times) = &mut found.times {
            *times -= 1;
        }
        Some(found.what)
    }

    pub(super) fn of_post(&self, connection: &str) -> Option<What> {
        self.find(On::Post, connection)
    }

    pub(super) fn of_connect(&self, connection: &str) -> Option<What> {
        self.find(On::Connect, connection)
    }

    pub(super) fn of_message(&self, connection: &str) -> Option<What> {
        self.find(On::Message, connection)
    }

    pub(super) fn of_disconnect(&self, connection: &str) -> Option<What> {
        self.find(On::Disconnect, connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_counted() {
        let faults = Faults::default();
        faults.add("post=429".parse::<Fault>().expect("a fault").times(2).at("a"));
        assert_eq!(faults.of_post("b"), None);
        assert_eq!(faults.of_disconnect("a"), None);
        assert_eq!(
            [faults.of_post("a"), faults.of_post("a"), faults.of_post("a")],
            [Some(What::Status(429)), Some(What::Status(429)), None]
        );
        faults.add("post=hang:0".parse().expect("a fault"));
        assert_eq!(faults.of_post("b"), None);
        for bad in ["", "post", "post=200", "post=lost", "disconnect=500", "post=429:2", "post=429:x"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
