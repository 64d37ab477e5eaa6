//! Binding one task: check who it is, have its mask written down, set another, read it back, check again.

use std::fmt;

use nix::errno::Errno;

use super::sys::{Kernel, SysError};
use crate::core::{
    idset::CpuSet,
    task::{BindOutcome, TaskId},
};

/// As [`bind`], but for real-time and deadline threads, which stay where they are: who made them so has thought of where they run, and a
/// deadline's admission holds for its mask.
pub fn place<E: fmt::Display>(
    kernel: &impl Kernel,
    (task, seen_ns): (TaskId, u64),
    cpus: &CpuSet,
    before: impl FnOnce(&CpuSet) -> Result<(), E>,
) -> BindOutcome {
    let mut spared = None;
    let outcome = bind(kernel, (task, seen_ns), cpus, |mask| {
        if let Some(class) = kernel.real_time(task.tid) {
            spared = Some(BindOutcome::Spared { class, actual: mask.clone() });
            return Err(String::new());
        }
        before(mask).map_err(|error| error.to_string())
    });
    match outcome {
        BindOutcome::Failed { .. } => spared.unwrap_or(outcome),
        outcome => outcome,
    }
}

/// Puts `task` on `cpus`, unless it is there already. `before` is told its mask if it is about to be another; if that fails, the
/// mask stays.
///
/// The identity is checked before and after, unless the task was seen so lately, in monotonic nanoseconds, that nobody else can have its
/// tid ([`Kernel::owner`]): a task whose tid was recycled in between is reported as gone, never as bound. A mask that the kernel cut to the task's cpuset counts as bound, with the mask that is in force.
pub fn bind<E: fmt::Display>(
    kernel: &impl Kernel,
    (task, seen_ns): (TaskId, u64),
    cpus: &CpuSet,
    before: impl FnOnce(&CpuSet) -> Result<(), E>,
) -> BindOutcome {
    if kernel.owner(task, seen_ns) != Some(task.start_time) {
        return BindOutcome::Gone;
    }
    let done = match set_and_read_back(kernel, task.tid, cpus, before) {
        Ok(done) => done,
        Err(error) => {
            let why = format!("not bound, because its mask could not be written down: {error}");
            return BindOutcome::Failed { why, excluded: false, actual: kernel.affinity(task.tid).ok() };
        }
    };
    match kernel.owner(task, seen_ns) {
        None => return BindOutcome::Gone,
        Some(start_time) if start_time != task.start_time => {
            if let Ok((before, after)) = &done
                && before != after
            {
                tracing::warn!(tid = task.tid, mask = %after, "the tid was recycled while being bound; its new owner has that mask now");
            }
            return BindOutcome::Gone;
        }
        Some(_) => {}
    }
    match done {
        Ok((before, after)) if before == after && after.is_subset(cpus) => BindOutcome::Unchanged(after),
        Ok((_, after)) if after.is_subset(cpus) => BindOutcome::Bound(after),
        Ok((_, after)) => {
            let why = format!("set to {cpus}, but reads back {after}");
            BindOutcome::Failed { why, excluded: false, actual: Some(after) }
        }
        Err(SysError { errno: Errno::ESRCH, .. }) => BindOutcome::Gone,
        Err(error) => BindOutcome::Failed {
            why: explain(&error, cpus),
            excluded: error.errno == Errno::EINVAL,
            actual: kernel.affinity(task.tid).ok(),
        },
    }
}

/// Masks before and after.
type Masks = Result<(CpuSet, CpuSet), SysError>;

fn set_and_read_back<E>(
    kernel: &impl Kernel,
    tid: u32,
    cpus: &CpuSet,
    record: impl FnOnce(&CpuSet) -> Result<(), E>,
) -> Result<Masks, E> {
    let before = match kernel.affinity(tid) {
        Ok(before) if before == *cpus => return Ok(Ok((before.clone(), before))),
        Ok(before) => before,
        Err(error) => return Ok(Err(error)),
    };
    record(&before)?;
    let set = || {
        kernel.set_affinity(tid, cpus)?;
        Ok((before, kernel.affinity(tid)?))
    };
    Ok(set())
}

fn explain(error: &SysError, cpus: &CpuSet) -> String {
    match error.errno {
        Errno::EINVAL => {
            format!(
                "none of {cpus} is in the task's cpuset and online, or the kernel has it pinned ({error})"
            )
        }
        Errno::EPERM => format!("not permitted; run as root or with CAP_SYS_NICE ({error})"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, convert::Infallible};

    use super::*;

    /// Nobody is told.
    fn bind(kernel: &Fake, task: TaskId, cpus: &CpuSet) -> BindOutcome {
        super::bind(kernel, (task, 0), cpus, |_| Ok::<_, Infallible>(()))
    }

    /// One task, with a cpuset, that may vanish or be replaced after so many calls.
    struct Fake {
        mask: RefCell<CpuSet>,
        cpuset: CpuSet,
        refuse: Option<Errno>,
        class: Option<&'static str>,
        start_times: RefCell<Vec<Option<u64>>>,
    }

    impl Fake {
        fn new(mask: &str, cpuset: &str) -> Self {
            Self {
                mask: RefCell::new(mask.parse().unwrap()),
                cpuset: cpuset.parse().unwrap(),
                refuse: None,
                class: None,
                start_times: RefCell::new(vec![Some(7), Some(7)]),
            }
        }
    }

    impl Kernel for Fake {
        fn affinity(&self, _tid: u32) -> Result<CpuSet, SysError> {
            Ok(self.mask.borrow().clone())
        }

        fn set_affinity(&self, tid: u32, cpus: &CpuSet) -> Result<(), SysError> {
            let error = |errno| SysError { call: "sched_setaffinity", tid, errno };
            if let Some(errno) = self.refuse {
                return Err(error(errno));
            }
            let cut = cpus.intersection(&self.cpuset);
            if cut.is_empty() {
                return Err(error(Errno::EINVAL));
            }
            *self.mask.borrow_mut() = cut;
            Ok(())
        }

        fn start_time(&self, _tid: u32) -> Option<u64> {
            self.start_times.borrow_mut().remove(0)
        }

        fn real_time(&self, _tid: u32) -> Option<&'static str> {
            self.class
        }
    }

    const TASK: TaskId = TaskId { tid: 5, start_time: 7 };

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    #[test]
    fn binds_and_reads_back() {
        assert_eq!(bind(&Fake::new("0-7", "0-7"), TASK, &set("2-3")), BindOutcome::Bound(set("2-3")));
        assert_eq!(bind(&Fake::new("2-3", "0-7"), TASK, &set("2-3")), BindOutcome::Unchanged(set("2-3")));
    }

    #[test]
    fn a_mask_is_written_down_before_it_changes_or_stays() {
        let fake = Fake::new("0-7", "0-7");
        let told = RefCell::new(Vec::new());
        let before = |mask: &CpuSet| {
            assert_eq!(*fake.mask.borrow(), set("0-7"), "not yet");
            told.borrow_mut().push(mask.clone());
            Ok::<_, Infallible>(())
        };
        assert_eq!(super::bind(&fake, (TASK, 0), &set("2"), before), BindOutcome::Bound(set("2")));
        assert_eq!(told.take(), [set("0-7")]);
        let fake = Fake::new("2", "0-7");
        let unasked = |_: &CpuSet| -> Result<(), Infallible> { panic!("nothing changes") };
        assert_eq!(super::bind(&fake, (TASK, 0), &set("2"), unasked), BindOutcome::Unchanged(set("2")));
        let refuse = |_: &CpuSet| Err("no room in /j");
        let outcome = super::bind(
            &Fake { mask: RefCell::new(set("1")), ..Fake::new("1", "0-7") },
            (TASK, 0),
            &set("2"),
            refuse,
        );
        let BindOutcome::Failed { why, actual, .. } = outcome else { panic!("{outcome}") };
        assert!(why.contains("/j"), "{why}");
        assert_eq!(actual, Some(set("1")));
    }

    #[test]
    fn real_time_threads_stay_where_they_are() {
        let fifo = || Fake { class: Some("SCHED_FIFO"), ..Fake::new("0-7", "0-7") };
        let unasked = |_: &CpuSet| -> Result<(), Infallible> { panic!("nothing changes") };
        let spared = BindOutcome::Spared { class: "SCHED_FIFO", actual: set("0-7") };
        assert_eq!(place(&fifo(), (TASK, 0), &set("2"), unasked), spared);
        let there = BindOutcome::Unchanged(set("0-7"));
        assert_eq!(place(&fifo(), (TASK, 0), &set("0-7"), |_| Ok::<_, Infallible>(())), there);
        let ordinary = Fake::new("0-7", "0-7");
        let bound = BindOutcome::Bound(set("2"));
        assert_eq!(place(&ordinary, (TASK, 0), &set("2"), |_| Ok::<_, Infallible>(())), bound);
        assert_eq!(super::bind(&fifo(), (TASK, 0), &set("2"), |_| Ok::<_, Infallible>(())), bound, "to undo");
    }

    #[test]
    fn a_cpuset_that_cuts_the_mask_shows_in_the_outcome() {
        assert_eq!(bind(&Fake::new("0-7", "0-2"), TASK, &set("2-3")), BindOutcome::Bound(set("2")));
        assert_eq!(bind(&Fake::new("2", "0-2"), TASK, &set("2-3")), BindOutcome::Unchanged(set("2")));
        let outcome = bind(&Fake::new("0-1", "0-1"), TASK, &set("2-3"));
        let BindOutcome::Failed { why, excluded: true, actual } = outcome else {
            panic!("an empty intersection is a failure: {outcome}");
        };
        assert!(why.contains("cpuset") && why.contains("2-3"), "{why}");
        assert_eq!(actual, Some(set("0-1")));
    }

    #[test]
    fn refusals_say_what_to_do() {
        let fake = Fake { refuse: Some(Errno::EPERM), ..Fake::new("0-7", "0-7") };
        let BindOutcome::Failed { why, excluded: false, .. } = bind(&fake, TASK, &set("2")) else {
            panic!("refused")
        };
        assert!(why.contains("CAP_SYS_NICE") && why.contains("task 5"), "{why}");
        let fake = Fake { refuse: Some(Errno::ESRCH), ..Fake::new("0-7", "0-7") };
        assert_eq!(bind(&fake, TASK, &set("2")), BindOutcome::Gone);
    }

    #[test]
    fn a_recycled_tid_is_never_bound_knowingly() {
        let fake = Fake { start_times: RefCell::new(vec![Some(8)]), ..Fake::new("0-7", "0-7") };
        assert_eq!(bind(&fake, TASK, &set("2")), BindOutcome::Gone);
        assert_eq!(*fake.mask.borrow(), set("0-7"), "the new owner was not touched");
        let fake = Fake { start_times: RefCell::new(vec![Some(7), Some(8)]), ..Fake::new("0-7", "0-7") };
        assert_eq!(bind(&fake, TASK, &set("2")), BindOutcome::Gone);
    }
}
