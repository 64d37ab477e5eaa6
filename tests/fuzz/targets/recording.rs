//! Recordings: what is read prints as a text that reads as the same recording.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::jitter::file;

fuzz_target!(|text: &[u8]| {
    if let Ok(recording) = file::parse("fuzz.json", text) {
        let printed = file::print(&recording);
        let again = file::parse("fuzz.json", printed.as_bytes()).expect("its own print");
        assert_eq!(file::print(&again), printed);
    }
});
