//! Reads Autobahn's JSON reports.

use std::{cmp::Ordering, collections::HashMap, fmt, fs, path::Path, time::Duration};

use anyhow::Context;
use serde::{Deserialize, de::DeserializeOwned};

/// The reasons for verdicts that Autobahn does not call OK. A non-strict case that is not listed here has failed.
const REASONS: [(&str, &str); 5] = [
    ("6.4.3", NOT_YET_WHOLE),
    ("6.4.4", NOT_YET_WHOLE),
    ("7.1.6", "both messages before the close frame are answered, then the close"),
    ("7.13.1", "close code 5000 is answered with 1002"),
    ("7.13.2", "close code 65535 is answered with 1002"),
];
const NOT_YET_WHOLE: &str = "the text of one frame is checked once the frame is whole, so 1007 follows its last octet; \
    of a fragmented message each frame is checked as it comes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Ok,
    Informational,
    NonStrict,
    Failed,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::Informational => "INFORMATIONAL",
            Verdict::NonStrict => "NON-STRICT",
            Verdict::Failed => "FAILED",
        }
    }

    /// All other verdicts of Autobahn, such as UNCLEAN or UNIMPLEMENTED, are failures.
    fn of(behavior: &str) -> Verdict {
        [Verdict::Ok, Verdict::Informational, Verdict::NonStrict]
            .into_iter()
            .find(|verdict| verdict.name() == behavior)
            .unwrap_or(Verdict::Failed)
    }
}

/// `7.13.1`, in the order of its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CaseId(String);

impl CaseId {
    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.split('.').map(|number| number.parse().unwrap_or(0))
    }

    /// The first number.
    pub(super) fn group(&self) -> u32 {
        self.numbers().next().unwrap_or(0)
    }
}

impl Ord for CaseId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers().cmp(other.numbers())
    }
}

impl PartialOrd for CaseId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One case's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) id: CaseId,
    pub(super) verdict: Verdict,
    /// Empty if it is OK.
    pub(super) why: String,
    pub(super) time: Duration,
}

/// An entry of `index.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    behavior: String,
    behavior_close: String,
    /// In milliseconds.
    duration: u64,
    reportfile: String,
}

/// The fields of interest in a case's own report.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    description: String,
    result: String,
    result_close: String,
}

/// The outcomes of the cases that were asked for, in order.
pub(super) fn read(reports: &Path, agent: &str, asked: &[String]) -> anyhow::Result<Vec<Case>> {
    let mut index: HashMap<String, HashMap<String, Entry>> = json(&reports.join("index.json"))?;
    let mut entries = index.remove(agent).unwrap_or_default();
    let outcome = |id: &String| {
        let Some(entry) = entries.remove(id) else {
            let why = "the fuzzing client gives no verdict".to_owned();
            return Ok(Case { id: CaseId(id.clone()), verdict: Verdict::Failed, why, time: Duration::ZERO });
        };
        judge(id, &entry, || json(&reports.join(&entry.reportfile)))
    };
    let mut cases = asked.iter().map(outcome).collect::<anyhow::Result<Vec<_>>>()?;
    cases.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(cases)
}

fn json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no such report", path.display()))
}

fn judge(id: &str, entry: &Entry, detail: impl FnOnce() -> anyhow::Result<Detail>) -> anyhow::Result<Case> {
    let found = Verdict::of(&entry.behavior).max(Verdict::of(&entry.behavior_close));
    let reason = REASONS.iter().find(|(case, _)| *case == id).map(|(_, reason)| *reason);
    let (verdict, why) = match (found, reason) {
        (Verdict::Ok, _) => (Verdict::Ok, String::new()),
        (Verdict::NonStrict | Verdict::Informational, Some(reason)) => (found, reason.to_owned()),
        (Verdict::NonStrict | Verdict::Informational | Verdict::Failed, _) => {
            let Entry { behavior, behavior_close, .. } = entry;
            let Detail { description, result, result_close } = detail()?;
            let why =
                format!("{behavior}: {result} Close {behavior_close}: {result_close}. {}", one_line(&description));
            (if found == Verdict::Informational { found } else { Verdict::Failed }, why)
        }
    };
    Ok(Case { id: CaseId(id.to_owned()), verdict, why, time: Duration::from_millis(entry.duration) })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, behavior: &str, close: &str, verdict: Verdict, why: &str) {
        let entry = Entry {
            behavior: behavior.to_owned(),
            behavior_close: close.to_owned(),
            duration: 7,
            reportfile: String::new(),
        };
        let detail = || {
            let (result, result_close) = ("got 1.".to_owned(), "closed".to_owned());
            Ok(Detail { description: "Send\n 2".to_owned(), result, result_close })
        };
        let case = judge(id, &entry, detail).unwrap();
        assert_eq!((case.verdict, case.time), (verdict, Duration::from_millis(7)), "{id} {behavior} {close}");
        assert!(case.why.contains(why) && case.why.is_empty() == (verdict == Verdict::Ok), "{}", case.why);
    }

    #[test]
    fn only_a_known_reason_excuses_a_non_strict_case() {
        check("6.4.3", "NON-STRICT", "OK", Verdict::NonStrict, "once the frame is whole");
        check("6.4.1", "NON-STRICT", "OK", Verdict::Failed, "NON-STRICT: got 1. Close OK: closed. Send 2");
        check("6.4.3", "OK", "OK", Verdict::Ok, "");
        check("7.13.1", "INFORMATIONAL", "INFORMATIONAL", Verdict::Informational, "1002");
        check("7.13.9", "INFORMATIONAL", "INFORMATIONAL", Verdict::Informational, "got 1.");
    }

    #[test]
    fn a_case_is_as_bad_as_its_worse_half_and_what_is_unknown_has_failed() {
        check("1.1.1", "OK", "WRONG CODE", Verdict::Failed, "Close WRONG CODE");
        check("6.4.3", "FAILED", "OK", Verdict::Failed, "FAILED: got 1.");
        check("6.4.3", "NON-STRICT", "UNCLEAN", Verdict::Failed, "UNCLEAN");
        check("1.1.1", "UNIMPLEMENTED", "INFORMATIONAL", Verdict::Failed, "UNIMPLEMENTED");
    }

    #[test]
    fn cases_are_in_the_order_of_their_numbers() {
        let mut ids = ["10.1.1", "2.11", "2.2", "2"].map(|id| CaseId(id.to_owned()));
        ids.sort();
        assert_eq!(ids.map(|id| id.0), ["2", "2.2", "2.11", "10.1.1"]);
    }
}
