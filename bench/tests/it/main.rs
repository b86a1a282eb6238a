//! The benchmark itself, in short runs: every peer does all the work, and a wrong server is detected.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_strait-bench");

fn run(arguments: &str) -> Output {
    let mut run = Command::new(PROGRAM);
    run.args("run --rounds 1 --seconds 0.2 --warm-up 0.1".split(' ')).args(arguments.split(' ')).output().unwrap()
}

fn check(peers: &str) {
    let work =
        "echo:32:10:1,echo:1024:10:64,fanout:100:10:8,idle:100:silent,idle:100:spoken,idle:100:subscribed,connect";
    let output = run(&format!("--no-strait --peers {peers} --work {work}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.matches("### ").count(), 7, "{table}");
    assert!(!table.contains("NaN"), "{table}");
}

#[test]
fn fastwebsockets_does_all_the_work() {
    check("tcp,fastws,fastws@shared");
}

#[test]
fn tungstenite_and_axum_do_all_the_work() {
    check("tungstenite,axum,axum-4k");
}

#[test]
fn socketioxide_does_all_the_work() {
    check("socketioxide");
}

/// A peer that speaks another protocol than the load must not be measured.
fn check_refused(peer: &str, work: &str, reason: &str) {
    let command = format!("{PROGRAM} serve {peer} --port {{port}}");
    let output = Command::new(PROGRAM)
        .args(["run", "--peers", "", "--rounds", "1", "--seconds", "0.1", "--work", work, "--strait-cmd", &command])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains(reason), "{told}");
}

#[test]
fn a_server_that_answers_wrongly_is_found_out() {
    check_refused("fastws", "fanout:100:10:1", "expected Text");
    check_refused("socketioxide", "echo:32:10:1", "refused the upgrade");
}
