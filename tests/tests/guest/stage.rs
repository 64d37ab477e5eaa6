//! What a guest's test works with: the shape that the machine was given, and the processes that play on it.

use std::{collections::BTreeMap, fs, ops::Deref};

use numa_agent::core::idset::{CpuSet, NodeSet};
use numa_agent_tests::{
    agent::{self, Agent},
    cast::{Cast, is_forward},
    guest,
    stack::{Load, crew::Stack},
    witness::{self, Point, Record},
};
use serde_json::{Value, json};

/// The machine as the kernel shows it: read here in the plainest way, not with the agent's own reader.
#[derive(Debug)]
pub struct Machine {
    /// CPUs of each node that has some, online ones only.
    pub nodes: BTreeMap<u32, CpuSet>,
    /// Nodes of each socket, in order.
    pub sockets: BTreeMap<i64, Vec<u32>>,
    /// Nodes that have memory, with CPUs or without.
    pub with_memory: NodeSet,
}

impl Machine {
    /// Reads `/sys`.
    ///
    /// # Panics
    /// If the kernel has no NUMA support.
    pub fn read() -> Self {
        let online: CpuSet = number_list("/sys/devices/system/cpu/online");
        let ids: NodeSet = number_list("/sys/devices/system/node/has_cpu");
        let cpus_of = |node| number_list::<CpuSet>(&format!("/sys/devices/system/node/node{node}/cpulist"));
        let nodes: BTreeMap<u32, CpuSet> =
            ids.iter().map(|node| (node, cpus_of(node).intersection(&online))).collect();
        let mut sockets = BTreeMap::<i64, Vec<u32>>::new();
        for (node, cpus) in &nodes {
            let cpu = cpus.iter().next().expect("a node with CPUs");
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id");
            let socket = read(&path).parse().unwrap_or_else(|error| panic!("{path}: {error}"));
            sockets.entry(socket).or_default().push(*node);
        }
        Self { nodes, sockets, with_memory: number_list("/sys/devices/system/node/has_memory") }
    }

    /// All CPUs.
    pub fn all(&self) -> CpuSet {
        self.nodes.values().fold(CpuSet::default(), |all, cpus| all.union(cpus))
    }

    /// The socket that has this CPU.
    pub fn socket_of(&self, cpu: u32) -> i64 {
        let node = self.node_of(cpu);
        let found = self.sockets.iter().find(|(_, nodes)| nodes.contains(&node));
        *found.unwrap_or_else(|| panic!("node {node} is on no socket")).0
    }

    /// The CPUs of this one's cluster, where clusters are a level between core and node.
    pub fn cluster_of(&self, cpu: u32) -> Option<CpuSet> {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/cluster_cpus_list");
        // Kernels before 5.16 have no such file.
        let cluster = fs::exists(&path).is_ok_and(|exists| exists).then(|| number_list::<CpuSet>(&path))?;
        let cluster = cluster.intersection(&self.all());
        let node = &self.nodes[&self.node_of(cpu)];
        (cluster.len() > 1 && cluster.len() < node.len()).then_some(cluster)
    }

    /// The node that has this CPU.
    pub fn node_of(&self, cpu: u32) -> u32 {
        let found = self.nodes.iter().find(|(_, cpus)| cpus.contains(cpu));
        *found.unwrap_or_else(|| panic!("CPU {cpu} is on no node")).0
    }
}

/// A file's text.
pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

/// A figure of a node's `meminfo`.
pub fn node_bytes(node: u32, figure: &str) -> u64 {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    let text = read(&path);
    // Node 0 MemFree: 12345 kB
    let mut lines = text.lines().map(|line| line.split_whitespace().skip(2));
    let kib = lines.find_map(|mut words| words.next().filter(|name| *name == figure).and(words.next()));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {figure} in {path}: {text}"))
        * 1024
}

/// A file's kernel-style list.
pub fn number_list<T: std::str::FromStr<Err: std::fmt::Display>>(path: &str) -> T {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Forward threads of an instance of a [`Stage::stack`].
pub const FORWARD: u32 = 2;

/// Threads with a forward thread's name that had not ended by their last look, and have a place.
fn forward_threads(records: &[Record], plan: impl Fn(&Record) -> Option<CpuSet>) -> usize {
    let last = witness::by_thread(records, 0).into_values().filter_map(|looks| looks.last().copied());
    last.filter(|look| look.point != Point::End && is_forward(&look.comm) && plan(look).is_some()).count()
}

/// What one test works with.
pub struct Stage {
    /// The machine it runs on.
    pub machine: Machine,
    cast: Cast,
}

impl Deref for Stage {
    type Target = Cast;

    fn deref(&self) -> &Cast {
        &self.cast
    }
}

/// The stage for `test`, or `None` with a word why not: outside a guest, and on machines of other shapes than `on` (none: any).
pub fn stage(test: &str, on: &[&str]) -> Option<Stage> {
    let Some(topology) = std::env::var(guest::TOPOLOGY).ok().filter(|_| guest::is_here()) else {
        println!("SKIP: {test}: it runs in a guest only; use `cargo xtask vm test`");
        return None;
    };
    if !on.is_empty() && !on.contains(&topology.as_str()) {
        guest::elsewhere(test, &format!("it is about {}", on.join(", ")));
        return None;
    }
    let cast = Cast::new(env!("CARGO_BIN_EXE_serving-stack"), test);
    let stage = Stage { machine: Machine::read(), cast };
    stage.write_config(&stage.config());
    Some(stage)
}

impl Stage {
    /// A configuration for this test's processes. On a machine of one node a group has half of it, so that a mask of the agent's is
    /// told from none.
    pub fn config(&self) -> Value {
        let mut config = self.cast.config();
        if self.machine.nodes.len() == 1 {
            config["groups_per_socket"] = json!(2);
        }
        config
    }

    /// Arguments that lead a command to the configuration, and what follows.
    pub fn args(&self, more: &[&str]) -> Vec<String> {
        self.cast.args().into_iter().chain(more.iter().map(|&arg| arg.to_owned())).collect()
    }

    /// What `bind` plans, or with `--apply` does, for what runs now.
    pub fn bind(&self, more: &[&str]) -> Value {
        let args = ["bind", "--format", "json"].map(str::to_owned);
        agent::json(args.into_iter().chain(self.args(more)))
    }

    /// A running agent.
    pub fn agent(&self, more: &[&str]) -> Agent {
        Agent::start(self.args(more))
    }

    /// A stack whose instances have a worker with [`FORWARD`] forward threads.
    pub fn stack(&self) -> Stack {
        let load = Load { workers: 1, forward: FORWARD, tick_ms: 50, work: 200 };
        Stack::start(self.family.clone(), load, 0).expect("start the stack")
    }

    /// Whether the guide's policy fits: every socket has two nodes.
    pub fn is_paired(&self) -> bool {
        self.machine.sockets.values().all(|nodes| nodes.len() == 2)
    }

    /// The nodes of the socket that the `index`th instance gets: sockets take turns.
    pub fn home(&self, index: usize) -> &[u32] {
        let sockets: Vec<_> = self.machine.sockets.values().collect();
        sockets[index % sockets.len()]
    }

    /// The CPUs among which the instance's processes have theirs: its socket's first node. Where a socket has not two nodes, the
    /// shapes here have one.
    pub fn member_places(&self, index: usize) -> CpuSet {
        self.machine.nodes[&self.home(index)[0]].clone()
    }

    /// The CPUs among which the instance's forward threads have theirs.
    pub fn forward_places(&self, index: usize) -> CpuSet {
        let nodes = self.home(index);
        self.machine.nodes[&nodes[usize::from(self.is_paired())]].clone()
    }

    /// The CPUs of the background processes: the third socket's first node by the guide, the first one's elsewhere.
    pub fn others(&self) -> CpuSet {
        let sockets = self.machine.sockets.len();
        self.member_places(if self.is_paired() { 2.min(sockets - 1) } else { 0 })
    }

    /// The nodes whose CPUs the last looks of an instance's threads allow.
    pub fn instance_nodes(&self, instance: u32) -> NodeSet {
        let records = self.records();
        let last = witness::by_thread(&records, 0).into_values().filter_map(|looks| looks.last().copied());
        // Motor serves all instances.
        let of_instance =
            last.filter(|look| look.instance == instance && look.role != "motor" && look.point != Point::End);
        of_instance
            .flat_map(|look| look.cpus.iter().map(|cpu| self.machine.node_of(cpu)).collect::<Vec<_>>())
            .collect()
    }

    /// Waits until thread `tid` has seen itself with the mask `cpus`, and on one of them, twice in a row from now on.
    pub fn settle_on(&self, tid: u32, cpus: &CpuSet) {
        self.settle_thread(tid, cpus, |look| look.cpus == *cpus && cpus.contains(look.cpu));
    }

    /// The same with any mask within `cpus`, and smaller than the machine.
    pub fn settle_on_any(&self, tid: u32, cpus: &CpuSet) {
        self.settle_thread(tid, cpus, |look| self.is_place(&look.cpus, cpus) && look.cpus.contains(look.cpu));
    }

    /// Waits until every living thread's last look at itself saw exactly the mask that `plan` says; `None`: any. How many forward threads
    /// have been seen there.
    pub fn settle(&self, plan: impl Fn(&Record) -> Option<CpuSet>) -> usize {
        forward_threads(&self.settle_all(&plan, |mask, place| mask == place, 1), plan)
    }

    /// The same with any mask within the plan's, and smaller than the machine. Who belongs everywhere is not asked.
    pub fn settle_within(&self, plan: impl Fn(&Record) -> Option<CpuSet>) -> usize {
        let all = self.machine.all();
        let plan = |look: &Record| plan(look).filter(|place| *place != all || look.role != "motor");
        forward_threads(&self.settle_all(plan, |mask, place| self.is_place(mask, place), 1), plan)
    }

    /// Whether a mask is one that somebody gave it, within `place`.
    fn is_place(&self, mask: &CpuSet, place: &CpuSet) -> bool {
        mask.is_subset(place) && *mask != self.machine.all()
    }
}
