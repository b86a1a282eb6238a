use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::xtask::{Folder, Held, command, run, wait_until};

fn check_signal(way: &str, signal: Signal, status: i32) {
    let folder = Folder::new();
    let Some(mut held) = Held::start_by(way, &folder) else {
        return;
    };
    held.signal(signal);
    assert_eq!(held.status(), Some(status));
    held.assert_gone();
    folder.assert_empty();
}

#[test]
fn sigterm_leaves_no_server_behind() {
    check_signal("local", Signal::TERM, 143);
}

#[test]
fn sigint_leaves_no_server_behind() {
    check_signal("local", Signal::INT, 130);
}

#[test]
fn sigterm_leaves_no_container_behind() {
    check_signal("docker", Signal::TERM, 143);
}

#[test]
fn a_signal_while_servers_start_leaves_nothing_behind() {
    let folder = Folder::new();
    let mut child = command(&folder, &["services"], &[("STRAIT_TEST_SERVICES", "local")]).spawn().unwrap();
    wait_until("the run has its folder", || fs::read_dir(folder.path()).unwrap().flatten().next());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = wait_until("xtask ends", || child.try_wait().unwrap());
    assert!(!status.success(), "{status}");
    folder.assert_empty();
}

#[test]
fn servers_of_a_killed_run_are_stopped_by_the_next() {
    let folder = Folder::new();
    let Some(mut held) = Held::start_by("local", &folder) else {
        return;
    };
    held.signal(Signal::KILL);
    assert_eq!(held.status(), None);
    held.assert_answer();
    let next = Held::start_by("local", &folder).expect("it could a moment ago");
    assert!(next.said.contains("which a killed run had left"), "{}", next.said);
    held.assert_gone();
    next.assert_answer();
    drop(next);
    folder.assert_empty();
}

#[test]
fn containers_of_a_killed_run_end_with_it() {
    let folder = Folder::new();
    let Some(mut held) = Held::start_by("docker", &folder) else {
        return;
    };
    let keeper = keeper(&folder);
    held.signal(Signal::KILL);
    assert_eq!(held.status(), None);
    held.assert_gone();
    wait_until("their keeper ends", || test_kill_process(keeper).err());
}

#[test]
fn containers_without_their_keeper_are_removed_by_the_next_run() {
    let folder = Folder::new();
    let Some(mut held) = Held::start_by("docker", &folder) else {
        return;
    };
    kill_process(keeper(&folder), Signal::KILL).unwrap();
    held.signal(Signal::KILL);
    assert_eq!(held.status(), None);
    // Another test may be the next run.
    let next = Held::start_by("docker", &folder).expect("it could a moment ago");
    held.assert_gone();
    next.assert_answer();
    drop(next);
    folder.assert_empty();
}

/// The process that removes the containers.
fn keeper(folder: &Folder) -> Pid {
    let entries = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let run = entries(folder.path())
        .flat_map(|base| entries(&base).collect::<Vec<_>>())
        .find(|path| path.is_dir())
        .expect("the run has a folder");
    let records = entries(&run.join("processes"));
    let mut names = records.map(|record| record.file_name().unwrap().to_string_lossy().into_owned());
    let name = names.find(|name| name.ends_with("-containers")).expect("it is recorded");
    Pid::from_raw(name.split('-').next().unwrap().parse().unwrap()).unwrap()
}

#[test]
fn a_live_run_is_left_alone_by_another() {
    let folder = Folder::new();
    let Some(first) = Held::start_by("local", &folder) else {
        return;
    };
    drop(Held::start_by("local", &folder).expect("it could a moment ago"));
    first.assert_answer();
    drop(first);
    folder.assert_empty();
}

#[test]
fn a_command_that_fails_fails_the_run() {
    let folder = Folder::new();
    let Some(giver) = Held::start_by("local", &folder) else {
        return;
    };
    let urls = [("STRAIT_TEST_REDIS_URL", &*giver.redis), ("STRAIT_TEST_POSTGRES_URL", &*giver.postgres)];
    let shell = |script: &str| run(&folder, &["services", "--", "sh", "-c", script], &urls);
    assert_eq!(shell("exit 7").0, Some(1));
    let (status, output) = shell("echo redis is $STRAIT_TEST_REDIS_URL");
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains(&format!("redis is {}", giver.redis)), "{output}");
}
