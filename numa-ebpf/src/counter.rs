//! Counters of what was lost: indexes of the per-CPU map `counters`. They only grow.
//!
//! A record that the full ring buffer refused is counted under its [`crate::record::kind`].

/// The map `tasks` was full: a task that should be marked is not.
pub const MARKS_FULL: u32 = 0;
/// The map of `sched_setaffinity` calls under way was full: a call was not seen.
pub const CALLS_FULL: u32 = 7;
/// Number of counters.
pub const COUNT: u32 = 8;

const _: () = assert!(crate::record::kind::MIGRATE < CALLS_FULL && CALLS_FULL < COUNT);
