use crate::xtask::{Folder, run};

#[test]
fn without_a_command_all_are_listed() {
    let (status, output) = run(&Folder::new(), &[], &[]);
    assert_eq!(status, Some(0), "{output}");
    for command in ["test-all", "services", "bench", "conformance", "lambda", "image"] {
        let lines = output.lines().filter(|line| line.trim_start().starts_with(command));
        assert_eq!(lines.count(), 1, "{command} in {output}");
    }
}

#[test]
fn bad_arguments_are_a_usage_error() {
    let check = |args: &[&str], message: &str| {
        let (status, output) = run(&Folder::new(), args, &[]);
        assert_eq!(status, Some(2), "{args:?}: {output}");
        assert!(output.contains(message), "{args:?}: {output}");
    };
    check(&["tset-all"], "commands: test-all, services, ");
    check(&["test-all", "--no-such-option"], "--no-such-option");
    check(&["image", "surplus"], "surplus");
    check(&["conformance", "--subset", "--cases", "1.*"], "--cases");
    check(&["conformance", "--write-docs", "--tls"], "--tls");
    check(&["services", "command-without-dashes"], "command-without-dashes");
}

#[test]
fn an_unknown_way_is_told_with_those_there_are() {
    let folder = Folder::new();
    let (status, output) = run(&folder, &["services"], &[("STRAIT_TEST_SERVICES", "magic")]);
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("set it to auto, url, docker or local"), "{output}");
    folder.assert_empty();
}
