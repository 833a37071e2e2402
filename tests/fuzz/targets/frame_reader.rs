//! Hands libFuzzer's inputs to [`gmux_fuzz::frame_reader`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gmux_fuzz::frame_reader::run(data));
