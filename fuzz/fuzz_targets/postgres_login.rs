#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kms_fuzz::postgres_login(input));
