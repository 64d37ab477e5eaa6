//! News so fresh that nobody else can have the task's id by now: the kernel gives ids in turn, and has to go round before it gives one again.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use super::sys;

/// News younger than this are fresh, in nanoseconds. To go round [`FREE_IDS`] within that time takes half a million forks a second; this takes
/// one lock of the whole machine (`alloc_pid` of `kernel/pid.c`, in turn by `idr_alloc_cyclic`, 5.10 to 6.18).
const FRESH_NS: u64 = 30_000_000;
/// So many ids must be nobody's, half of the kernel's default of `pid_max`.
const FREE_IDS: u64 = 16_384;

/// Whether there were so many when that was looked up last.
static ROOMY: AtomicBool = AtomicBool::new(false);

/// Looks how many ids are nobody's. Until then, and where they are few, no news are fresh. To be called once a second.
pub fn look_for_room() {
    let threads = fs::read_to_string("/proc/loadavg").ok().and_then(|text| threads(&text));
    let roomy = threads.is_some_and(|threads| has_room(threads, sys::pid_max().into()));
    ROOMY.store(roomy && sys::in_initial_pid_namespace(), Ordering::Relaxed);
}

/// Whether who has the tid of a task that lived at `seen_ns`, in `CLOCK_MONOTONIC` nanoseconds, can but be the task itself, or nobody any more.
/// Who gives out ids of his own choice (`clone3` with `set_tid`, as CRIU does) could prove it wrong.
#[must_use]
pub fn is_fresh(seen_ns: u64) -> bool {
    sys::monotonic_ns().saturating_sub(seen_ns) < FRESH_NS && ROOMY.load(Ordering::Relaxed)
}

fn has_room(threads: u64, pid_max: u64) -> bool {
    pid_max.saturating_sub(threads) >= FREE_IDS
}

/// The threads of the machine: `0.20 0.18 0.12 1/80 11206` (`fs/proc/loadavg.c`).
fn threads(loadavg: &str) -> Option<u64> {
    loadavg.split_once('/')?.1.split(' ').next()?.parse().ok()
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
        let me = std::process::id();
        let wrong = TaskId { tid: me, start_time: 7 };
        let start_time = Host.start_time(me);
        assert_eq!(
            Host.owner(wrong, sys::monotonic_ns()),
            start_time,
            "nobody knows yet whether there is room"
        );
        look_for_room();
        // The first tries may be slow.
        let spared = (0..100).any(|_| {
            let mut child = Command::new("/bin/true").spawn().expect("it starts");
            let (tid, seen_ns) = (child.id(), sys::monotonic_ns());
            child.wait().expect("it ends");
            // Who had looked would have found nobody.
            Host.owner(TaskId { tid, start_time: 7 }, seen_ns) == Some(7)
        });
        assert!(spared);
        let seen_ns = sys::monotonic_ns();
        thread::sleep(Duration::from_nanos(FRESH_NS + 1));
        assert!(!is_fresh(seen_ns), "not any more");
        assert_eq!(Host.owner(wrong, seen_ns), start_time, "a look");
    }

    #[test]
    fn where_few_ids_are_free_a_round_is_short() {
        assert_eq!((threads("0.20 0.18 0.12 1/80 11206\n"), threads("nonsense")), (Some(80), None));
        assert!(has_room(80, 32_768) && has_room(100_000, 4_194_304));
        assert!(!has_room(31_300, 32_768) && !has_room(80, 301) && !has_room(u64::MAX, 1));
    }
}
