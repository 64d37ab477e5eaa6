//! Counters of what was lost, in the per-CPU map `counters`, whose one value is [`Counters`]. They only grow.
//!
//! A record that the full ring buffer refused is counted under its [`crate::record::kind`].

/// The map `tasks` was full: a task that should be marked is not.
pub const MARKS_FULL: usize = 0;
/// A `sched_setaffinity` call was not followed: the map of calls under way was full, or a marked task's call succeeded on a
/// task that could not be found.
pub const UNSEEN_CALLS: usize = 8;
/// There was no free slot for a marked task's account: what it does is not measured.
pub const NO_ACCOUNT: usize = 9;
/// Number of counters.
pub const COUNT: usize = 10;

/// All counters of one CPU.
pub type Counters = [u64; COUNT];

const _: () = assert!((crate::record::kind::USE_DEVICE as usize) < UNSEEN_CALLS && NO_ACCOUNT < COUNT);
