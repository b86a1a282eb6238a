//! The kernel's figures on processes and cores, and the cores that processes may run on.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::load::socket;

/// `/proc` counts processor time in these (USER_HZ, 100 on every Linux that Rust runs on).
const TICK: Duration = Duration::from_millis(10);

/// Keeps the calling thread, and every thread that it spawns from now on, on `cores`.
pub(crate) fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set)
        .with_context(|| format!("cannot run on cores {cores:?}: name cores that this machine has"))
}

/// Lets this process and its children open as many files as the system allows.
pub(crate) fn raise_file_limit() {
    let now = getrlimit(Resource::Nofile);
    let wished = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    if setrlimit(Resource::Nofile, wished).is_err() {
        // Without privileges the hard limit stands; too low a one shows as "too many open files".
        let _refused = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now });
    }
}

/// The id of a process to measure.
pub(crate) fn pid(raw: u32) -> Result<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw).context("a process id is positive and 31 bits")
}

/// Processor time of a whole process so far.
pub(crate) fn process_time(pid: Pid) -> Result<Duration> {
    let path = format!("/proc/{}/stat", pid.as_raw_pid());
    let stat =
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}: is the server still running?"))?;
    // The name may hold spaces and brackets; the fields behind the last bracket hold none (proc_pid_stat(5)).
    let (_, after) = stat.rsplit_once(')').context("a process's stat has its name in brackets")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks =
        |index: usize| -> Result<u32> { Ok(fields.get(index).context("a process's stat is too short")?.parse()?) };
    Ok(TICK * (ticks(11)? + ticks(12)?))
}

/// Time that all cores together were not idle.
fn machine_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = first.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else {
        bail!("/proc/stat lacks fields");
    };
    Ok(TICK * u32::try_from(user + nice + system + irq + softirq + steal)?)
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process's status lacks VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Clocks of the server, the load generator and the machine at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    at: Instant,
    server: Duration,
    load: Duration,
    waited: Duration,
    machine: Duration,
}

impl Clocks {
    /// Reads them now.
    pub(crate) fn read(server: Pid) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: process_time(server)?,
            load: process_time(rustix::process::getpid())?,
            waited: socket::waited(),
            machine: machine_time()?,
        })
    }

    /// How long ago that was.
    pub(crate) fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// The usage between `self` and `later`.
    pub(crate) fn until(&self, later: &Self) -> Usage {
        let (server, load) = (later.server.saturating_sub(self.server), later.load.saturating_sub(self.load));
        Usage {
            wall: later.at - self.at,
            server,
            load: load.saturating_sub(later.waited - self.waited),
            others: later.machine.saturating_sub(self.machine).saturating_sub(server + load),
        }
    }
}

/// Time spent over a measured span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// By the wall clock.
    pub(crate) wall: Duration,
    /// By the server's threads.
    pub(crate) server: Duration,
    /// By the load generator, without the time for which it waited.
    pub(crate) load: Duration,
    /// By everything else on the machine, which disturbed the measurement.
    pub(crate) others: Duration,
}

impl Usage {
    /// A share of one core over the span.
    pub(crate) fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.wall.as_secs_f64()
    }

    /// Whether the generator, not the server, set the pace.
    pub(crate) fn load_was_the_limit(&self, server_cores: usize) -> bool {
        self.share(self.load) >= 0.9 && self.share(self.server) < 0.9 * server_cores as f64
    }
}
