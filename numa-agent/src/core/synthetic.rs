//! Made-up machines, by a handful of numbers: the presets, and what tests plan on.

use std::collections::BTreeMap;

use super::{
    idset::{CpuSet, NodeSet},
    topology::{Cache, Cpu, Node, Topology},
};

/// A regular machine, with the irregularities that real ones have. `Machine::default()` is one socket, one node, four
/// cores; change the fields that matter.
#[derive(Debug, Clone)]
pub struct Machine {
    /// [`Topology::source`].
    pub name: String,
    /// How many sockets.
    pub sockets: u32,
    /// Nodes with CPUs on each.
    pub nodes_per_socket: u32,
    /// Physical cores of each node.
    pub cores_per_node: u32,
    /// Cores in a cluster; 1: no clusters. The last cluster of a node may be smaller.
    pub cores_per_cluster: u32,
    /// Cores sharing an L3 cache; 0: all of a node's.
    pub cores_per_l3: u32,
    /// Hardware threads of a core.
    pub threads_per_core: u32,
    /// How the threads of a core are numbered.
    pub numbering: Numbering,
    /// Socket ids, ascending, where they are not 0, 1, 2 ...
    pub socket_ids: Vec<u32>,
    /// Ids of the nodes with CPUs, ascending, where they are not 0, 1, 2 ...
    pub node_ids: Vec<u32>,
    /// Ids of further nodes, with memory but no CPUs.
    pub memory_only_nodes: Vec<u32>,
    /// Nodes with CPUs but no memory.
    pub memoryless_nodes: NodeSet,
    /// Memory of each other node, in bytes.
    pub memory_bytes: u64,
    /// SLIT distances.
    pub distances: Distances,
    /// CPUs that are offline.
    pub offline: CpuSet,
    /// CPUs that are isolated.
    pub isolated: CpuSet,
}

/// How sibling threads are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// 0 and 1 are the first core's: Arm, POWER.
    Adjacent,
    /// All first threads come before all second threads: most x86 firmware.
    Apart,
}

/// SLIT distances between different nodes; a node's own is 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distances {
    /// To another node of the same socket.
    pub near: u32,
    /// To a node of another socket, and between memory-only nodes and all others.
    pub far: u32,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            name: "synthetic".into(),
            sockets: 1,
            nodes_per_socket: 1,
            cores_per_node: 4,
            cores_per_cluster: 1,
            cores_per_l3: 0,
            threads_per_core: 1,
            numbering: Numbering::Adjacent,
            socket_ids: Vec::new(),
            node_ids: Vec::new(),
            memory_only_nodes: Vec::new(),
            memoryless_nodes: NodeSet::new(),
            memory_bytes: 16 << 30,
            distances: Distances { near: 12, far: 20 },
            offline: CpuSet::new(),
            isolated: CpuSet::new(),
        }
    }
}

impl Machine {
    /// The machine's topology. All its CPUs and memory count as allowed.
    ///
    /// # Panics
    /// If `socket_ids` or `node_ids` are given but too few.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let cpus: Vec<Cpu> = (0..self.sockets * self.nodes_per_socket * self.cores_per_node)
            .flat_map(|core| {
                self.threads(core, 1).iter().map(|id| self.cpu(id, core)).collect::<Vec<_>>().into_iter()
            })
            .filter(|cpu| !self.offline.contains(cpu.id))
            .collect();
        let nodes = self.nodes();
        let with_memory = nodes.iter().filter(|node| node.memory_bytes != Some(0)).map(|node| node.id);
        let all: CpuSet = (0..self.cpu_count()).collect();
        Topology {
            source: self.name.clone(),
            offline: self.offline.intersection(&all),
            isolated: self.isolated.intersection(&all),
            allowed: all.difference(&self.offline),
            allowed_mems: with_memory.collect(),
            nodes,
            cpus,
            ..Topology::default()
        }
        .settled()
    }

    /// How many CPUs it has, the offline ones included.
    #[must_use]
    pub fn cpu_count(&self) -> u32 {
        self.sockets * self.nodes_per_socket * self.cores_per_node * self.threads_per_core
    }

    fn cpu(&self, id: u32, core: u32) -> Cpu {
        let place = core / self.cores_per_node;
        let around = |size: u32| {
            let within = core % self.cores_per_node;
            let first = within - within % size;
            let last = (first + size).min(self.cores_per_node);
            self.threads(place * self.cores_per_node + first, last - first)
        };
        let l3 = if self.cores_per_l3 == 0 { self.cores_per_node } else { self.cores_per_l3 };
        let cache = |level, kind: &str, kib: u64, shared_cpus| Cache {
            level,
            kind: kind.into(),
            size_bytes: Some(kib << 10),
            shared_cpus,
        };
        Cpu {
            id,
            socket: self.socket_id(place / self.nodes_per_socket),
            node: self.node_id(place),
            core: around(1),
            cluster: (self.cores_per_cluster > 1).then(|| around(self.cores_per_cluster)),
            caches: vec![
                cache(1, "Data", 64, around(1)),
                cache(1, "Instruction", 64, around(1)),
                cache(2, "Unified", 512, around(1)),
                cache(3, "Unified", 32 << 10, around(l3)),
            ],
        }
    }

    /// The hardware threads of `count` cores from `first` on.
    fn threads(&self, first: u32, count: u32) -> CpuSet {
        let cores = self.cpu_count() / self.threads_per_core;
        (first..first + count)
            .flat_map(|core| (0..self.threads_per_core).map(move |thread| (core, thread)))
            .map(|(core, thread)| match self.numbering {
                Numbering::Adjacent => core * self.threads_per_core + thread,
                Numbering::Apart => thread * cores + core,
            })
            .collect()
    }

    fn nodes(&self) -> Vec<Node> {
        let places = self.sockets * self.nodes_per_socket;
        // Node id and index of its socket.
        let mut homes: BTreeMap<u32, Option<u32>> =
            (0..places).map(|place| (self.node_id(place), Some(place / self.nodes_per_socket))).collect();
        homes.extend(self.memory_only_nodes.iter().map(|&id| (id, None)));
        let distance = |(a, home_a): (u32, Option<u32>), (b, home_b): (u32, Option<u32>)| match a == b {
            true => 10,
            false if home_a.is_some() && home_a == home_b => self.distances.near,
            false => self.distances.far,
        };
        let distances = |from| homes.iter().map(|(&id, &home)| (id, distance(from, (id, home)))).collect();
        let node = |(&id, &home): (&u32, &Option<u32>)| Node {
            id,
            cpus: CpuSet::new(),
            memory_bytes: Some(if self.memoryless_nodes.contains(id) { 0 } else { self.memory_bytes }),
            free_bytes: None,
            distances: distances((id, home)),
        };
        homes.iter().map(node).collect()
    }

    fn socket_id(&self, index: u32) -> u32 {
        if self.socket_ids.is_empty() { index } else { self.socket_ids[index as usize] }
    }

    fn node_id(&self, index: u32) -> u32 {
        if self.node_ids.is_empty() { index } else { self.node_ids[index as usize] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> CpuSet {
        text.parse().expect("a good list")
    }

    #[test]
    fn sibling_threads_far_apart() {
        let machine = Machine {
            sockets: 2,
            cores_per_node: 4,
            threads_per_core: 2,
            numbering: Numbering::Apart,
            offline: list("9"),
            ..Machine::default()
        };
        let topology = machine.topology();
        assert_eq!(topology.cpu(0).map(|cpu| cpu.core.clone()), Some(list("0,8")));
        assert_eq!(topology.cpu(1).map(|cpu| cpu.core.clone()), Some(list("1")), "its sibling is offline");
        assert_eq!(topology.nodes[1].cpus, list("4-7,12-15"));
        assert_eq!((topology.offline.clone(), topology.online().len()), (list("9"), 15));
        assert!(topology.cpus.iter().all(|cpu| cpu.cluster.is_none()));
    }

    #[test]
    fn a_cluster_as_large_as_its_node_is_no_level() {
        let machine = |clusters| Machine { cores_per_cluster: clusters, ..Machine::default() };
        assert!(machine(4).topology().clusters_of(&list("0-3")).is_empty());
        assert_eq!(machine(2).topology().clusters_of(&list("0-3")), [list("0-1"), list("2-3")]);
    }

    #[test]
    fn a_cluster_cut_to_one_cpu_by_offlining_is_still_one() {
        let machine = Machine { cores_per_cluster: 2, offline: list("1"), ..Machine::default() };
        assert_eq!(machine.topology().clusters_of(&list("0,2-3")), [list("0"), list("2-3")]);
    }

    #[test]
    fn memory_only_and_memoryless_nodes() {
        let machine = Machine {
            sockets: 2,
            node_ids: vec![0, 8],
            memory_only_nodes: vec![3],
            memoryless_nodes: [8].into_iter().collect(),
            ..Machine::default()
        };
        let topology = machine.topology();
        assert_eq!(topology.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [0, 3, 8]);
        assert!(topology.nodes[1].cpus.is_empty());
        assert_eq!(topology.memory_nodes(), list("0,3"));
        assert_eq!(topology.distance(3, 3), Some(10));
        assert_eq!(topology.distance(3, 0), Some(20));
    }
}
