//! What a running agent shows to those who look at it: the lines of its socket, and what `watch` and `status` draw. Typed and versioned;
//! fields may be added, those here stay.
//!
//! `None`, in JSON `null`, is "not measured", never zero. Names are as their owners chose them: not safe to print as they are.

pub mod build;
pub mod gained;
pub mod load;
pub mod request;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    engine::DriftCounts,
    hold::Tally,
    idset::CpuSet,
    jitter::figures::{Move, Occupant},
    task::{ProcessRole, TaskId, ThreadRole},
};

/// Version of the lines.
pub const SCHEMA: u32 = 1;
/// Where the agent listens unless it is told otherwise.
pub const SOCKET: &str = "/run/numa-agent/agent.sock";
/// The fastest pace of snapshots, in milliseconds.
pub const FASTEST_MS: u64 = 200;
/// The slowest.
pub const SLOWEST_MS: u64 = 3_600_000;
/// The most threads that a snapshot lists.
pub const LISTED: usize = 512;
/// The longest request, its end of line included, in bytes.
pub const MAX_REQUEST: usize = 4096;

/// One line from the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// The state of the agent, without an interval: what `status` asks for.
    Status(Box<Status>),
    /// An interval is over.
    Snapshot(Box<Snapshot>),
    /// Something happened: a line of `run --format json`.
    Event {
        /// [`SCHEMA`].
        schema: u32,
        /// It, with `event` as its name.
        event: Value,
    },
    /// The viewer did not keep up, and events were left out.
    Missed {
        /// [`SCHEMA`].
        schema: u32,
        /// How many.
        events: u64,
    },
    /// The request cannot be answered; the connection ends.
    Error {
        /// [`SCHEMA`].
        schema: u32,
        /// Why, and what to do.
        error: String,
    },
}

impl Line {
    /// The version that it is of.
    #[must_use]
    pub fn schema(&self) -> u32 {
        match self {
            Self::Status(status) => status.schema,
            Self::Snapshot(snapshot) => snapshot.status.schema,
            Self::Event { schema, .. } | Self::Missed { schema, .. } | Self::Error { schema, .. } => *schema,
        }
    }
}

/// What a viewer asks for: a line. One who watches may send another, for another interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// One [`Line::Status`], and the end.
    Status,
    /// A [`Line::Status`] at once, then a [`Line::Snapshot`] every so often, and [`Line::Event`] as they come, until the viewer goes.
    Watch {
        /// Milliseconds between snapshots: the viewer sets its own pace, from [`FASTEST_MS`] to [`SLOWEST_MS`].
        interval_ms: u64,
    },
}

/// The agent, its plan, and who is managed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The time, RFC 3339 in UTC.
    pub at: String,
    /// The agent.
    pub agent: Agent,
    /// Sockets in order, nodes in order within them.
    pub sockets: Vec<Socket>,
    /// The plan's groups in order.
    pub groups: Vec<Group>,
    /// Where background processes belong; `None` without a plan.
    pub others: Option<Place>,
    /// Processes without a group: the background ones, all where there is no plan.
    pub background: Vec<Process>,
    /// What was done and what was lost since the agent started.
    pub counts: Counts,
    /// What others have done to the masks of managed threads.
    #[serde(default)]
    pub drift: DriftCounts,
    /// What people should know, in words.
    pub warnings: Vec<String>,
}

/// The agent itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its pid.
    pub pid: u32,
    /// Version of numa-agent.
    pub version: String,
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// When it started, RFC 3339 in UTC.
    pub started_at: String,
    /// Seconds since then.
    pub uptime: f64,
    /// Whether it binds (`run`), or only looks.
    pub enforcing: bool,
    /// `paired` or `generic`; `None` without a plan.
    pub policy: Option<String>,
    /// Its kernel programs in a few words.
    pub programs: String,
    /// Those that this kernel did not take.
    pub missing_programs: Vec<String>,
    /// Resident memory in bytes.
    pub rss: Option<u64>,
    /// CPU time since it started, in seconds.
    pub cpu_seconds: Option<f64>,
}

impl Agent {
    /// Whether it binds, in words.
    #[must_use]
    pub const fn mode(&self) -> &'static str {
        mode(self.enforcing)
    }

    /// What plan it has, in words.
    #[must_use]
    pub fn plan(&self) -> String {
        self.policy.as_ref().map_or("no plan".to_owned(), |policy| format!("{policy} plan"))
    }
}

/// Whether an agent binds, in words.
#[must_use]
pub const fn mode(enforcing: bool) -> &'static str {
    if enforcing { "enforcing" } else { "observing only" }
}

/// A socket (package).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Socket {
    /// Its id.
    pub id: u32,
    /// Its nodes with CPUs, one that spans sockets is listed on each, and after them the memory-only nodes (CXL, HBM) that are nearest to it.
    pub nodes: Vec<Node>,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: u32,
    /// Its online CPUs on this socket; empty for a memory-only node.
    pub cpus: CpuSet,
    /// Memory in bytes; `None` where the machine does not say.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Threads that are managed and belong here, by role; one that belongs on several nodes counts on each.
    pub planned: BTreeMap<ThreadRole, u64>,
    /// Threads that are managed and were last seen on its CPUs; `None` in a status, which has no measurements, and without `switch`.
    pub present: Option<u64>,
    /// Of those, threads that belong elsewhere.
    pub strangers: Option<u64>,
}

/// A CPU list and the nodes it is of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// CPUs.
    pub cpus: CpuSet,
    /// Their nodes.
    pub nodes: Vec<u32>,
}

/// A group of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// `socket0_group1`.
    pub name: String,
    /// Its socket's id.
    pub socket: u32,
    /// Where its members belong.
    pub members: Place,
    /// Where its forward threads belong.
    pub forward: Place,
    /// The memory policy that its processes should have, as `numa_maps` shows one: `interleave:0-1`.
    #[serde(default)]
    pub memory: Option<String>,
    /// The serving instance that has it, such as `session:77`.
    pub instance: Option<String>,
    /// Its processes.
    pub processes: Vec<Process>,
}

/// A managed process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time of the leader in clock ticks since boot.
    pub start_time: u64,
    /// Name.
    pub comm: String,
    /// Role in the plan.
    pub role: ProcessRole,
    /// How many threads it has.
    pub threads: u64,
}

/// What was done and what was lost.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Processes that are managed now.
    pub processes: u64,
    /// Their threads.
    pub threads: u64,
    /// Attempts to bind, by how they ended: `bound`, `unchanged`, `failed`, `gone`; `planned` where nothing is changed.
    pub results: BTreeMap<String, u64>,
    /// Masks set, by what led to it: `scan`, `exec`, `fork`, `rename`, `setaffinity`, `reconcile`, `replan`.
    pub bound_by_cause: BTreeMap<String, u64>,
    /// Scans of all processes.
    pub scans: u64,
    /// Events lost in the kernel, by kind; empty if none was.
    pub lost: BTreeMap<String, u64>,
    /// Events that made no sense.
    pub unreadable: u64,
    /// Processes held at exec; `None` where none was.
    #[serde(default)]
    pub hold: Option<Tally>,
}

/// An interval, with what the agent is and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The state at its end.
    #[serde(flatten)]
    pub status: Status,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Load of the CPUs by managed threads and others; `None` without the counters of `/proc/stat`.
    pub load: Option<Vec<CpuLoad>>,
    /// What rows and columns of the moves are: `node`, or `socket` on machines with more than eight nodes.
    pub matrix_of: String,
    /// Moves of managed threads from one to another in the interval, those within one included; `None` where they are not counted.
    pub moves: Option<Vec<Move>>,
    /// The threads that matter most, critical ones (forward threads) and those off plan first, then by CPU time off node, moves and waits.
    pub threads: Vec<Thread>,
    /// How many are managed and not listed.
    pub unlisted: u64,
    /// How many, of all, were last on a CPU that they should not be on.
    #[serde(default)]
    pub off_plan: u64,
    /// What all the critical threads waited for, listed or not.
    #[serde(default)]
    pub critical: CriticalWaits,
}

/// The critical (forward) threads' waits for a CPU in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CriticalWaits {
    /// How many such threads there are.
    pub threads: u64,
    /// The longest wait that ended in it; `None`: waits are not measured.
    pub longest_ns: Option<u64>,
}

impl Snapshot {
    /// How busy a node's CPUs were together, 0 to 1; `None` if that is not known of any.
    #[must_use]
    pub fn busy(&self, node: &Node) -> Option<f64> {
        let of_node = self.load.iter().flatten().filter(|load| node.cpus.contains(load.cpu));
        let busy: Vec<f64> = of_node.map(|load| load.busy).collect();
        (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64)
    }

    /// How many threads may have used CPU time off node and are not listed: none, if the list ends among those that have used none.
    #[must_use]
    pub fn unlisted_off_node(&self) -> u64 {
        let ends_well = |last: &Thread| {
            last.role != ThreadRole::Forward && !last.is_off_plan() && last.off_node_ns == Some(0)
        };
        if self.threads.last().is_some_and(ends_well) { 0 } else { self.unlisted }
    }
}

/// How busy a CPU was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CpuLoad {
    /// CPU number.
    pub cpu: u32,
    /// Share of the interval that it was not idle, 0 to 1.
    pub busy: f64,
}

/// A managed thread, and what it did in the interval. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Name.
    pub comm: String,
    /// Its process's name.
    pub process: String,
    /// Role; forward threads are the critical ones.
    pub role: ThreadRole,
    /// Its process's group.
    pub group: Option<String>,
    /// Where it belongs; `None` while that is not known.
    pub planned: Option<Place>,
    /// The CPU that it ran on last; `None` if it has not run since it is followed.
    pub cpu: Option<u32>,
    /// That CPU's node.
    pub node: Option<u32>,
    /// CPU time; neither it nor waits are measured where `switch` is among the [`Agent::missing_programs`].
    pub run_ns: Option<u64>,
    /// CPU time outside its nodes.
    pub off_node_ns: Option<u64>,
    /// Moves between CPUs.
    pub migrations: Option<u64>,
    /// Of those, between nodes.
    pub node_migrations: Option<u64>,
    /// Run-queue waits that ended.
    pub waits: Option<u64>,
    /// Their 99th percentile; 0 without one.
    pub wait_p99_ns: Option<u64>,
    /// At most as long was the longest.
    pub wait_max_ns: Option<u64>,
    /// Who had the CPU longest while it waited.
    pub preemptor: Option<Occupant>,
}

impl Thread {
    /// Its identity.
    #[must_use]
    pub fn task(&self) -> TaskId {
        TaskId { tid: self.tid, start_time: self.start_time }
    }

    /// Whether its last CPU is one that it should not be on.
    #[must_use]
    pub fn is_off_plan(&self) -> bool {
        self.cpu.zip(self.planned.as_ref()).is_some_and(|(cpu, planned)| !planned.cpus.contains(cpu))
    }

    /// Share of its CPU time outside its nodes, 0 to 1; `None` if it did not run, or that is not measured.
    #[must_use]
    pub fn off_node_share(&self) -> Option<f64> {
        let run_ns = self.run_ns.filter(|ns| *ns > 0)?;
        self.off_node_ns.map(|ns| ns as f64 / run_ns as f64)
    }

    /// The 99th percentile of its waits, and the longest; `None` if it did not wait, or that is not measured.
    #[must_use]
    pub fn waited_ns(&self) -> Option<(u64, u64)> {
        self.waits.filter(|waits| *waits > 0)?;
        self.wait_p99_ns.zip(self.wait_max_ns)
    }

    /// CPU time as a share of so many seconds; `None` if that is not measured.
    #[must_use]
    pub fn busy_share(&self, seconds: f64) -> Option<f64> {
        self.run_ns.filter(|_| seconds > 0.0).map(|ns| ns as f64 / 1e9 / seconds)
    }
}

#[cfg(test)]
pub(crate) mod tests;
