//! `/proc/interrupts`, and what irqbalance answers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::irq::{balancer, interrupts};

fuzz_target!(|text: &str| {
    let found = interrupts::parse(text);
    assert!(found.lines.len() + found.local.len() <= text.lines().count());
    if let Some(banned) = balancer::banned(text) {
        let _ = balancer::ban(&banned);
    }
});
