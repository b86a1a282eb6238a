//! Tables of the measurements, with the versions and the command that made them.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::Result;

use crate::server::ws_folder;
use crate::work::{Measured, Pace, Speed, Work};

/// The libraries that the peers are built on.
const LIBRARIES: [&str; 8] =
    ["fastwebsockets", "hyper", "tokio", "tokio-tungstenite", "tungstenite", "axum", "socketioxide", "engineioxide"];
/// The row that ratios refer to.
const REFERENCE: &str = "fastws";

/// A peer's measurements of one work.
#[derive(Debug)]
pub(crate) struct Row {
    label: String,
    speeds: Vec<Speed>,
    bytes: Vec<f64>,
    syscalls: Option<f64>,
    failures: Vec<String>,
}

impl Row {
    /// An empty one.
    pub(crate) fn new(label: String) -> Self {
        Self { label, speeds: Vec::new(), bytes: Vec::new(), syscalls: None, failures: Vec::new() }
    }

    /// Adds a round.
    pub(crate) fn add(&mut self, measured: Result<Measured>) {
        match measured {
            Ok(Measured::Speed(speed)) => self.speeds.push(speed),
            Ok(Measured::Memory(bytes)) => self.bytes.push(bytes),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }

    /// Adds the count of system calls.
    pub(crate) fn syscalls(&mut self, counted: Result<Option<f64>>) {
        match counted {
            Ok(counted) => self.syscalls = counted,
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }

    fn of<F: Into<Option<f64>>>(&self, figure: impl Fn(&Speed) -> F) -> Vec<f64> {
        self.speeds.iter().filter_map(|speed| figure(speed).into()).collect()
    }

    fn notes(&self) -> String {
        let mut notes = Vec::new();
        let limited = self.speeds.iter().filter(|speed| speed.load_was_the_limit).count();
        if limited > 0 {
            notes.push(format!("**the load generator was the limit** in {limited} of {} rounds", self.speeds.len()));
        }
        let disturbed = self.speeds.iter().filter(|speed| Measured::Speed(**speed).disturbed()).count();
        if disturbed > 0 {
            notes.push(format!("others used the machine in {disturbed} rounds"));
        }
        if let Some(failure) = self.failures.first() {
            notes.push(format!("**{} failed**: {}", self.failures.len(), failure.replace('|', "\\|")));
        }
        notes.join("; ")
    }
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

fn spread(figures: &[f64], scale: f64) -> String {
    let (least, most) = figures.iter().fold((f64::MAX, f64::MIN), |(a, b), figure| (a.min(*figure), b.max(*figure)));
    if figures.is_empty() { "–".to_owned() } else { format!("{}–{}", short(least / scale), short(most / scale)) }
}

/// Such measurements are good for three digits.
fn short(figure: f64) -> String {
    match figure {
        100.0.. => format!("{figure:.0}"),
        10.0..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn time(micros: Option<f64>) -> String {
    match micros {
        None => "–".to_owned(),
        Some(micros @ 1000.0..) => format!("{} ms", short(micros / 1000.0)),
        Some(micros) => format!("{} µs", short(micros)),
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn optional(figure: Option<f64>, scale: f64) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| short(figure / scale))
}

fn ratio(figure: Option<f64>, reference: Option<f64>) -> String {
    optional(figure.zip(reference).map(|(figure, reference)| figure / reference), 1.0)
}

/// One measurement of speed in a line.
pub(crate) fn line(work: Work, speed: &Speed) -> String {
    format!(
        "{:.0} {}/s, {} thousand a server CPU second, p50 {}, p99 {}, server {:.0} %, load {:.0} %, others {:.0} %{}",
        speed.rate,
        work.unit(),
        optional(speed.per_cpu, 1e3),
        time(Some(micros(speed.p50))),
        time(Some(micros(speed.p99))),
        speed.server * 100.0,
        speed.load * 100.0,
        speed.others * 100.0,
        if speed.load_was_the_limit { ", THE LOAD WAS THE LIMIT" } else { "" },
    )
}

/// One measurement of any kind in a line.
pub(crate) fn any_line(work: Work, measured: &Measured) -> String {
    match measured {
        Measured::Speed(speed) => line(work, speed),
        Measured::Memory(bytes) => format!("{bytes:.0} bytes a connection"),
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    tables: Vec<(Work, Vec<Row>)>,
    left_out: Vec<(String, String)>,
    server_cores: usize,
}

impl Report {
    /// An empty one, for servers on so many cores.
    pub(crate) fn new(server_cores: usize) -> Self {
        Self { tables: Vec::new(), left_out: Vec::new(), server_cores }
    }

    /// Adds the rows of one work.
    pub(crate) fn add(&mut self, work: Work, rows: Vec<Row>) {
        self.tables.push((work, rows));
    }

    /// Tells that a peer was not measured.
    pub(crate) fn left_out(&mut self, label: String, reason: String) {
        self.left_out.push((label, reason));
    }

    /// Measurements that failed.
    pub(crate) fn failures(&self) -> usize {
        self.tables.iter().flat_map(|(_, rows)| rows).map(|row| row.failures.len()).sum()
    }

    /// The whole report.
    pub(crate) fn markdown(&self, rounds: usize, pace: Pace) -> String {
        let mut text = format!(
            "Medians of {rounds} rounds of {:?} after {:?} of warm-up, peers in turn; the server on {} core{}, the load generator \
             on one of its own. Ratios (×) refer to `{REFERENCE}`.\n",
            pace.measured,
            pace.warm_up,
            self.server_cores,
            if self.server_cores == 1 { "" } else { "s" },
        );
        for (work, rows) in &self.tables {
            text += &match work {
                Work::Idle { .. } => memory_table(*work, rows),
                _ => speed_table(*work, rows),
            };
        }
        for (label, reason) in &self.left_out {
            text += &format!("\n{label} was left out: {reason}\n");
        }
        text += &format!("\nMade by `strait-bench {}`.\n\n{}", arguments(), versions());
        text
    }
}

fn speed_table(work: Work, rows: &[Row]) -> String {
    let unit = work.unit();
    let mut text = format!(
        "\n### {work}\n\n| peer | thousand {unit}/s | spread | × | thousand {unit} a server CPU second | × | p50 | p99 | \
         system calls each | server | load | |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n"
    );
    let reference = rows.iter().find(|row| row.label == REFERENCE);
    let reference_rate = reference.and_then(|row| median(&row.of(|speed| speed.rate)));
    let reference_per_cpu = reference.and_then(|row| median(&row.of(|speed| speed.per_cpu)));
    for row in rows {
        let rates = row.of(|speed| speed.rate);
        let per_cpu = median(&row.of(|speed| speed.per_cpu));
        let percent = |figure: fn(&Speed) -> f64| {
            median(&row.of(figure)).map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0))
        };
        let latency = |figure: fn(&Speed) -> f64| time(median(&row.of(figure)).filter(|micros| *micros > 0.0));
        // Writing to a string does not fail.
        let _written = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.label,
            optional(median(&rates), 1e3),
            spread(&rates, 1e3),
            ratio(median(&rates), reference_rate),
            optional(per_cpu, 1e3),
            ratio(per_cpu, reference_per_cpu),
            latency(|speed| micros(speed.p50)),
            latency(|speed| micros(speed.p99)),
            optional(row.syscalls, 1.0),
            percent(|speed| speed.server),
            percent(|speed| speed.load),
            row.notes(),
        );
    }
    text
}

fn memory_table(work: Work, rows: &[Row]) -> String {
    let mut text = format!("\n### {work}\n\n| peer | KiB a connection | spread | × | |\n|---|--:|--:|--:|---|\n");
    let reference = rows.iter().find(|row| row.label == REFERENCE).and_then(|row| median(&row.bytes));
    for row in rows {
        let bytes = median(&row.bytes);
        // Writing to a string does not fail.
        let _written = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.label,
            optional(bytes, 1024.0),
            spread(&row.bytes, 1024.0),
            ratio(bytes, reference),
            row.notes(),
        );
    }
    text
}

/// The arguments as they would be typed.
fn arguments() -> String {
    let quoted = |word: String| {
        if word.contains(' ') { format!("'{word}'") } else { word }
    };
    env::args().skip(1).map(quoted).collect::<Vec<_>>().join(" ")
}

/// Versions of the measured libraries and of the machine's software.
fn versions() -> String {
    let lock = include_str!("../../Cargo.lock");
    let mut versions = Vec::new();
    for name in LIBRARIES {
        let entry = format!("name = \"{name}\"\nversion = \"");
        // `Cargo.lock` may have several versions: axum brings a tungstenite of its own.
        let found = lock.split(&entry).skip(1).filter_map(|after| Some(after.split_once('"')?.0));
        versions.push(format!("{name} {}", found.collect::<Vec<_>>().join(" and ")));
    }
    let asked = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    versions.extend(asked("node", "--version").map(|version| format!("node {version}")));
    let package = fs::read_to_string(ws_folder().join("node_modules/ws/package.json")).unwrap_or_default();
    if let Some(version) = serde_json::from_str::<serde_json::Value>(&package).unwrap_or_default()["version"].as_str() {
        versions.push(format!("ws {version}"));
    }
    versions.extend(asked("rustc", "--version"));
    if let Ok(kernel) = fs::read_to_string("/proc/sys/kernel/osrelease") {
        versions.push(format!("Linux {}", kernel.trim()));
    }
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model))
        .collect();
    if let Some(model) = models.first() {
        versions.push(format!("{} × {model}", models.len()));
    }
    format!("Versions: {}.\n", versions.join(", "))
}
