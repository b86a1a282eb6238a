use crate::xtask::{Folder, Held, run};

/// An address without an engine, on any machine.
const NO_ENGINE: (&str, &str) = ("DOCKER_HOST", "unix:///nowhere/docker.sock");

fn check(way: &str) {
    let folder = Folder::new();
    let Some(mut held) = Held::start_by(way, &folder) else {
        return;
    };
    held.assert_answer();
    held.close_input();
    assert_eq!(held.status(), Some(0));
    held.assert_gone();
    folder.assert_empty();
}

#[test]
fn containers_answer_and_are_removed() {
    check("docker");
}

#[test]
fn local_servers_answer_and_are_stopped() {
    check("local");
}

#[test]
fn given_servers_are_used_and_left_alone() {
    let (outer, inner) = (Folder::new(), Folder::new());
    let Some(giver) = Held::start_by("local", &outer) else {
        return;
    };
    let urls = [("STRAIT_TEST_REDIS_URL", &*giver.redis), ("STRAIT_TEST_POSTGRES_URL", &*giver.postgres)];
    let mut held = Held::start(&inner, &urls).unwrap();
    assert_eq!((&held.redis, &held.postgres), (&giver.redis, &giver.postgres));
    held.close_input();
    assert_eq!(held.status(), Some(0));
    giver.assert_answer();
    inner.assert_empty();
}

#[test]
fn a_way_that_fails_is_told_and_the_next_is_taken() {
    let (outer, inner) = (Folder::new(), Folder::new());
    // A machine that cannot start local servers has no next way.
    let Some(giver) = Held::start_by("local", &outer) else {
        return;
    };
    // Port 1 on loopback has no listener.
    let given =
        [("STRAIT_TEST_REDIS_URL", "redis://127.0.0.1:1/0"), ("STRAIT_TEST_POSTGRES_URL", &*giver.postgres), NO_ENGINE];
    let held = Held::start(&inner, &given).unwrap();
    held.assert_answer();
    assert_eq!(held.postgres, giver.postgres);
    for expected in [
        "redis: not by url: nothing answers at 127.0.0.1:1",
        "redis: not by docker: no Docker engine answers at DOCKER_HOST=unix:///nowhere",
        "postgres: given by STRAIT_TEST_POSTGRES_URL",
    ] {
        assert!(held.said.contains(expected), "{expected} in {}", held.said);
    }
    assert!(!held.said.contains("postgres: not by"), "{}", held.said);
}

#[test]
fn without_any_way_it_says_what_to_install() {
    let folder = Folder::new();
    let (status, output) = run(&folder, &["services"], &[NO_ENGINE, ("PATH", "/nowhere")]);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("apt-get install redis-server postgresql"), "{output}");
    folder.assert_empty();
}
