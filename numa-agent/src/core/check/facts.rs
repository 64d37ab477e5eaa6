//! What the checklist looks at, as values: the host around a plan, and the processes that it is for.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::core::{
    idset::{CpuSet, NodeSet},
    memory::conditions::Conditions,
    preset::Preset,
    task::TaskId,
    topology::Topology,
};

/// What surrounds a plan on a running host. `None` where its files do not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Surroundings {
    /// What the kernel does with memory, and how much there is.
    pub conditions: Conditions,
    /// `/sys/devices/system/cpu/smt/control`: `on`, `off`, `forceoff`, `notsupported`, `notimplemented`.
    pub smt: Option<String>,
    /// cpufreq governors, and the CPUs that have them.
    pub governors: BTreeMap<String, CpuSet>,
    /// The clock source in use, and those there are.
    pub clock: Option<(String, Vec<String>)>,
    /// Daemons that place threads or interrupts.
    pub daemons: Vec<Daemon>,
}

/// A daemon that decides where others run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its process.
    pub pid: u32,
    /// What it does.
    pub kind: DaemonKind,
}

/// Which daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonKind {
    /// `irqbalance`, with the CPUs that it was told to leave alone; `None` where neither it nor its environment tells.
    Irqbalance(Option<CpuSet>),
    /// `numad`.
    Numad,
    /// TuneD.
    Tuned(Tuned),
}

/// What TuneD does with CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tuned {
    /// Its profile leaves masks alone.
    Quiet {
        /// The profile.
        profile: String,
    },
    /// Its scheduler plugin sets masks.
    Places {
        /// The profile.
        profile: String,
        /// The setting that says so.
        setting: String,
    },
    /// Its profile cannot be read, and why.
    Unknown(String),
}

/// A matched process beside its plan, with what else decides about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    /// The process.
    pub task: TaskId,
    /// Its name.
    pub comm: String,
    /// The CPUs that the plan has for its threads, of all roles.
    pub cpus: CpuSet,
    /// The nodes that the plan has for its memory; empty for none.
    pub nodes: NodeSet,
    /// What was read of it.
    pub read: ProcessSurroundings,
}

impl Around {
    /// `pid 4711 (worker)`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("pid {} ({})", self.task.tid, self.comm)
    }
}

/// What surrounds a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessSurroundings {
    /// Variables of its environment and arguments that make it bind its own threads, as they are written; `None` where we may not look.
    pub own_binding: Option<Vec<String>>,
    /// Ancestors that are or were `taskset` or `numactl`: their command lines.
    pub launchers: Vec<String>,
    /// Files of its systemd unit that say where it runs, each with the line.
    pub unit: Vec<(String, String)>,
    /// Its cgroup's directory, and the CPUs and memory nodes in force there; `None` without cpusets.
    pub cpuset: Option<CpusetInForce>,
    /// How much of it is in swap.
    pub swapped_bytes: Option<u64>,
}

/// The limits of a process's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpusetInForce {
    /// Its directory.
    pub cgroup: String,
    /// CPUs; `None`: no limit known.
    pub cpus: Option<CpuSet>,
    /// Memory nodes.
    pub mems: Option<NodeSet>,
}

/// The agent that should run, as far as it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentState {
    /// Its pid.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Whether it binds.
    pub enforcing: bool,
    /// Its kernel programs in a few words.
    pub programs: String,
    /// Whether some are missing.
    pub lacks_programs: bool,
    /// What of its plan is not as in the plan that is checked ([`super::agent::differences`]).
    pub differs: Vec<String>,
    /// Whether its plan could be compared: there is one that was asked for.
    pub compared: bool,
}

/// The shape a machine is expected to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Sockets.
    pub sockets: usize,
    /// Nodes with CPUs on each socket.
    pub nodes: usize,
    /// Online CPUs of each node, if that matters.
    pub cpus: Option<usize>,
}

impl Shape {
    /// Whether the machine has it.
    #[must_use]
    pub fn fits(&self, topology: &Topology) -> bool {
        let node = |cpus: &CpuSet| self.cpus.is_none_or(|count| cpus.len() == count);
        topology.sockets.len() == self.sockets
            && topology.sockets.iter().all(|socket| {
                socket.nodes.len() == self.nodes && socket.nodes.iter().all(|of| node(&of.cpus))
            })
    }

    /// Every socket has two nodes, however many sockets there are.
    #[must_use]
    pub fn paired(topology: &Topology) -> Self {
        Self { sockets: topology.sockets.len().max(1), nodes: 2, cpus: None }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sockets x {} nodes", self.sockets, self.nodes)?;
        self.cpus.map_or(Ok(()), |cpus| write!(f, " x {cpus} CPUs"))
    }
}

/// It is no shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no shape; write a2, a3, or SOCKETSxNODES (nodes of each socket) such as 4x2, or 4x2x40 with the CPUs of each node"
)]
pub struct ShapeError(String);

impl FromStr for Shape {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        if let Some(preset) = Preset::by_name(text) {
            let machine = preset.machine();
            let cpus = machine.cores_per_node * machine.threads_per_core;
            let [sockets, nodes, cpus] =
                [machine.sockets, machine.nodes_per_socket, cpus].map(|count| count as usize);
            return Ok(Self { sockets, nodes, cpus: Some(cpus) });
        }
        let numbers: Option<Vec<usize>> =
            text.split('x').map(|number| number.parse().ok().filter(|number| *number > 0)).collect();
        match numbers.as_deref() {
            Some([sockets, nodes]) => Ok(Self { sockets: *sockets, nodes: *nodes, cpus: None }),
            Some([sockets, nodes, cpus]) => Ok(Self { sockets: *sockets, nodes: *nodes, cpus: Some(*cpus) }),
            _ => Err(ShapeError(text.to_owned())),
        }
    }
}

/// Variables that make a program or its libraries bind threads, and values with which they do not. The list is of what inference
/// servers on these hosts bring along: OpenMP (GNU, LLVM, Intel), torch_npu, vLLM, SGLang.
const BINDING_VARIABLES: [(&str, &[&str]); 7] = [
    ("OMP_PROC_BIND", &["false", ""]),
    ("OMP_PLACES", &[""]),
    ("GOMP_CPU_AFFINITY", &[""]),
    ("KMP_AFFINITY", &["none", "disabled", ""]),
    ("CPU_AFFINITY_CONF", &["0", "mode:0", ""]),
    ("VLLM_CPU_OMP_THREADS_BIND", &["all", "nobind", ""]),
    ("SGLANG_SET_CPU_AFFINITY", &["0", "false", ""]),
];

/// Whether a variable of the environment makes its process bind its own threads.
#[must_use]
pub fn binds_by_variable(name: &str, value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    let quiet = |idle: &[&str]| {
        // KMP_AFFINITY=verbose,none; CPU_AFFINITY_CONF=mode:0,..
        idle.contains(&value.as_str())
            || value.split(',').any(|word| idle.iter().any(|idle| !idle.is_empty() && *idle == word))
    };
    BINDING_VARIABLES.iter().any(|(known, idle)| *known == name && !quiet(idle))
}

/// Whether an argument makes its process bind its own threads: vLLM's, and vLLM Ascend's, which is on by default from 0.18 on and
/// is seen here only where it is written out.
#[must_use]
pub fn binds_by_argument(argument: &str) -> bool {
    let dense: String = argument.chars().filter(|c| !c.is_whitespace() && *c != '\'').collect();
    argument == "--numa-bind" || dense.to_ascii_lowercase().contains(r#""enable_cpu_binding":true"#)
}

/// Whether a command line is, or holds, a call of `taskset` or `numactl`.
#[must_use]
pub fn launches_bound(cmdline: &str) -> bool {
    cmdline
        .split_whitespace()
        .any(|word| ["taskset", "numactl"].contains(&word.rsplit('/').next().unwrap_or(word)))
}

/// The key of a line of a systemd unit that says where its processes run.
#[must_use]
pub fn placing_key(line: &str) -> Option<&'static str> {
    let key = line.split_once('=')?.0.trim();
    ["CPUAffinity", "NUMAPolicy", "NUMAMask", "AllowedCPUs", "AllowedMemoryNodes"]
        .into_iter()
        .find(|known| *known == key)
}

/// The setting of a TuneD profile's `[scheduler]` that gives masks to processes or interrupts.
#[must_use]
pub fn placing_setting(profile: &str) -> Option<&str> {
    let mut section = "";
    profile.lines().map(str::trim).find(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        let places =
            ["isolated_cores", "default_irq_smp_affinity"].contains(&key) || key.starts_with("group.");
        section.starts_with("[scheduler") && places
    })
}
