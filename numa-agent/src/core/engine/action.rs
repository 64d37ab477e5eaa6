//! What the engine wants done.

use crate::core::{
    hold::Hold,
    idset::CpuSet,
    memory::Policy,
    task::{TaskId, ThreadRole},
};

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put a thread where the plan says, and [`Engine::record`] the outcome.
    Bind(Bind),
    /// Have the kernel programs report on this thread of process `pid` from now on.
    Mark {
        /// Its process.
        pid: u32,
        /// The thread.
        task: TaskId,
    },
    /// Have them forget it.
    Unmark {
        /// The thread.
        task: TaskId,
    },
    /// Let a process go on that is held, whatever became of the actions before this one.
    Release {
        /// Which, and since which exec.
        hold: Hold,
        /// With this memory policy; `None`: as it is.
        memory: Option<Policy>,
    },
    /// Read this process and hand it to [`Engine::observe`]; have its threads unmarked if that does not make it managed.
    Look {
        /// The process.
        pid: u32,
        /// What made it worth a look.
        cause: Cause,
        /// When that happened, in monotonic nanoseconds.
        at_ns: u64,
    },
}

/// A thread to be put on its CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub task: TaskId,
    /// Its name.
    pub comm: String,
    /// Its role.
    pub role: ThreadRole,
    /// Its group's name; `None` for background processes.
    pub group: Option<String>,
    /// The CPUs the plan gives it.
    pub cpus: CpuSet,
    /// Why now.
    pub cause: Cause,
    /// When the event happened that this answers, in monotonic nanoseconds; `None` for scans.
    pub at_ns: Option<u64>,
    /// When the thread was last known to live, in monotonic nanoseconds.
    pub seen_ns: u64,
}

/// Why a thread is bound now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Found running when the agent started.
    Scan,
    /// Its process ran a matching program.
    Exec,
    /// It was created by a managed task.
    Fork,
    /// It, or its process, changed its name.
    Rename,
    /// It used a device file that only forward threads use.
    UseDevice,
    /// Somebody changed its mask.
    SetAffinity(Caller),
    /// A periodic scan found it off plan.
    Reconcile,
    /// The plan changed.
    Replan,
}

/// Who called `sched_setaffinity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
}

impl Cause {
    /// All that [`Cause::name`] may say.
    pub const NAMES: [&'static str; 8] =
        ["scan", "exec", "fork", "rename", "device", "setaffinity", "reconcile", "replan"];

    /// One word for messages and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Exec => "exec",
            Self::Fork => "fork",
            Self::Rename => "rename",
            Self::UseDevice => "device",
            Self::SetAffinity(_) => "setaffinity",
            Self::Reconcile => "reconcile",
            Self::Replan => "replan",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_name_in_the_list() {
        let caller = Caller { pid: 1, tid: 1, comm: String::new() };
        let causes = [
            Cause::Scan,
            Cause::Exec,
            Cause::Fork,
            Cause::Rename,
            Cause::UseDevice,
            Cause::SetAffinity(caller),
            Cause::Reconcile,
            Cause::Replan,
        ];
        assert_eq!(causes.map(|cause| cause.name()), Cause::NAMES);
    }
}
