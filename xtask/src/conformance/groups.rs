//! Verdicts by Autobahn's groups of cases.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use super::verdict::{Case, Verdict};

#[derive(Default)]
pub(super) struct Counts {
    pub(super) cases: usize,
    pub(super) ok: usize,
    pub(super) non_strict: usize,
    pub(super) informational: usize,
    pub(super) failed: usize,
    pub(super) time: Duration,
}

impl Counts {
    fn add(&mut self, case: &Case) {
        self.cases += 1;
        self.time += case.time;
        *match case.verdict {
            Verdict::Ok => &mut self.ok,
            Verdict::NonStrict => &mut self.non_strict,
            Verdict::Informational => &mut self.informational,
            Verdict::Failed => &mut self.failed,
        } += 1;
    }
}

/// The counts per group and, last, of all cases.
pub(super) fn count(cases: &[Case]) -> Vec<(String, Counts)> {
    let mut groups: BTreeMap<u32, Counts> = BTreeMap::new();
    let mut all = Counts::default();
    for case in cases {
        groups.entry(case.id.group()).or_default().add(case);
        all.add(case);
    }
    let named = groups.into_iter().map(|(group, counts)| (format!("{group} {}", title(group)), counts));
    named.chain([("all".to_owned(), all)]).collect()
}

fn title(group: u32) -> &'static str {
    match group {
        1 => "framing",
        2 => "pings, pongs",
        3 => "reserved bits",
        4 => "opcodes",
        5 => "fragmentation",
        6 => "UTF-8",
        7 => "closing",
        9 => "long and many",
        10 => "various",
        _ => "",
    }
}

/// For a terminal.
pub(super) fn table(cases: &[Case]) -> String {
    let mut table = format!(
        "{:<16} {:>6} {:>6} {:>11} {:>14} {:>7} {:>9}",
        "group", "cases", "OK", "NON-STRICT", "INFORMATIONAL", "FAILED", "time"
    );
    for (group, Counts { cases, ok, non_strict, informational, failed, time }) in count(cases) {
        let time = time.as_secs_f64();
        // Writes to a string do not fail.
        let _ = write!(
            table,
            "\n{group:<16} {cases:>6} {ok:>6} {non_strict:>11} {informational:>14} {failed:>7} {time:>7.1} s"
        );
    }
    table
}
