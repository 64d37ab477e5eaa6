//! `/proc/PID/numa_maps`: what a policy governs is part of what there is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::memory::numa_maps::Memory;

fuzz_target!(|text: &str| {
    let mut memory = Memory::default();
    text.lines().for_each(|line| memory.add_line(line));
    for (node, governed) in &memory.governed {
        assert!(governed <= &memory.nodes[node]);
    }
    assert!(memory.files().keys().all(|node| memory.nodes.contains_key(node)));
});
