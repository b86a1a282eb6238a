//! All peers in turn, several rounds.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::PaceOptions;
use crate::report::{Report, Row};
use crate::server::{Kind, Server};
use crate::work::{Measured, Work, measure, syscalls};
use crate::{report, strace};

/// The work to measure, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Peers beside Strait; `@shared` puts one on the work-stealing runtime, an empty list leaves all out
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "tcp,fastws,fastws@shared,tungstenite,axum,axum-4k,socketioxide,ws"
    )]
    peers: Vec<String>,
    /// The work to measure
    #[arg(long, value_delimiter = ',', default_value = Work::USUAL)]
    work: Vec<Work>,
    /// How Strait's cost grows with connections, members and topics, instead
    #[arg(long, conflicts_with = "work")]
    curves: bool,
    /// The command that starts Strait, `{port}` in the place of the port [default: the `chat` beside this program]
    #[arg(long)]
    strait_cmd: Option<String>,
    /// Further arguments of that command; given several times, each is a row of its own
    #[arg(long, allow_hyphen_values = true)]
    strait_args: Vec<String>,
    /// Leave Strait out
    #[arg(long, conflicts_with_all = ["strait_cmd", "strait_args"])]
    no_strait: bool,
    /// Rounds; every peer has its turn in each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure again, so many times at most, while others use more than a tenth of a core; the calmest counts
    #[arg(long, default_value_t = 0)]
    again: usize,
    #[command(flatten)]
    pace: PaceOptions,
    /// Cores for the server
    #[arg(long, value_delimiter = ',', default_value = "0")]
    server_cores: Vec<usize>,
    /// The core for the load
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Count system calls too, in a short run of its own
    #[arg(long)]
    strace: bool,
    /// Write the tables into this file too
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Options {
    fn kinds(&self) -> Result<Vec<Kind>> {
        let peers: &[String] = if self.curves { &[] } else { &self.peers };
        let mut kinds: Vec<Kind> =
            peers.iter().filter(|name| !name.is_empty()).map(|name| Kind::parse(name)).collect::<Result<_>>()?;
        if self.no_strait {
            return Ok(kinds);
        }
        let base = match &self.strait_cmd {
            Some(command) => command.clone(),
            None => {
                let chat = env::current_exe()?.with_file_name("chat");
                format!(
                    "{} --listen 127.0.0.1:{{port}} --load-tests --connections 100000 --accepts 1000000",
                    chat.display()
                )
            }
        };
        let plain = [String::new()];
        for args in if self.strait_args.is_empty() { &plain[..] } else { &self.strait_args[..] } {
            kinds.push(Kind::Strait {
                label: format!("strait {args}").trim().to_owned(),
                command: format!("{base} {args}"),
            });
        }
        Ok(kinds)
    }

    fn work(&self) -> Result<Vec<Work>> {
        if self.curves { Work::CURVES.split(',').map(str::parse).collect() } else { Ok(self.work.clone()) }
    }

    /// The first undisturbed measurement, or the least disturbed of those that may be tried.
    fn calm(&self, measure: impl Fn() -> Result<Measured>) -> Result<Measured> {
        let mut calmest = measure()?;
        for _ in 0..self.again {
            if !calmest.disturbed() {
                break;
            }
            let next = measure()?;
            if next.others() < calmest.others() {
                calmest = next;
            }
        }
        Ok(calmest)
    }
}

/// Measures, prints, writes; an error once all is done if a measurement failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.strace && !strace::available() {
        bail!("--strace was asked for, but there is no strace here: install it or leave the option out");
    }
    let pace = options.pace.pace()?;
    let mut report = Report::new(options.server_cores.len());
    let mut kinds = options.kinds()?;
    kinds.retain(|kind| match kind.missing() {
        Some(reason) => {
            eprintln!("{} is left out: {reason}", kind.label());
            report.left_out(kind.label(), reason);
            false
        }
        None => true,
    });
    let start = |kind: &Kind| Server::start(kind, &options.server_cores, options.load_core);
    for work in &options.work()? {
        let kinds: Vec<&Kind> = kinds.iter().filter(|kind| work.possible(kind.dialect())).collect();
        let mut rows: Vec<Row> = kinds.iter().map(|kind| Row::new(kind.label())).collect();
        for round in 1..=options.rounds {
            for (kind, row) in kinds.iter().zip(&mut rows) {
                let measured = options.calm(|| {
                    let server = start(kind)?;
                    measure(*work, server.target(), pace, options.server_cores.len())
                });
                match &measured {
                    Ok(measured) => {
                        eprintln!("{work}, round {round}, {}: {}", kind.label(), report::any_line(*work, measured));
                    }
                    Err(error) => {
                        eprintln!("{work}, round {round}, {} FAILED: {error:#}", kind.label());
                    }
                }
                row.add(measured);
            }
        }
        if options.strace {
            for (kind, row) in kinds.iter().zip(&mut rows) {
                row.syscalls(start(kind).and_then(|server| syscalls(*work, server.target())));
            }
        }
        report.add(*work, rows);
    }
    let text = report.markdown(options.rounds, pace);
    println!("{text}");
    if let Some(path) = &options.out {
        fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match report.failures() {
        0 => Ok(()),
        failures => bail!("{failures} measurements failed: see above"),
    }
}
