//! CPU and node lists, and masks: what is read prints as a list that reads as the same set.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::idset::{CpuSet, MAX_ID};

fuzz_target!(|text: &str| {
    for set in [text.parse::<CpuSet>(), CpuSet::from_mask(text)].into_iter().flatten() {
        assert_eq!(set.to_string().parse(), Ok(set.clone()));
        assert_eq!(set.iter().count(), set.len());
        assert!(set.last().is_none_or(|last| last <= MAX_ID));
    }
});
