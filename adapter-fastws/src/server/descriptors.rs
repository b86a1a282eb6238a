//! Reserves descriptors for all allowed sockets in advance.

use super::ServerLimits;

/// Raises the soft limit of open files towards the number of allowed sockets, within the hard limit. Then makes the
/// kernel grow its table of descriptors. The table doubles when it is full. In a process of several threads the thread
/// that opens the next descriptor then waits 10 to 20 ms (Linux: `expand_fdtable` waits for RCU). On an accepting
/// thread all connections would wait with it.
#[cfg(unix)]
pub(super) fn reserve(limits: &ServerLimits, listener: &impl std::os::fd::AsFd) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// Other open files of a process.
    const OTHERS: u64 = 256;
    /// The longest table to reserve. An entry takes nine bytes in the kernel, and a huge limit may only mean "no
    /// limit".
    const LONGEST: u64 = 1 << 20;

    // Each handshake frees a place among the waiting sockets, which another socket takes.
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
    // The descriptor is closed at once, but the table keeps its length.
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
        // Less than the usual hard limit, more than the usual soft limit and any existing table.
        let limits = ServerLimits { connections: 3_000, ..ServerLimits::default() };
        reserve(&limits, &listener);
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("it has a line for that");
        assert!(size.trim().parse::<usize>().expect("a number") >= limits.connections, "{size}");
    }
}
