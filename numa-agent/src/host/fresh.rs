//! News so fresh that nobody else can have the task's id by now: the kernel gives ids in turn, and has to go round before it gives one again.

use std::sync::OnceLock;

use super::sys;

/// News younger than this are fresh, in nanoseconds. To go round [`SMALLEST_ROUND`] within that time takes a million forks a second; this takes
/// one lock of the whole machine (`alloc_pid` of `kernel/pid.c`, in turn by `idr_alloc_cyclic`, 5.10 to 6.18).
const FRESH_NS: u64 = 30_000_000;
/// The kernel's default of `pid_max`, and the least that is enough.
const SMALLEST_ROUND: u32 = 32_768;

/// Whether who has the tid of a task that lived at `seen_ns`, in `CLOCK_MONOTONIC` nanoseconds, can but be the task itself, or nobody any more.
/// Who gives out ids of his own choice (`clone3` with `set_tid`, as CRIU does) could prove it wrong.
#[must_use]
pub fn is_fresh(seen_ns: u64) -> bool {
    static GOES_ROUND: OnceLock<bool> = OnceLock::new();
    sys::monotonic_ns().saturating_sub(seen_ns) < FRESH_NS
        && *GOES_ROUND.get_or_init(|| sys::pid_max() >= SMALLEST_ROUND && sys::in_initial_pid_namespace())
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    use super::*;
    use crate::{
        core::task::TaskId,
        host::sys::{Host, Kernel as _},
    };

    #[test]
    fn news_are_fresh_for_a_moment_and_spare_a_look() {
        // The first tries may be slow.
        let spared = (0..100).any(|_| {
            let mut child = Command::new("/bin/true").spawn().expect("it starts");
            let (tid, seen_ns) = (child.id(), sys::monotonic_ns());
            child.wait().expect("it ends");
            // Who had looked would have found nobody.
            Host.owner(TaskId { tid, start_time: 7 }, seen_ns) == Some(7)
        });
        assert!(spared);
        let me = std::process::id();
        let start_time = Host.start_time(me);
        let seen_ns = sys::monotonic_ns();
        thread::sleep(Duration::from_nanos(FRESH_NS + 1));
        assert!(!is_fresh(seen_ns), "not any more");
        assert_eq!(Host.owner(TaskId { tid: me, start_time: 7 }, seen_ns), start_time, "a look");
    }
}
