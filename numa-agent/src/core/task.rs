//! What is known of a process or thread: identity, facts, role.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::idset::CpuSet;

/// A task for life: pids and tids are recycled, the pair is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId {
    /// Thread id in the agent's pid namespace; the thread group leader's is the pid.
    pub tid: u32,
    /// Start time in clock ticks (`USER_HZ`, 100 a second) since boot: field 22 of `/proc/TID/stat`.
    pub start_time: u64,
}

/// What the rules and the grouping look at. Text from other processes is kept as lossy UTF-8 and is not safe to print as
/// it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessFacts {
    /// Process id (thread group id).
    pub pid: u32,
    /// Start time of the leader, as in [`TaskId::start_time`].
    pub start_time: u64,
    /// Parent's pid; 0 for none.
    pub ppid: u32,
    /// Session id; 0 where it is outside our pid namespace.
    pub session: u32,
    /// Real user id.
    pub uid: u32,
    /// The leader's `comm`, at most 15 bytes.
    pub comm: String,
    /// Arguments joined by single spaces, as captured at exec or first sight, as far as they are read. Shared with the children that have
    /// inherited it.
    pub cmdline: Arc<str>,
    /// Target of `/proc/PID/exe`, where readable.
    pub exe: Option<String>,
    /// Path in the unified hierarchy, or else of the first v1 controller with a path other than `/`.
    pub cgroup: Option<String>,
    /// Value of the environment variable that `--group-by env:NAME` names, where set and readable.
    pub env: Option<String>,
    /// `"comm cmdline"` of the parent at first sight.
    pub parent: Option<String>,
    /// Parent, grandparent and so on, as far as read; only where the grouping needs them.
    pub ancestors: Vec<TaskId>,
    /// The node of the first NPU that it has open or was given, where that is known.
    pub device_node: Option<u32>,
    /// `PF_KTHREAD`: never managed.
    pub kernel_thread: bool,
}

impl ProcessFacts {
    /// The leader's identity.
    #[must_use]
    pub fn id(&self) -> TaskId {
        TaskId { tid: self.pid, start_time: self.start_time }
    }

    /// The text that group and other patterns are searched in.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{} {}", self.comm, self.cmdline)
    }
}

/// What is known of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadFacts {
    /// Identity.
    pub id: TaskId,
    /// Thread name, at most 15 bytes.
    pub comm: String,
    /// The CPUs it may run on (`sched_getaffinity`), where read.
    pub allowed: Option<CpuSet>,
}

/// What a process is to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessRole {
    /// Part of a serving instance.
    Group,
    /// A background process (Motor, Servicer ...).
    Other,
}

/// What a thread is to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThreadRole {
    /// A thread of a group process.
    Member,
    /// A thread of a group process whose name matches a forward thread pattern.
    Forward,
    /// A thread of a background process.
    Other,
}

impl ThreadRole {
    /// One word for messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Forward => "forward",
            Self::Other => "other",
        }
    }
}

/// What became of asking the kernel to put a task on some CPUs. Masks are those read back from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindOutcome {
    /// It had that mask already, as far as its cpuset lets it.
    Unchanged(CpuSet),
    /// It has that mask now; a subset of what was asked where its cpuset allows no more.
    Bound(CpuSet),
    /// Dry run: it has this mask, and would be asked to take another.
    Planned(CpuSet),
    /// A real-time or deadline thread, which is left where it is.
    Spared {
        /// `SCHED_FIFO` and so on.
        class: &'static str,
        /// The mask in force.
        actual: CpuSet,
    },
    /// It ended first, or its tid belongs to another task by now.
    Gone,
    /// It could not be put there.
    Failed {
        /// Why, and what to do.
        why: String,
        /// None of the CPUs is both in the task's cpuset and online (`EINVAL`).
        excluded: bool,
        /// The mask in force, where it could be read.
        actual: Option<CpuSet>,
    },
}

/// A command line as one text: the arguments, separated by NUL in `/proc/PID/cmdline` and in memory, joined by single
/// spaces. Empty arguments are left out; bytes that are no UTF-8 become replacement characters.
#[must_use]
pub fn join_arguments(arguments: &[u8]) -> String {
    let arguments = arguments.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
    arguments.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

impl BindOutcome {
    /// One word for messages and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unchanged(_) => "unchanged",
            Self::Bound(_) => "bound",
            Self::Planned(_) => "planned",
            Self::Spared { .. } => "spared",
            Self::Gone => "gone",
            Self::Failed { .. } => "failed",
        }
    }

    /// The mask in force, where known.
    #[must_use]
    pub fn mask(&self) -> Option<&CpuSet> {
        match self {
            Self::Unchanged(mask) | Self::Bound(mask) | Self::Planned(mask) => Some(mask),
            Self::Spared { actual, .. } => Some(actual),
            Self::Gone => None,
            Self::Failed { actual, .. } => actual.as_ref(),
        }
    }
}

impl std::fmt::Display for BindOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed { why, .. } => write!(f, "failed: {why}"),
            other => f.write_str(other.name()),
        }
    }
}
