#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tern_proto_fuzz::bodies::holds(data));
