//! The machine: sockets, NUMA nodes, clusters, cores and CPUs, as an immutable value.
//!
//! Built by `host::sysfs` from a real or captured `/sys`, or by [`super::preset`] and [`super::synthetic`] for machines that are not at hand. A change
//! (hotplug) is a new value. Ids are the kernel's own and need not be contiguous.

use std::collections::BTreeMap;

use super::idset::{CpuSet, NodeSet};

/// A whole machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// Where it was read: `/sys`, a captured tree's path, or `preset a3`.
    pub source: String,
    /// Sockets (physical packages) that have an online CPU, by ascending id.
    pub sockets: Vec<Socket>,
    /// Online NUMA nodes, by ascending id, also those without CPUs or without memory.
    pub nodes: Vec<Node>,
    /// Online CPUs, by ascending id.
    pub cpus: Vec<Cpu>,
    /// CPUs that are present but offline.
    pub offline: CpuSet,
    /// CPUs taken out of the scheduler's balancing (`isolcpus=`, isolated cpuset partitions).
    pub isolated: CpuSet,
    /// CPUs that run without a tick when they have one task (`nohz_full=`).
    pub nohz_full: CpuSet,
    /// Online CPUs that our own cgroup lets a task use; all online CPUs for another machine's tree.
    pub allowed: CpuSet,
    /// Nodes whose memory our own cgroup lets a task use; all nodes with memory for another machine's tree.
    pub allowed_mems: NodeSet,
    /// What was odd or missing in the source, in words for the user.
    pub warnings: Vec<String>,
}

/// One socket (physical package).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `physical_package_id`.
    pub id: u32,
    /// The nodes with online CPUs on this socket, by ascending id. A node that spans sockets is listed on each, with
    /// that socket's CPUs.
    pub nodes: Vec<SocketNode>,
}

/// A node's share of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketNode {
    /// Node id.
    pub id: u32,
    /// The node's online CPUs on this socket.
    pub cpus: CpuSet,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Node id.
    pub id: u32,
    /// Its online CPUs; empty for a memory-only node (CXL, HBM).
    pub cpus: CpuSet,
    /// Memory in bytes; `None` where the source does not say. `Some(0)` is a node without memory.
    pub memory_bytes: Option<u64>,
    /// Free memory in bytes when the topology was read.
    pub free_bytes: Option<u64>,
    /// SLIT distance to each online node, itself included (10 = local, ACPI 6.5 section 5.2.17).
    pub distances: BTreeMap<u32, u32>,
}

/// One online CPU (hardware thread).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// CPU number.
    pub id: u32,
    /// Its socket.
    pub socket: u32,
    /// Its node; `None` on kernels without NUMA support is given as node 0 by the reader, so this is always there.
    pub node: u32,
    /// All online hardware threads of its physical core, itself included.
    pub core: CpuSet,
    /// All online CPUs of its cluster (`cluster_cpus_list`, since 5.16), itself included; `None` where the machine has
    /// no level of its own between core and node.
    pub cluster: Option<CpuSet>,
    /// The caches it uses, by level and type.
    pub caches: Vec<Cache>,
}

/// One cache as a CPU sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// 1, 2, 3 ...
    pub level: u32,
    /// `Data`, `Instruction` or `Unified`, as sysfs spells it.
    pub kind: String,
    /// Size in bytes, where known.
    pub size_bytes: Option<u64>,
    /// Online CPUs sharing it.
    pub shared_cpus: CpuSet,
}

impl Topology {
    /// Completes a topology of which a source gave nodes and CPUs (in any order, with sets that may name offline CPUs):
    /// cuts every set to the online CPUs, tells each node its CPUs, and derives the sockets.
    ///
    /// Clusters stay only on a machine where they are a level of their own: at least one is larger than a core and
    /// smaller than its node's share of the socket. x86 kernels report the core, and virtual machines the whole socket.
    #[must_use]
    pub fn settled(mut self) -> Self {
        self.nodes.sort_by_key(|node| node.id);
        self.cpus.sort_by_key(|cpu| cpu.id);
        let online = self.online();
        let mut places: BTreeMap<u32, BTreeMap<u32, CpuSet>> = BTreeMap::new();
        for cpu in &self.cpus {
            places.entry(cpu.socket).or_default().entry(cpu.node).or_default().insert(cpu.id);
        }
        let mut clusters_matter = false;
        for cpu in &mut self.cpus {
            let place = &places[&cpu.socket][&cpu.node];
            cpu.core = cpu.core.intersection(&online);
            cpu.core.insert(cpu.id);
            for cache in &mut cpu.caches {
                cache.shared_cpus = cache.shared_cpus.intersection(&online);
            }
            cpu.caches.sort_by(|a, b| (a.level, &a.kind).cmp(&(b.level, &b.kind)));
            let core = &cpu.core;
            cpu.cluster = cpu.cluster.take().map(|cluster| cluster.union(core).intersection(place));
            clusters_matter |=
                cpu.cluster.as_ref().is_some_and(|cluster| !cluster.is_subset(core) && cluster != place);
        }
        if !clusters_matter {
            self.cpus.iter_mut().for_each(|cpu| cpu.cluster = None);
        }
        for node in &mut self.nodes {
            node.cpus = self.cpus.iter().filter(|cpu| cpu.node == node.id).map(|cpu| cpu.id).collect();
        }
        self.sockets = places
            .into_iter()
            .map(|(id, nodes)| Socket {
                id,
                nodes: nodes.into_iter().map(|(id, cpus)| SocketNode { id, cpus }).collect(),
            })
            .collect();
        self
    }

    /// The node with that id.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|index| &self.nodes[index])
    }

    /// The socket with that id.
    #[must_use]
    pub fn socket(&self, id: u32) -> Option<&Socket> {
        self.sockets.binary_search_by_key(&id, |socket| socket.id).ok().map(|index| &self.sockets[index])
    }

    /// The online CPU with that number.
    #[must_use]
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.binary_search_by_key(&id, |cpu| cpu.id).ok().map(|index| &self.cpus[index])
    }

    /// All online CPUs.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// Nodes that can hold memory for us: those with memory (or of unknown size) that our cgroup allows.
    #[must_use]
    pub fn memory_nodes(&self) -> NodeSet {
        let with_memory = self.nodes.iter().filter(|node| node.memory_bytes != Some(0)).map(|node| node.id);
        with_memory.collect::<NodeSet>().intersection(&self.allowed_mems)
    }

    /// SLIT distance between two nodes; `None` where the firmware gives none.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> Option<u32> {
        self.node(from)?.distances.get(&to).copied()
    }

    /// The distinct physical cores of `cpus`, each cut to `cpus`, by lowest CPU.
    #[must_use]
    pub fn cores_of(&self, cpus: &CpuSet) -> Vec<CpuSet> {
        self.parts_of(cpus, |cpu| Some(&cpu.core))
    }

    /// The distinct clusters of `cpus`, each cut to `cpus`, by lowest CPU; empty where a CPU has no cluster.
    #[must_use]
    pub fn clusters_of(&self, cpus: &CpuSet) -> Vec<CpuSet> {
        if cpus.iter().any(|id| self.cpu(id).is_none_or(|cpu| cpu.cluster.is_none())) {
            return Vec::new();
        }
        self.parts_of(cpus, |cpu| cpu.cluster.as_ref())
    }

    fn parts_of<'a>(&'a self, cpus: &CpuSet, part: impl Fn(&'a Cpu) -> Option<&'a CpuSet>) -> Vec<CpuSet> {
        let mut parts = Vec::new();
        let mut rest = cpus.clone();
        while let Some(first) = rest.first() {
            let whole = self.cpu(first).and_then(&part).map(|part| part.intersection(&rest));
            let whole =
                whole.filter(|part| !part.is_empty()).unwrap_or_else(|| [first].into_iter().collect());
            rest = rest.difference(&whole);
            parts.push(whole);
        }
        parts
    }
}
