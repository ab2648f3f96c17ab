#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ha_tests::fuzz::run("raft_messages", data));
