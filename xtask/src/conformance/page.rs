//! Writes the result into the book.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use super::{
    Run,
    groups::{Counts, count},
    verdict::{CaseId, Verdict},
};
use crate::{cargo, say::say};

const BEGIN: &str = "<!-- what follows is written by `cargo xtask conformance --write-docs` -->\n";
const END: &str = "<!-- end of what is written -->\n";

/// Replaces the page of an earlier run.
pub(super) fn write(runs: &[Run], suite: &str) -> anyhow::Result<()> {
    let root = cargo::root();
    let page = root.join("docs/src/conformance.md");
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let Some((before, rest)) = text.split_once(BEGIN) else { bail!("{} lacks the line {BEGIN}", page.display()) };
    let Some((_, after)) = rest.split_once(END) else { bail!("{} lacks the line {END}", page.display()) };
    let versions = format!("{suite}, fastwebsockets {}, {}", locked(root, "fastwebsockets")?, rustc()?);
    fs::write(&page, format!("{before}{BEGIN}{}{END}{after}", result(runs, &versions)))
        .with_context(|| format!("cannot write {}", page.display()))?;
    say(format_args!("\nwrote {}", page.display()));
    Ok(())
}

fn result(runs: &[Run], versions: &str) -> String {
    let mut text = format!("\n`cargo xtask conformance`, with {versions}, a release build:\n\n");
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writes to a string do not fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!("| over | group | cases | OK | NON-STRICT | INFORMATIONAL | FAILED |"));
    line(format_args!("|---|---|---|---|---|---|---|"));
    for Run { transport, cases, .. } in runs {
        for (group, Counts { cases, ok, non_strict, informational, failed, .. }) in count(cases) {
            line(format_args!(
                "| {} | {group} | {cases} | {ok} | {non_strict} | {informational} | {failed} |",
                transport.title()
            ));
        }
    }
    line(format_args!("\n| case | over | verdict | why |"));
    line(format_args!("|---|---|---|---|"));
    let mut others: BTreeMap<(&CaseId, Verdict, &str), Vec<&str>> = BTreeMap::new();
    for Run { transport, cases, .. } in runs {
        for case in cases.iter().filter(|case| case.verdict != Verdict::Ok) {
            others.entry((&case.id, case.verdict, &case.why)).or_default().push(transport.title());
        }
    }
    for ((id, verdict, why), over) in others {
        line(format_args!("| {id} | {} | {} | {why} |", over.join(", "), verdict.name()));
    }
    line(format_args!(""));
    text
}

/// A package's version in `Cargo.lock`.
fn locked(root: &Path, package: &str) -> anyhow::Result<String> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    version(&lock, package).with_context(|| format!("{package} is not in Cargo.lock"))
}

fn version(lock: &str, package: &str) -> Option<String> {
    let (_, after) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    Some(after.split_once('"')?.0.to_owned())
}

/// As in `rustc 1.95.0`.
fn rustc() -> anyhow::Result<String> {
    let program = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", PathBuf::from(program).display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::conformance::{suite::Transport, verdict};

    #[test]
    fn a_version_is_found_by_the_whole_name() {
        let lock = "name = \"fast\"\nversion = \"0.1.0\"\n\nname = \"faster\"\nversion = \"0.2.0\"\n";
        assert_eq!(version(lock, "faster").as_deref(), Some("0.2.0"));
        assert_eq!(version(lock, "fast").as_deref(), Some("0.1.0"));
        assert_eq!(version(lock, "aster"), None);
    }

    #[test]
    fn the_result_has_each_group_and_each_case_that_is_not_ok() {
        let folder = env::temp_dir().join(format!("xtask-page-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let entry = |behavior: &str| serde_json::json!({ "behavior": behavior, "behaviorClose": "OK", "duration": 500, "reportfile": "" });
        let index = serde_json::json!({ "tls": { "6.4.3": entry("NON-STRICT"), "6.1.1": entry("OK") } });
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        let cases = verdict::read(&folder, "tls", &["6.4.3", "6.1.1", "10.1.1"].map(str::to_owned));
        fs::remove_dir_all(&folder).unwrap();
        let cases = cases.unwrap();
        let run = |transport| Run { transport, cases: cases.clone(), time: Duration::ZERO };
        let text = result(&[run(Transport::Plain), run(Transport::Tls)], "suite 1");
        for expected in [
            "`cargo xtask conformance`, with suite 1, a release build",
            "| TLS | 6 UTF-8 | 2 | 1 | 1 | 0 | 0 |",
            "| TLS | 10 various | 1 | 0 | 0 | 0 | 1 |",
            "| TLS | all | 3 | 1 | 1 | 0 | 1 |",
            "| 6.4.3 | plain TCP, TLS | NON-STRICT | the text of one frame",
            "| 10.1.1 | plain TCP, TLS | FAILED | the fuzzing client gives no verdict |",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
        assert!(!text.contains("| 6.1.1 |"), "{text}");
    }
}
