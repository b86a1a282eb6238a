//! Micro-benchmarks in instructions, which do not vary with the machine's load: each runs in callgrind and is compared
//! with the committed baseline.

mod cases;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use cases::Case;

/// Growth beyond this is a failure.
const ALLOWED: f64 = 1.1;
/// The counted function of `cases`, with all its callees.
const COUNTED: &str = "*::counts::cases::counted*";

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.txt")
}

/// Counts every case and compares; an error names the cases that grew by more than a tenth. With `save` the result
/// becomes the baseline.
pub(crate) fn run(save: bool) -> Result<()> {
    let valgrind = Command::new("valgrind").arg("--version").stdin(Stdio::null()).output();
    ensure!(
        valgrind.is_ok_and(|output| output.status.success()),
        "instructions are counted by valgrind, which is not here: install it (apt-get install valgrind)"
    );
    let baseline = match fs::read_to_string(baseline_path()) {
        Ok(text) => parse(&text)?,
        Err(_) if save => BTreeMap::new(),
        Err(error) => return Err(error).context("the baseline counts.txt cannot be read, make one with --save"),
    };
    let mut counts = BTreeMap::new();
    let mut table = "| what | instructions | baseline | |\n|---|--:|--:|--:|\n".to_owned();
    for case in Case::ALL {
        let count = count(case)?;
        let before = baseline.get(case.name()).copied();
        let change = before.map_or_else(String::new, |before| format!("{:+.1} %", (count / before - 1.0) * 100.0));
        let before = before.map_or_else(String::new, |before| format!("{before:.0}"));
        // Writes to a string do not fail.
        let _written = writeln!(table, "| {} | {count:.0} | {before} | {change} |", case.name());
        eprintln!("{}: {count:.0}", case.name());
        counts.insert(case.name(), count);
    }
    println!("{table}");
    if save {
        let lines = counts.iter().map(|(name, count)| format!("{count:.0}\t{name}\n"));
        let head = "# Instructions by `cargo xtask bench --counts -- --save`.\n".to_owned();
        return Ok(fs::write(baseline_path(), head + &lines.collect::<String>())?);
    }
    let grown = grown(&baseline, &counts);
    if !grown.is_empty() {
        bail!("grew by more than a tenth: {}", grown.join(", "));
    }
    Ok(())
}

/// The cases that grew by more than is allowed, or have no baseline.
fn grown(baseline: &BTreeMap<String, f64>, counts: &BTreeMap<&str, f64>) -> Vec<String> {
    let grew = |(name, count): (&&str, &f64)| match baseline.get(*name) {
        Some(before) if *count <= before * ALLOWED => None,
        Some(before) => Some(format!("{name} ({before:.0} → {count:.0})")),
        None => Some(format!("{name} (not in the baseline)")),
    };
    counts.iter().filter_map(grew).collect()
}

fn parse(text: &str) -> Result<BTreeMap<String, f64>> {
    let line = |line: &str| {
        let (count, name) = line.split_once('\t').with_context(|| format!("{line:?} is no count and name"))?;
        Ok((name.to_owned(), count.parse().with_context(|| format!("{count:?} is no count"))?))
    };
    text.lines().filter(|text| !text.starts_with('#')).map(line).collect()
}

/// Instructions of one operation of a case.
fn count(case: Case) -> Result<f64> {
    let out = env::temp_dir().join(format!("strait-counts-{}-{}", std::process::id(), case.name().replace(' ', "-")));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .args(["count", case.name()])
        .stdin(Stdio::null())
        .output()
        .context("valgrind cannot be run")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed in valgrind: {}", case.name(), told.trim());
    let profile = fs::read_to_string(&out).with_context(|| format!("callgrind left no {}", out.display()))?;
    fs::remove_file(&out)?;
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")).context("a profile has totals")?;
    let total: f64 = total.trim().parse()?;
    ensure!(total > 0.0, "callgrind found no function {COUNTED}");
    Ok(total / f64::from(case.operations()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_than_a_tenth_is_growth() {
        let baseline = parse("# head\n100\ta\n100\tb\n100\tc\n").unwrap();
        let counts = BTreeMap::from([("a", 110.0), ("b", 111.0), ("c", 50.0), ("d", 1.0)]);
        assert_eq!(grown(&baseline, &counts), ["b (100 → 111)", "d (not in the baseline)"]);
        assert!(parse("hundred\ta\n").is_err());
    }

    #[test]
    fn the_baseline_names_every_case_and_no_other() {
        let baseline = parse(&fs::read_to_string(baseline_path()).unwrap()).unwrap();
        let mut names: Vec<&str> = Case::ALL.iter().map(|case| case.name()).collect();
        names.sort_unstable();
        assert_eq!(baseline.keys().map(String::as_str).collect::<Vec<_>>(), names);
    }
}
