use std::process::Command;

use crate::kit::skip;

/// The page's script, in Node.js: see the file.
#[test]
fn the_page_comes_back_in_its_turn() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/reconnect.test.mjs");
    let Ok(output) = Command::new("node").args(["--test", script]).output() else {
        return skip("there is no node");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
