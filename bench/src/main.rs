//! Measures Strait beside its rivals: `load`, `serve` and `run` in one binary.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "results and progress are this command's output")]

mod counts;
mod dialect;
mod fleet;
mod latency;
mod load;
mod machine;
mod report;
mod run;
mod serve;
mod server;
mod strace;
mod wire;
mod work;

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::dialect::Dialect;
use crate::load::{Target, socket};
use crate::serve::{Flavour, Peer};
use crate::work::{Measured, Pace, Work};

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure all peers in turn and print a table
    Run(run::Options),
    /// Measure two nodes on one Redis: from a publisher at the one to a subscriber at the other
    Fleet(fleet::Options),
    /// Be a node of socketioxide on its Redis adapter
    FleetPeer(fleet::peer::Options),
    /// Count the instructions of micro-benchmarks and compare them with the baseline
    Counts {
        /// Make the result the baseline
        #[arg(long)]
        save: bool,
    },
    /// Do the work of one of them, for valgrind to count
    #[command(hide = true)]
    Count {
        /// Its name
        case: counts::Case,
    },
    /// Load a server that is already running
    Load {
        /// Its address
        #[arg(long)]
        target: SocketAddrV4,
        /// The server's dialect
        #[arg(long)]
        dialect: Dialect,
        /// Its process, to read the processor time it takes
        #[arg(long)]
        pid: u32,
        /// The cores it may use
        #[arg(long, default_value_t = 1)]
        server_cores: usize,
        /// The core to load it from, which the load generator must have for itself
        #[arg(long)]
        load_core: Option<usize>,
        /// The work, for example echo:32:100:1
        work: Work,
        #[command(flatten)]
        pace: PaceOptions,
    },
    /// Be one of the peers
    Serve {
        /// Which
        peer: Peer,
        /// Listen here, on loopback
        #[arg(long)]
        port: u16,
        /// How its tasks are run
        #[arg(long, default_value = "per-core")]
        runtime: Flavour,
        /// Threads
        #[arg(long, default_value_t = 1)]
        workers: usize,
    },
}

#[derive(Clone, Copy, Debug, Args)]
struct PaceOptions {
    /// Seconds that count
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before them
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
}

impl PaceOptions {
    fn pace(self) -> Result<Pace> {
        Ok(Pace {
            warm_up: Duration::try_from_secs_f64(self.warm_up)?,
            measured: Duration::try_from_secs_f64(self.seconds)?,
        })
    }
}

fn main() -> Result<()> {
    machine::raise_file_limit();
    match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Fleet(options) => fleet::run(&options),
        Command::FleetPeer(options) => fleet::peer::run(&options),
        Command::Counts { save } => counts::run(save),
        Command::Count { case } => case.run(),
        Command::Load { target, dialect, pid, server_cores, load_core, work, pace } => {
            if let Some(core) = load_core {
                machine::pin(&[core])?;
                socket::stay_awake();
            }
            let target = Target { address: target, dialect, pid: machine::pid(pid)? };
            println!("{work}");
            match work::measure(work, &target, pace.pace()?, server_cores)? {
                Measured::Speed(speed) => println!("{}", report::line(work, &speed)),
                Measured::Memory(bytes) => println!("{bytes:.0} bytes a connection"),
            }
            Ok(())
        }
        Command::Serve { peer, port, runtime, workers } => serve::run(peer, port, runtime, workers),
    }
}
