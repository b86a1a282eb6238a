//! `cargo xtask conformance`: Autobahn's fuzzing client against a Strait server.

mod groups;
mod page;
mod python;
mod server;
mod suite;
mod verdict;

use std::{
    env, fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;

use self::{
    python::Environment,
    server::Server,
    suite::{Suite, Transport},
    verdict::{Case, Verdict},
};
use crate::{interrupt::Interrupted, run_folder::RunFolder, say::say};

/// The exit status if this machine cannot run the suite, so that nothing was tested.
const CANNOT: u8 = 3;

/// Runs Autobahn's cases, except for those on compression, which Strait does not negotiate, against
/// its echo server over plain TCP and over TLS.
///
/// A case passes if Autobahn finds it OK, INFORMATIONAL, or NON-STRICT where a reason is known.
/// The suite needs Python 2.7 (STRAIT_PYTHON2 names the program) with pip, and a C compiler; its
/// packages come from PyPI into the target folder. Exit status 3: this machine cannot run it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Cases such as 1.*,5.19 instead of all
    #[arg(long, value_delimiter = ',', value_name = "PATTERNS")]
    cases: Vec<String>,
    /// Some 60 cases of all groups, against a debug build, within two minutes
    #[arg(long, conflicts_with = "cases")]
    subset: bool,
    /// Over plain TCP only
    #[arg(long, conflicts_with = "tls")]
    plain: bool,
    /// Over TLS only
    #[arg(long)]
    tls: bool,
    /// Write the result into docs/src/conformance.md
    #[arg(long, conflicts_with_all = ["cases", "subset", "plain", "tls"])]
    write_docs: bool,
}

impl Args {
    fn suite(&self) -> Suite {
        if self.subset {
            Suite::subset()
        } else if self.cases.is_empty() {
            Suite::whole()
        } else {
            Suite::of(self.cases.clone())
        }
    }

    fn transports(&self) -> impl Iterator<Item = Transport> {
        let wanted = |transport: &Transport| match transport {
            Transport::Plain => !self.tls,
            Transport::Tls => !self.plain,
        };
        [Transport::Plain, Transport::Tls].into_iter().filter(wanted)
    }
}

/// The result of one transport.
struct Run {
    transport: Transport,
    cases: Vec<Case>,
    time: Duration,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let run = RunFolder::create()?;
    let folder = folder()?;
    let environment = match Environment::prepare(&folder, &run) {
        Ok(environment) => environment,
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => {
            say(format_args!("conformance: cannot run on this machine: {error:#}"));
            return Ok(ExitCode::from(CANNOT));
        }
    };
    say(format_args!("conformance: {}", environment.versions()));
    let server = Server::start(!args.subset, &run)?;
    let suite = args.suite();
    let mut runs = Vec::new();
    for transport in args.transports() {
        let start = Instant::now();
        let cases = suite.run(&environment, transport, server.url(transport), &folder, &run)?;
        let done = Run { transport, cases, time: start.elapsed() };
        print(&done);
        runs.push(done);
    }
    server.end()?;
    if args.write_docs {
        page::write(&runs, &environment.versions())?;
    }
    let failed = runs.iter().flat_map(|run| &run.cases).filter(|case| case.verdict == Verdict::Failed).count();
    let ending = if failed == 0 { "passed".to_owned() } else { format!("FAILED, {failed} cases") };
    let reports = folder.join("reports");
    say(format_args!("\nreports of each case: {}", reports.display()));
    say(format_args!("conformance {ending}, {:.1} s", start.elapsed().as_secs_f64()));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(run: &Run) {
    let Run { transport, cases, time } = run;
    say(format_args!("\n{}: {} cases in {:.1} s", transport.title(), cases.len(), time.as_secs_f64()));
    say(groups::table(cases));
    for case in cases.iter().filter(|case| case.verdict != Verdict::Ok) {
        say(format_args!("{:<14} {:<8} {}", case.verdict.name(), case.id, case.why));
    }
}

/// Under the target folder that this program was built into.
fn folder() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    let target = program.ancestors().nth(2).context("this program is not in a target folder")?;
    let folder = target.join("conformance");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}
