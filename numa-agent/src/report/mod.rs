//! What people and machines read about a plan: text, Markdown, JSON, SVG, HTML. Pure: from values to text.
//!
//! Text that came from other processes (comm, cmdline, paths) goes through [`escape`] before it reaches any output.

use crate::core::{
    idset::CpuSet,
    plan::Plan,
    task::{ProcessRole, TaskId, ThreadRole},
    topology::Topology,
};

/// Everything a report on one `bind` says.
#[derive(Debug, Clone)]
pub struct BindReport {
    /// The machine.
    pub topology: Topology,
    /// The plan.
    pub plan: Plan,
    /// Whether the plan was enforced (`--apply`).
    pub applied: bool,
    /// The processes with a role, by pid.
    pub processes: Vec<ProcessRow>,
    /// Everything the user should know: settings', topology's, plan's and run's warnings.
    pub warnings: Vec<String>,
    /// Host name, kernel release and agent version, local time as RFC 3339: the evidence header.
    pub host: HostFacts,
}

/// Where and when a report was made.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// Node name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// RFC 3339 time, UTC.
    pub time: String,
    /// The agent's version.
    pub version: String,
}

/// One process with a role.
#[derive(Debug, Clone)]
pub struct ProcessRow {
    /// Identity (tid is the pid).
    pub id: TaskId,
    /// Leader's comm.
    pub comm: String,
    /// Command line.
    pub cmdline: String,
    /// Role.
    pub role: ProcessRole,
    /// Group name; `None` for background processes.
    pub group: Option<String>,
    /// Instance name such as `session:77`; `None` for background processes.
    pub instance: Option<String>,
    /// All threads seen, by tid.
    pub threads: Vec<ThreadRow>,
}

/// One thread of such a process.
#[derive(Debug, Clone)]
pub struct ThreadRow {
    /// Identity.
    pub id: TaskId,
    /// Thread name.
    pub comm: String,
    /// Role.
    pub role: ThreadRole,
    /// CPUs the plan gives it.
    pub planned_cpus: CpuSet,
    /// CPUs it may run on now, read back from the kernel; empty if it could not be read.
    pub actual_cpus: CpuSet,
    /// What was done.
    pub outcome: Outcome,
}

/// What became of one thread. Prints as the `result` of the JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Dry run: would be bound.
    Planned,
    /// Bound, and read back.
    Bound,
    /// Was as planned already.
    Unchanged,
    /// Not bound, and why.
    Failed(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Planned => f.write_str("planned"),
            Self::Bound => f.write_str("bound"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}
