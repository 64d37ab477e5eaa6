//! A recording: what was measured on a host for a while, as `jitter record` writes it and `jitter report` and `compare` read
//! it. A JSON document; fields may be added in later versions, those here stay.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::{Figures, Occupant};
use crate::core::task::{ProcessRole, ThreadRole};

/// Version of the format.
pub const SCHEMA: u32 = 1;
/// What [`Recording::kind`] says.
pub const KIND: &str = "numa-agent jitter recording";

/// One stretch of time on one host, or several merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`KIND`].
    pub kind: String,
    /// Where and when, one for each recording merged into this.
    pub runs: Vec<Run>,
    /// The processes.
    pub processes: Vec<ProcessRecord>,
    /// The threads, those that ended included.
    pub threads: Vec<ThreadRecord>,
    /// How it went over time, oldest first. Times of merged recordings all count from their own beginning.
    pub intervals: Vec<Interval>,
    /// Tasks that were not followed and ran on CPUs of critical threads, by CPU.
    pub intruders: Vec<Intruders>,
    /// Sends on tapped sockets.
    pub connections: Vec<Connection>,
}

impl Recording {
    /// Adds another's runs with all that belongs to them.
    pub fn merge(&mut self, other: Self) {
        let before = self.runs.len();
        self.runs.extend(other.runs);
        self.processes.extend(other.processes.into_iter().map(|mut of| {
            of.run += before;
            of
        }));
        self.threads.extend(other.threads.into_iter().map(|mut of| {
            of.run += before;
            of
        }));
        self.intervals.extend(other.intervals.into_iter().map(|mut of| {
            of.run += before;
            of
        }));
        self.intruders.extend(other.intruders.into_iter().map(|mut of| {
            of.run += before;
            of
        }));
        self.connections.extend(other.connections.into_iter().map(|mut of| {
            of.run += before;
            of
        }));
    }

    /// A run that is in both: merged, it would count twice.
    #[must_use]
    pub fn shared_run<'a>(&'a self, other: &Self) -> Option<&'a Run> {
        self.runs.iter().find(|run| other.runs.iter().any(|other| run.is(other)))
    }
}

/// Where and when something was recorded, and what about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The machine.
    pub host: RunHost,
    /// Version of numa-agent.
    pub agent_version: String,
    /// When it began, RFC 3339 in UTC.
    pub started_at: String,
    /// How long, in seconds.
    pub seconds: f64,
    /// What was followed.
    pub subject: Subject,
    /// Whether the tasks were bound by the agent that recorded (`run`), as opposed to a recording that only looks.
    pub bound: bool,
    /// Kernel programs that this kernel did not take, each with what is not measured without it.
    pub missing: Vec<String>,
    /// The names of those programs.
    #[serde(default)]
    pub missing_programs: Vec<String>,
    /// What was lost that the figures are too low by, in words with numbers; empty if nothing was.
    pub lost: Vec<String>,
    /// What was lost of detail only: the figures are whole.
    #[serde(default)]
    pub lost_detail: Vec<String>,
}

impl Run {
    /// Whether it is the same stretch of time on the same machine. A service that reports on itself again says more of it.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let of = |run: &Self| (run.host.name.clone(), run.host.machine_id.clone(), run.started_at.clone());
        of(self) == of(other)
    }

    /// Whether it was recorded without the kernel program of that name, or that is not known.
    #[must_use]
    pub fn lacks(&self, program: &str) -> bool {
        let known = self.missing.is_empty() || !self.missing_programs.is_empty();
        !known || self.missing_programs.iter().any(|name| name == program)
    }
}

/// What tells whether two recordings are of the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHost {
    /// Host name.
    pub name: String,
    /// `/etc/machine-id`; empty where there is none.
    pub machine_id: String,
    /// Kernel release.
    pub kernel: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// CPUs by node, kernel style lists.
    pub nodes: BTreeMap<u32, String>,
    /// Nodes by socket.
    pub sockets: BTreeMap<u32, Vec<u32>>,
    /// What rows and columns of the migration matrix are: `node`, or `socket` on machines with more than eight nodes.
    pub matrix_of: String,
}

/// What was followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Subject {
    /// The threads that a plan manages.
    Plan {
        /// `paired` or `generic`.
        policy: String,
        /// Groups and their CPUs: `name` to `primary / forward`.
        groups: BTreeMap<String, String>,
        /// The background processes' CPUs.
        others: String,
    },
    /// Some processes and what descends from them, without a plan.
    Processes {
        /// The pids asked for, or the command.
        what: String,
    },
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Index into [`Recording::runs`].
    pub run: usize,
    /// Process id.
    pub pid: u32,
    /// Start time of the leader in clock ticks since boot.
    pub start_time: u64,
    /// Name, not safe to print as it is.
    pub comm: String,
    /// Arguments, not safe to print as they are.
    pub cmdline: String,
    /// Role in the plan; `None` without a plan.
    pub role: Option<ProcessRole>,
    /// Its group; `None` without a plan and for background processes.
    pub group: Option<String>,
    /// Memory by node at the end, in bytes (`/proc/PID/numa_maps`); `None` where it was not read.
    pub memory: Option<BTreeMap<u32, u64>>,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadRecord {
    /// Index into [`Recording::runs`].
    pub run: usize,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Name, not safe to print as it is.
    pub comm: String,
    /// Role.
    pub role: ThreadRole,
    /// Its process's group.
    pub group: Option<String>,
    /// Where it belongs: the nodes that [`Figures::off_node`] is about.
    pub home_nodes: Vec<u32>,
    /// Whether it ended before the recording did.
    pub ended: bool,
    /// What was measured.
    pub figures: Figures,
}

/// A part of the time, by role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Index into [`Recording::runs`].
    pub run: usize,
    /// When it ended, in seconds since the recording began.
    pub at: f64,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// The threads' together, by role.
    pub roles: BTreeMap<ThreadRole, IntervalFigures>,
}

/// What threads did in an interval, together. Times are nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntervalFigures {
    /// Threads followed.
    pub threads: u64,
    /// CPU time.
    pub run_ns: u64,
    /// CPU time off node; `None` where it is not known.
    pub off_node_ns: Option<u64>,
    /// Moves between CPUs; `None` where they are not counted.
    pub migrations: Option<u64>,
    /// Of those, between nodes.
    pub node_migrations: Option<u64>,
    /// Run-queue waits that ended.
    pub waits: u64,
    /// Their sum.
    pub wait_ns: u64,
    /// Their 99th percentile; 0 without one.
    pub wait_p99_ns: u64,
    /// At most as long was the longest.
    pub wait_max_ns: u64,
}

impl IntervalFigures {
    /// Adds other threads', or another time's: all but the number of threads, of which only the caller knows whether they are the
    /// same. The percentile of both is not known any more: it is at most the higher one.
    pub fn merge(&mut self, other: &Self) {
        let add = |ours: &mut Option<u64>, other: Option<u64>| {
            *ours = ours.zip(other).map(|(ours, other)| ours.saturating_add(other)).or(*ours).or(other);
        };
        self.run_ns = self.run_ns.saturating_add(other.run_ns);
        add(&mut self.off_node_ns, other.off_node_ns);
        add(&mut self.migrations, other.migrations);
        add(&mut self.node_migrations, other.node_migrations);
        self.waits = self.waits.saturating_add(other.waits);
        self.wait_ns = self.wait_ns.saturating_add(other.wait_ns);
        self.wait_p99_ns = self.wait_p99_ns.max(other.wait_p99_ns);
        self.wait_max_ns = self.wait_max_ns.max(other.wait_max_ns);
    }
}

/// Intruders of a CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intruders {
    /// Index into [`Recording::runs`].
    pub run: usize,
    /// CPU number.
    pub cpu: u32,
    /// Who, longest first, the unnamed last.
    pub who: Vec<Occupant>,
}

/// Sends on one connection of a tapped process or port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Index into [`Recording::runs`].
    pub run: usize,
    /// The sending process.
    pub pid: u32,
    /// Its name, not safe to print as it is.
    pub comm: String,
    /// Port on our side.
    pub local_port: u16,
    /// Port on the other side.
    pub remote_port: u16,
    /// Answers (sends without something received in between), each with the nanoseconds between its successive sends. An
    /// answer of one send has none, and may be left out.
    pub answers: Vec<Vec<u64>>,
}

impl Connection {
    /// The answers' gaps but the first of each: servers send the head of an answer by itself, before there is a token, so
    /// that one is the time to the first token.
    pub fn token_gaps(&self) -> impl Iterator<Item = &[u64]> {
        self.answers.iter().map(|answer| answer.get(1..).unwrap_or_default())
    }
}
