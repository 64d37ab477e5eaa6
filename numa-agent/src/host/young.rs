//! Tasks so young that nobody else can have their ids yet: the kernel gives ids in turn, and has to go round before it gives one again.

use std::sync::OnceLock;

use super::sys;
use crate::core::{decode::start_ticks, task::TaskId};

/// Ages below so many clock ticks of 10 ms are young. To go round [`SMALLEST_ROUND`] within them takes a million forks a second; this takes
/// one lock of the whole machine (`alloc_pid` of `kernel/pid.c`, in turn by `idr_alloc_cyclic`, 5.10 to 6.18).
const YOUNG_TICKS: u64 = 3;
/// The kernel's default of `pid_max`, and the least that is enough.
const SMALLEST_ROUND: u32 = 32_768;

/// Whether who has this task's tid can but be the task itself, or nobody any more. Who gives out ids of his own choice (`clone3` with `set_tid`,
/// as CRIU does) could prove it wrong.
#[must_use]
pub fn is_young(task: TaskId) -> bool {
    static GOES_ROUND: OnceLock<bool> = OnceLock::new();
    let age = start_ticks(sys::boottime_ns()).checked_sub(task.start_time);
    age.is_some_and(|age| age < YOUNG_TICKS)
        && *GOES_ROUND.get_or_init(|| sys::pid_max() >= SMALLEST_ROUND && sys::in_initial_pid_namespace())
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    use super::*;
    use crate::host::sys::{Host, Kernel as _};

    #[test]
    fn a_new_process_is_young_for_a_moment() {
        // The first tries may be slow.
        let young = (0..100).any(|_| {
            let mut child = Command::new("/bin/true").spawn().expect("it starts");
            let task =
                TaskId { tid: child.id(), start_time: Host.start_time(child.id()).expect("it is there") };
            let (young, owner) = (is_young(task), Host.owner(task));
            child.wait().expect("it ends");
            young && owner == Some(task.start_time)
        });
        assert!(young);
        let me = std::process::id();
        let task = TaskId { tid: me, start_time: Host.start_time(me).expect("we are here") };
        thread::sleep(Duration::from_millis(10 * (YOUNG_TICKS + 1)));
        assert!(!is_young(task), "not any more");
        assert!(!is_young(TaskId { start_time: u64::MAX, ..task }), "nobody is from the future");
        assert_eq!(
            Host.owner(TaskId { start_time: 1, ..task }),
            Some(task.start_time),
            "the tid has another owner"
        );
    }
}
