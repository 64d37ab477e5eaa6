//! The synthetic serving stack, its witnesses, and what the tests that run the real binary share.

pub mod agent;
pub mod bench;
pub mod browser;
pub mod cast;
pub mod container;
pub mod cpuset;
pub mod guest;
pub mod holder;
pub mod http;
pub mod hwloc;
pub mod injection;
pub mod irq_tree;
pub mod irqbalance;
pub mod manager;
#[cfg(target_arch = "x86_64")]
pub mod narrow;
pub mod programs;
pub mod prometheus;
pub mod recorder;
pub mod recordings;
pub mod stack;
pub mod stopped;
pub mod sys;
pub mod sysfs_tree;
pub mod terminal;
pub mod tracer;
pub mod verifier;
pub mod witness;

use std::time::{Duration, Instant};

/// Says what cannot be tested here, and why: `cargo xtask test` counts these lines.
///
/// # Panics
/// If `NUMA_AGENT_FORBID_SKIP` is 1.
pub fn skip(what: &str) {
    eprintln!("SKIP: {what}");
    let forbidden = std::env::var_os("NUMA_AGENT_FORBID_SKIP").is_some_and(|value| value == "1");
    assert!(!forbidden, "skips are forbidden: {what}");
}

/// Looks until `look` finds something; `Err` holds what was still missing at the last look.
///
/// # Panics
/// After [`stack::PATIENCE`], with what was missing.
pub fn eventually<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(missing) if start.elapsed() > stack::PATIENCE => {
                panic!("not within {:?}: {missing}", stack::PATIENCE)
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
