//! Counters of what was lost, in the per-CPU map `counters`, whose one value is [`Counters`]. They only grow.
//!
//! A record that the full ring buffer refused is counted under its [`crate::record::kind`].

/// The map `tasks` was full: a task that should be marked is not.
pub const MARKS_FULL: usize = 0;
/// The map of `sched_setaffinity` calls under way was full: a call was not seen.
pub const CALLS_FULL: usize = 7;
/// Number of counters.
pub const COUNT: usize = 8;

/// All counters of one CPU.
pub type Counters = [u64; COUNT];

const _: () = assert!((crate::record::kind::MIGRATE as usize) < CALLS_FULL && CALLS_FULL < COUNT);
