//! Binding one task: check who it is, set the mask, read it back, check again.

use nix::errno::Errno;

use super::sys::{Kernel, SysError};
use crate::core::{
    idset::CpuSet,
    task::{BindOutcome, TaskId},
};

/// Puts `task` on `cpus`, unless it is there already.
///
/// The identity is checked before and after: a task whose tid was recycled in between is reported as gone, never as
/// bound. A mask that the kernel cut to the task's cpuset counts as bound, with the mask that is in force.
pub fn bind(kernel: &impl Kernel, task: TaskId, cpus: &CpuSet) -> BindOutcome {
    if kernel.start_time(task.tid) != Some(task.start_time) {
        return BindOutcome::Gone;
    }
    let done = set_and_read_back(kernel, task.tid, cpus);
    match kernel.start_time(task.tid) {
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
fn set_and_read_back(kernel: &impl Kernel, tid: u32, cpus: &CpuSet) -> Result<(CpuSet, CpuSet), SysError> {
    let before = kernel.affinity(tid)?;
    if before == *cpus {
        return Ok((before.clone(), before));
    }
    kernel.set_affinity(tid, cpus)?;
    Ok((before, kernel.affinity(tid)?))
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
    use std::cell::RefCell;

    use super::*;

    /// One task, with a cpuset, that may vanish or be replaced after so many calls.
    struct Fake {
        mask: RefCell<CpuSet>,
        cpuset: CpuSet,
        refuse: Option<Errno>,
        start_times: RefCell<Vec<Option<u64>>>,
    }

    impl Fake {
        fn new(mask: &str, cpuset: &str) -> Self {
            Self {
                mask: RefCell::new(mask.parse().unwrap()),
                cpuset: cpuset.parse().unwrap(),
                refuse: None,
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
