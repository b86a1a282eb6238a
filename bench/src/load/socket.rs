//! Non-blocking sockets and the readiness of many of them.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

thread_local! {
    static AWAKE: Cell<bool> = const { Cell::new(false) };
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// From here on this thread, which has a core of its own, waits for sockets without sleeping. Waking a core costs the
/// waker many microseconds between two virtual cores, and would count as the server's time. A server with clients on
/// other machines has no such cost.
pub(crate) fn stay_awake() {
    AWAKE.set(true);
}

/// Processor time for which this thread has waited for sockets so far.
pub(crate) fn waited() -> Duration {
    WAITED.get()
}

/// Starts to connect; from source 0 as the kernel likes, from others over a loopback address of their own.
pub(crate) fn dial(target: SocketAddrV4, source: usize) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .context("cannot open a socket: raise the limit of open files (ulimit -n)")?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    // Closing resets: connections in TIME_WAIT would fill the kernel's tables (`nf_conntrack: table full`) within
    // seconds of connecting and closing.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    if source > 0 {
        let last = u8::try_from(1 + source).context("too many connections for one machine")?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0))?;
    }
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {target}")),
    }
}

/// Writes as much as the socket takes; 0 when it takes nothing now.
pub(crate) fn write(socket: &OwnedFd, bytes: &[u8]) -> Result<usize> {
    match retry_on_intr(|| rustix::io::write(socket, bytes)) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error).context("the server broke the connection while it was written to"),
    }
}

/// Reads the bytes that are there; `None` when there are none. The end of the stream is an error: no server here may
/// close first.
pub(crate) fn read(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    match retry_on_intr(|| rustix::io::read(socket, &mut *buffer)) {
        Ok(0) => bail!("the server closed a connection"),
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error).context("the server broke a connection while it was read"),
    }
}

/// Tells which sockets became ready, edge-triggered.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// An empty one.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(1024) })
    }

    /// Watches `socket` under `key` until it is closed.
    pub(crate) fn watch(&self, socket: &OwnedFd, key: usize) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(key as u64), flags)?)
    }

    /// Waits for at most `timeout`; the keys of the ready sockets.
    pub(crate) fn ready(&mut self, timeout: Duration) -> Result<impl Iterator<Item = usize>> {
        let awake = AWAKE.get();
        let sleep = if awake { Duration::ZERO } else { timeout };
        let sleep = Timespec { tv_sec: sleep.as_secs().try_into()?, tv_nsec: sleep.subsec_nanos().into() };
        let begin = Instant::now();
        self.events.clear();
        let waited = loop {
            let waited = begin.elapsed();
            retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&sleep)))?;
            if !awake || !self.events.is_empty() || begin.elapsed() >= timeout {
                break waited;
            }
        };
        WAITED.set(WAITED.get() + waited);
        Ok(self.events.iter().map(|event| {
            let key = event.data;
            usize::try_from(key.u64()).expect("keys were made from a usize")
        }))
    }
}
