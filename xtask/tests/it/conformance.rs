use std::{fs, os::unix::fs::PermissionsExt};

use crate::xtask::{Folder, run};

/// Nothing was tested: that is neither a success nor a failure of the server.
fn cannot(variables: &[(&str, &str)], reason: &str) {
    let folder = Folder::new();
    let (status, output) = run(&folder, &["conformance", "--subset"], variables);
    assert_eq!(status, Some(3), "{output}");
    assert!(output.contains("conformance: cannot run on this machine: ") && output.contains(reason), "{output}");
    folder.assert_empty();
}

#[test]
fn without_python_2_it_says_what_to_install() {
    let empty = Folder::new();
    let path = empty.path().to_str().unwrap();
    cannot(&[("PATH", path), ("HOME", path), ("PYENV_ROOT", path)], "`pyenv install 2.7.18`");
}

#[test]
fn a_named_python_is_the_only_one() {
    cannot(&[("STRAIT_PYTHON2", "/nowhere/python")], "STRAIT_PYTHON2=/nowhere/python is no Python 2.7");
    let folder = Folder::new();
    let fake = folder.path().join("python");
    fs::write(&fake, "#!/bin/sh\necho Python 3.13.0 >&2\nexit 1\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    cannot(&[("STRAIT_PYTHON2", fake.to_str().unwrap())], "is no Python 2.7");
}
