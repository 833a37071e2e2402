//! Hands libFuzzer's inputs to [`gmux_fuzz::two_cores`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gmux_fuzz::two_cores::run(data));
