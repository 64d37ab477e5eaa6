//! What the kernel programs report, decoded.
//!
//! Times are `CLOCK_MONOTONIC` nanoseconds taken in the kernel when the thing happened.

use std::sync::Arc;

use numa_ebpf::brief::Brief;

use super::task::TaskId;

/// One thing that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEvent {
    /// When, in monotonic nanoseconds.
    pub at_ns: u64,
    /// The process (thread group) of the task.
    pub pid: u32,
    /// The task.
    pub task: TaskId,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// The task was created by a managed task: a thread if `task.tid != pid`, else a process.
    Fork {
        /// Process of the creator.
        parent_pid: u32,
        /// Thread that created it.
        parent_tid: u32,
        /// Its name, copied from its creator.
        comm: String,
        /// Where its account is; `None` without one.
        slot: Option<u32>,
        /// The plan set that the kernel side has given it, its creator's, because it may run only there; `None`: it has none yet.
        plan: Option<u32>,
    },
    /// The task replaced its program. `task` is the leader.
    Exec {
        /// Parent's pid.
        ppid: u32,
        /// Real user id.
        uid: u32,
        /// Name, from the new program's file name.
        comm: String,
        /// Arguments joined by single spaces, read in the kernel.
        cmdline: Arc<str>,
        /// Whether arguments were longer than the kernel side reads.
        truncated: bool,
        /// Whether the kernel side has stopped it before its first instruction: somebody has to let it go on.
        held: bool,
    },
    /// The task changed its name.
    Rename {
        /// The new name.
        comm: String,
    },
    /// The task ended.
    Exit {
        /// Where its account waits to be read and given back; `None` if it has none, or took over its leader's tid.
        slot: Option<u32>,
        /// What the account says, if that is so little that it came along.
        brief: Option<Brief>,
    },
    /// Somebody set the task's CPU mask by `sched_setaffinity`, successfully.
    SetAffinity {
        /// Caller's process.
        caller_pid: u32,
        /// Caller's thread.
        caller_tid: u32,
        /// Caller's thread name.
        caller_comm: String,
    },
    /// The scheduler moved the task to a CPU of another node.
    Migrate {
        /// CPU it was on.
        from_cpu: u32,
        /// CPU it goes to.
        to_cpu: u32,
    },
    /// The task used one of the device files that make a thread a forward thread.
    UseDevice {
        /// The device's number, as the kernel keeps it.
        device: u32,
        /// The task's name.
        comm: String,
    },
}

/// How often a task moved while it was managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MigrationCounts {
    /// Moves to another CPU.
    pub cpu: u64,
    /// Of those, moves to a CPU of another node.
    pub node: u64,
}
