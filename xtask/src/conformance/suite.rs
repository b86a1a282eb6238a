//! Runs Autobahn's fuzzing client.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use serde_json::json;

use super::{python::Environment, verdict, verdict::Case};
use crate::{
    interrupt::Interrupted,
    log::{last_lines, write_to},
    process,
    run_folder::RunFolder,
};

/// Compression, which Strait does not negotiate.
const EXCLUDED: [&str; 2] = ["12", "13"];

/// Prints the ids of all cases, in order.
const LIST: &str =
    "from autobahntestsuite.case import Cases, CaseSetname, CaseBasename, CaseCategories, CaseSubCategories
from autobahntestsuite.caseset import CaseSet
known = CaseSet(CaseSetname, CaseBasename, Cases, CaseCategories, CaseSubCategories)
print(' '.join(known.parseSpecCases({'cases': ['*']})))";
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// Every kind of case once, and the borders of lengths and characters; none takes long.
const SUBSET: &str = "1.1.1 1.1.2 1.1.3 1.1.6 1.1.7 1.1.8 1.2.1 1.2.3 1.2.7 1.2.8 2.1 2.4 2.5 2.6 2.8 2.11 \
    3.1 3.2 3.4 3.6 3.7 4.1.1 4.1.3 4.1.5 4.2.2 4.2.4 5.1 5.2 5.3 5.5 5.8 5.10 5.13 5.15 5.18 5.19 \
    6.1.1 6.1.3 6.2.2 6.2.4 6.3.1 6.3.2 6.4.2 6.4.3 6.6.3 6.7.4 6.12.8 6.20.1 6.22.1 7.1.2 7.1.4 7.1.5 7.1.6 7.3.1 7.3.2 7.3.6 \
    7.5.1 7.7.1 7.7.13 7.9.5 7.13.1 9.1.3 9.2.3 9.4.4 9.5.4 9.7.1 9.8.6 10.1.1";

#[derive(Debug, Clone, Copy)]
pub(super) enum Transport {
    Plain,
    Tls,
}

impl Transport {
    /// The name in file names, and as Autobahn's agent.
    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Plain => "plain",
            Transport::Tls => "tls",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Transport::Plain => "plain TCP",
            Transport::Tls => "TLS",
        }
    }
}

/// The cases to run.
pub(super) struct Suite {
    patterns: Vec<String>,
    /// The limit for one transport.
    limit: Duration,
}

impl Suite {
    pub(super) fn whole() -> Suite {
        Suite::of(vec!["*".to_owned()])
    }

    pub(super) fn subset() -> Suite {
        Suite { patterns: SUBSET.split_whitespace().map(str::to_owned).collect(), limit: Duration::from_secs(45) }
    }

    pub(super) fn of(patterns: Vec<String>) -> Suite {
        Suite { patterns, limit: Duration::from_secs(900) }
    }

    /// The verdict on each case, in order; a case missing from Autobahn's report has failed.
    pub(super) fn run(
        &self,
        environment: &Environment,
        transport: Transport,
        url: &str,
        folder: &Path,
        run: &RunFolder,
    ) -> anyhow::Result<Vec<Case>> {
        let cases = select(&list(environment, run)?, &self.patterns)?;
        let reports = folder.join("reports").join(transport.name());
        if reports.exists() {
            fs::remove_dir_all(&reports).context("cannot remove the reports of an earlier run")?;
        }
        let name = transport.name();
        let spec = json!({
            "outdir": reports,
            "servers": [{ "agent": name, "url": url }],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        });
        let spec_file = run.path().join(format!("{name}.json"));
        fs::write(&spec_file, spec.to_string()).context("cannot write into the run's folder")?;
        let log = run.path().join(format!("{name}-log"));
        let mut command = environment.command();
        // Unbuffered, so that the log shows the progress.
        command.args(["-u", "-m", "autobahntestsuite.wstest", "--mode", "fuzzingclient", "--spec"]).arg(&spec_file);
        command.current_dir(run.path());
        write_to(&mut command, &log)?;
        let said = || format!("the fuzzing client failed, and said: {}", last_lines(&log));
        match process::run(command, "wstest", Some(self.limit), run) {
            Ok(status) if status.success() => verdict::read(&reports, name, &cases).with_context(said),
            Ok(status) => bail!("{}: {status}", said()),
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => Err(error.context(said())),
        }
    }
}

fn list(environment: &Environment, run: &RunFolder) -> anyhow::Result<Vec<String>> {
    let log = run.path().join("list-log");
    let mut command = environment.command();
    command.args(["-W", "ignore", "-c", LIST]);
    write_to(&mut command, &log)?;
    if !process::run(command, "list", Some(LIST_LIMIT), run)?.success() {
        bail!("the test suite cannot list its cases: {}", last_lines(&log));
    }
    let text = fs::read_to_string(&log).context("cannot read the list of cases")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// The cases that a pattern names, in the order of `all`.
fn select(all: &[String], patterns: &[String]) -> anyhow::Result<Vec<String>> {
    let left = |id: &&String| !EXCLUDED.iter().any(|group| names(group, id));
    for pattern in patterns {
        if !all.iter().filter(left).any(|id| names(pattern, id)) {
            bail!("there is no case {pattern} (groups 12 and 13, compression, are left out)");
        }
    }
    Ok(all.iter().filter(left).filter(|id| patterns.iter().any(|pattern| names(pattern, id))).cloned().collect())
}

/// A case's id, the beginning of ids up to a dot, or up to a star.
fn names(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => id.starts_with(prefix),
        None => id.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_selected_by_patterns_and_those_on_compression_never() {
        let all = ["1.1.1", "1.1.2", "1.2.1", "2.1", "2.10", "10.1.1", "12.1.1", "13.7.18"].map(str::to_owned);
        let select = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            super::select(&all, &patterns).map(|cases| cases.join(" ")).map_err(|error| error.to_string())
        };
        assert_eq!(select(&["*"]).unwrap(), "1.1.1 1.1.2 1.2.1 2.1 2.10 10.1.1");
        assert_eq!(select(&["10", "1.*"]).unwrap(), "1.1.1 1.1.2 1.2.1 10.1.1");
        assert_eq!(select(&["2.1", "1.1", "1.1.2"]).unwrap(), "1.1.1 1.1.2 2.1");
        for unknown in ["12.*", "13.7.18", "8", "1.1.11", ""] {
            assert!(select(&["2.1", unknown]).unwrap_err().contains("there is no case"), "{unknown}");
        }
    }

    #[test]
    fn the_subset_has_some_sixty_cases_of_every_group() {
        let cases = Suite::subset().patterns;
        assert!((60..70).contains(&cases.len()), "{}", cases.len());
        for group in ["1", "2", "3", "4", "5", "6", "7", "9", "10"] {
            assert!(cases.iter().any(|case| names(group, case)), "none of group {group}");
        }
    }
}
