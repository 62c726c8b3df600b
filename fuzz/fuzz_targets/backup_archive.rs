#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kms_fuzz::backup_archive(input));
