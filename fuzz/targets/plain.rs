//! Any text: messages and replies of the plain format are what a reference on top of serde_json makes of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strait_core::fuzzing::plain(data));
