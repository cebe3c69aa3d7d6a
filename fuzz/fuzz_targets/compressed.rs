#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lobbyd_fuzz::compressed::run(data));
