//! Descriptors for all sockets there may be, before they come.

use super::ServerLimits;

/// Raises the soft limit of open files as far as the sockets that are allowed need it and the hard one lets it, and has the kernel make
/// its table of descriptors long enough. The table grows by doubling, and in a process of several threads whoever opens the
/// descriptor that it grows for waits 10 to 20 ms (Linux: `expand_fdtable` waits for RCU): so would all connections of an
/// accepting thread.
#[cfg(unix)]
pub(super) fn reserve(limits: &ServerLimits, listener: &impl std::os::fd::AsFd) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// What a process has open besides.
    const OTHERS: u64 = 256;
    /// A place takes nine bytes of the kernel's: a limit may be there to say that there is none.
    const LONGEST: u64 = 1 << 20;

    // Each handshake that is being answered has let another socket in.
    let handshakes = (limits.handshakes as u64).saturating_mul(2);
    let wanted = OTHERS.saturating_add(limits.connections as u64).saturating_add(handshakes);
    let limit = getrlimit(Resource::Nofile);
    let mut most = limit.current.unwrap_or(u64::MAX);
    let possible = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    if most < possible && setrlimit(Resource::Nofile, Rlimit { current: Some(possible), ..limit }).is_ok() {
        most = possible;
    }
    if most < wanted {
        tracing::warn!(limit = most, wanted, "the limit of open files is too low for the connections that are allowed");
    }
    // Its place is given back at once, the table's length stays.
    let last = most.min(wanted).min(LONGEST).saturating_sub(1) as i32;
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(listener, last) {
        tracing::debug!(%error, last, "the table of descriptors grows as it must");
    }
}

#[cfg(not(unix))]
pub(super) fn reserve<L>(_: &ServerLimits, _: &L) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_long_enough_before_the_sockets_come() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        // Less than the usual hard limit, more than the usual soft one and any table yet.
        let limits = ServerLimits { connections: 3_000, ..ServerLimits::default() };
        reserve(&limits, &listener);
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("it has a line for that");
        assert!(size.trim().parse::<usize>().expect("a number") >= limits.connections, "{size}");
    }
}
