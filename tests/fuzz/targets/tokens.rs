//! Token times of serving benchmarks: an error names its file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::jitter::tokens;

fuzz_target!(|text: &[u8]| {
    if let Err(error) = tokens::parse("fuzz.txt", text) {
        assert!(error.to_string().starts_with("fuzz.txt"), "{error}");
    }
});
