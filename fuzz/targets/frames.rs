//! Any bytes in any chunking: the decoder of WebSocket frames yields what a reference model of RFC 6455 yields.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strait_adapter_fastws::fuzzing::frames(data));
