//! What viewers send to the agent's socket.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::view::{FASTEST_MS, Request, SLOWEST_MS, request};

fuzz_target!(|line: &[u8]| {
    match request::parse(line) {
        Ok(Request::Watch { interval_ms }) => assert!((FASTEST_MS..=SLOWEST_MS).contains(&interval_ms)),
        Ok(Request::Status) => {}
        // What was sent is not sent back.
        Err(why) => assert!(why.len() < 200),
    }
});
