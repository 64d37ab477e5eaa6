//! Counters in the per-CPU map `counters`, whose one value is [`Counters`]. They only grow. The first [`LOSSES`] tell of what was lost.
//!
//! A record that the full ring buffer refused is counted under its [`crate::record::kind`].

/// The map `tasks` was full: a task that should be marked is not.
pub const MARKS_FULL: usize = 0;
/// A `sched_setaffinity` call was not followed: the map of calls under way was full, or a marked task's call succeeded on a
/// task that could not be found.
pub const UNSEEN_CALLS: usize = 8;
/// There was no free slot for a marked task's account: what it does is not measured.
pub const NO_ACCOUNT: usize = 9;
/// Number of counters of losses.
pub const LOSSES: usize = 10;
/// A thread was born where it belongs, when there were too many such births ([`crate::pace`]) or the ring was crowded ([`is_crowded`]): nobody
/// has been told.
pub const UNTOLD_BIRTHS: usize = 10;
/// Such a thread has ended without anybody having heard of it.
pub const UNTOLD_ENDS: usize = 11;
/// CPU time of these, in nanoseconds.
pub const UNTOLD_RUN_NS: usize = 12;
/// Somebody has heard of such a thread by what it did, or it was never marked: its end is told, or it is none of ours.
pub const UNTOLD_HEARD: usize = 13;
/// Number of counters.
pub const COUNT: usize = 14;

/// All counters of one CPU.
pub type Counters = [u64; COUNT];

/// Whether a ring buffer of `size` bytes, of which `used` wait to be read, is so full that births of threads that are where they belong are
/// counted and not told: the last eighth is for what has to be done something about, and for the ends of those whose births were told.
#[inline(always)]
#[must_use]
pub const fn is_crowded(used: u64, size: u64) -> bool {
    used > size - size / 8
}

const _: () = assert!((crate::record::kind::USE_DEVICE as usize) < UNSEEN_CALLS && NO_ACCOUNT < LOSSES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_eighth_is_kept_free() {
        assert!(
            !is_crowded(0, 1 << 20) && !is_crowded(7 << 17, 1 << 20) && is_crowded((7 << 17) + 1, 1 << 20)
        );
    }
}
