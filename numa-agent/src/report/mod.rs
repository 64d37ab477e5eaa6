//! What people and machines read about a plan: text, Markdown, JSON, SVG, HTML. Pure: from values to text.
//!
//! Text that came from other processes (comm, cmdline, paths) goes through [`escape`] before it reaches any output.

pub mod cgroups;
pub mod check;
pub mod escape;
pub mod html;
pub mod irq;
pub mod jitter;
pub mod json;
pub mod markdown;
pub mod memory;
pub mod metrics;
pub mod restore;
#[cfg(test)]
mod sample;
pub mod status;
pub mod svg;
pub(crate) mod table;
pub mod text;
pub mod topology;

use std::collections::BTreeMap;

pub(crate) use crate::core::units::{self, many};
use crate::core::{
    idset::CpuSet,
    instance::Container,
    memory::{Mode, cgroup::Fence, verify::Verified},
    plan::{Group, Plan},
    settings::Align,
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
    /// The cgroups whose memory nodes the plan sets (`memory.apply = "cpuset"`), by path.
    pub fences: Vec<Fence>,
    /// Everything the user should know: settings', topology's, plan's and run's warnings.
    pub warnings: Vec<String>,
    /// Host name, kernel release and agent version, time as RFC 3339 in UTC: the evidence header.
    pub host: HostFacts,
}

/// How many threads came to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Dry run: would be bound.
    pub planned: usize,
    /// Bound, and read back.
    pub bound: usize,
    /// Were as planned already.
    pub unchanged: usize,
    /// Real-time threads, which stay where they are.
    pub spared: usize,
    /// Are elsewhere, and nobody was asked to bind them.
    pub off_plan: usize,
    /// Not bound.
    pub failed: usize,
}

impl BindReport {
    /// The threads of all processes, counted by outcome.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for thread in self.processes.iter().flat_map(|process| &process.threads) {
            counts.add(&thread.outcome);
        }
        counts
    }

    /// What of the processes' memory is not as planned, in words for the user.
    #[must_use]
    pub fn memory_warning(&self) -> Option<String> {
        memory::warning(self)
    }

    /// `applied` or `dry run`, in words for the user.
    fn mode(&self) -> &'static str {
        if self.applied { "applied" } else { "dry run: nothing was changed" }
    }

    /// `paired policy, split layout, 16 groups on 4 sockets (preset a3)`; not escaped.
    fn shape(&self) -> String {
        let plan = &self.plan;
        format!(
            "{} policy, {} layout, {} on {} ({})",
            plan.policy,
            plan.layout,
            many(plan.groups.len(), "group", "s"),
            many(self.topology.sockets.len(), "socket", "s"),
            self.topology.source
        )
    }

    /// Who sits in a group: instance names, not escaped, each with its numbers of processes and threads.
    fn tenants(&self, group: &Group) -> BTreeMap<String, (usize, usize)> {
        let mut tenants = BTreeMap::new();
        for process in self.processes.iter().filter(|process| process.group.as_ref() == Some(&group.name)) {
            let (processes, threads): &mut (usize, usize) =
                tenants.entry(process.instance_name().unwrap_or_else(|| "?".to_owned())).or_default();
            *processes += 1;
            *threads += process.threads.len();
        }
        tenants
    }

    /// The background processes, by comm (not escaped), each with its number of processes.
    fn background(&self) -> BTreeMap<&str, usize> {
        let mut names = BTreeMap::new();
        for process in self.processes.iter().filter(|process| process.role == ProcessRole::Other) {
            *names.entry(process.comm.as_str()).or_default() += 1;
        }
        names
    }
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Planned => &mut self.planned,
            Outcome::Bound => &mut self.bound,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Spared(_) => &mut self.spared,
            Outcome::OffPlan => &mut self.off_plan,
            Outcome::Failed(_) => &mut self.failed,
        } += 1;
    }
}

impl std::fmt::Display for Counts {
    /// `12 bound, 1 failed`: what there is, failures last.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [
            (self.planned, "planned"),
            (self.bound, "bound"),
            (self.unchanged, "unchanged"),
            (self.spared, "spared"),
            (self.off_plan, "off plan"),
            (self.failed, "failed"),
        ];
        let some: Vec<String> = all
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        f.write_str(if some.is_empty() { "no threads" } else { "" })?;
        f.write_str(&some.join(", "))
    }
}

/// The memory policy that a group's processes should run under.
fn memory_policy(group: &Group) -> &'static str {
    group.memory_policy().map_or(Mode::Default, |policy| policy.mode).name()
}

/// The unit that the group's CPUs were dealt by.
fn unit(group: &Group) -> &'static str {
    match group.align {
        Align::None => "cpu",
        Align::Core => "core",
        Align::Cluster => "cluster",
    }
}

/// A set for people: `none` where a list would be empty.
fn shown(cpus: &CpuSet) -> String {
    if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() }
}

fn process_role(role: ProcessRole) -> &'static str {
    match role {
        ProcessRole::Group => "group",
        ProcessRole::Other => "other",
    }
}

/// `120 GiB`.
fn gib(bytes: Option<u64>) -> String {
    match bytes {
        None => "memory unknown".to_owned(),
        Some(0) => "no memory".to_owned(),
        Some(bytes) if bytes < 1 << 30 => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{} GiB", (bytes + (1 << 29)) >> 30),
    }
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
    /// Its container, where it is in one.
    pub container: Option<Container>,
    /// All threads seen, by tid.
    pub threads: Vec<ThreadRow>,
    /// Its memory beside the plan, where that was asked for.
    pub memory: Option<Verified>,
}

impl ProcessRow {
    /// What people call its instance, not escaped.
    fn instance_name(&self) -> Option<String> {
        let instance = self.instance.as_ref()?;
        Some(self.container.as_ref().map_or_else(|| instance.clone(), |container| container.rename(instance)))
    }
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
    /// A real-time or deadline thread of that class, which stays where it is.
    Spared(&'static str),
    /// Is elsewhere, and nobody was asked to bind it: `check` looks.
    OffPlan,
    /// Not bound, and why.
    Failed(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Planned => f.write_str("planned"),
            Self::Bound => f.write_str("bound"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Spared(class) => write!(f, "spared: {class}"),
            Self::OffPlan => f.write_str("off plan"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}
