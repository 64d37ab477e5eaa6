//! The synthetic serving stack, its witnesses, and what the tests that run the real binary share.

pub mod agent;
pub mod bench;
pub mod browser;
pub mod cast;
pub mod cpuset;
pub mod guest;
pub mod holder;
pub mod hwloc;
pub mod injection;
pub mod programs;
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
