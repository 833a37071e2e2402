//! Hands libFuzzer's inputs to [`gmux_fuzz::server_session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gmux_fuzz::server_session::run(data));
