//! Irregular machines for tests of the plan: uneven nodes, any order of ids, distances that differ within a socket.
//! Regular ones are `core::synthetic`'s.

use std::collections::BTreeMap;

use crate::core::{
    idset::{CpuSet, NodeSet},
    topology::{Cpu, Node, Topology},
};

/// An irregular machine. CPUs are numbered node by node, second hardware threads after all first ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    /// (socket, node, cores), in CPU number order. A socket of `None` has memory and no CPUs.
    pub nodes: Vec<(Option<u32>, u32, u32)>,
    /// Hardware threads per core; 0 counts as 1.
    pub threads: u32,
    /// Cores per cluster; 0 for no cluster level.
    pub cluster_cores: u32,
    pub offline: CpuSet,
    pub isolated: CpuSet,
    /// `None`: all.
    pub allowed: Option<CpuSet>,
    pub without_memory: NodeSet,
    /// Nodes of which the firmware gives no distances.
    pub without_distances: NodeSet,
}

impl Machine {
    /// `sockets` x `nodes` x `cores`, ids from 0.
    pub fn grid(sockets: u32, nodes: u32, cores: u32) -> Self {
        let all = (0..sockets * nodes).map(|node| (Some(node / nodes), node, cores));
        Self { nodes: all.collect(), ..Self::default() }
    }

    pub fn build(&self) -> Topology {
        let total: u32 = self.nodes.iter().map(|node| node.2).sum();
        let threads = |core: u32| (0..self.threads.max(1)).map(move |thread| thread * total + core);
        let (mut cpus, mut first) = (Vec::new(), 0);
        for &(socket, node, cores) in &self.nodes {
            for core in first..first + cores {
                let cluster = (self.cluster_cores > 0).then(|| {
                    let start = core - (core - first) % self.cluster_cores;
                    let end = (start + self.cluster_cores).min(first + cores);
                    (start..end).flat_map(threads).collect::<CpuSet>()
                });
                cpus.extend(threads(core).filter(|id| !self.offline.contains(*id)).map(|id| Cpu {
                    id,
                    socket: socket.expect("a node with cores has a socket"),
                    node,
                    core: threads(core).collect(),
                    cluster: cluster.clone(),
                    caches: Vec::new(),
                }));
            }
            first += cores;
        }
        let node = |&(socket, id, _): &(Option<u32>, u32, u32)| Node {
            id,
            cpus: CpuSet::new(),
            memory_bytes: Some(if self.without_memory.contains(id) { 0 } else { 64 << 30 }),
            free_bytes: None,
            distances: self.distances(id, socket),
        };
        let online: CpuSet = cpus.iter().map(|cpu| cpu.id).collect();
        Topology {
            source: "test machine".into(),
            nodes: self.nodes.iter().map(node).collect(),
            cpus,
            offline: self.offline.clone(),
            isolated: self.isolated.clone(),
            allowed: self.allowed.as_ref().map_or(online.clone(), |allowed| allowed.intersection(&online)),
            allowed_mems: self.nodes.iter().map(|node| node.1).collect(),
            ..Topology::default()
        }
        .settled()
    }

    fn distances(&self, from: u32, from_socket: Option<u32>) -> BTreeMap<u32, u32> {
        if self.without_distances.contains(from) {
            return BTreeMap::new();
        }
        let distance = |&(socket, to, _): &(Option<u32>, u32, u32)| {
            let steps = from.abs_diff(to).min(9);
            (
                to,
                if from == to {
                    10
                } else if socket == from_socket {
                    11 + steps
                } else {
                    30 + steps
                },
            )
        };
        self.nodes.iter().map(distance).collect()
    }
}
