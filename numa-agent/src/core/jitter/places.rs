//! The machine as the kernel side knows it: dense node indexes and matrix rows, and the way back to the kernel's own ids.

use std::collections::{BTreeMap, BTreeSet};

use numa_ebpf::{
    account::{MATRIX, NODES},
    place::{CPUS, Place, PlanSet},
};

use crate::core::{idset::CpuSet, topology::Topology};

/// Where each CPU is, by dense numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    cpus: BTreeMap<u32, Place>,
    /// Node ids by dense index.
    nodes: Vec<u32>,
    /// Ids by row of the migration matrix.
    rows: Vec<u32>,
    /// Rows are sockets.
    by_socket: bool,
}

impl Places {
    /// The places of a machine's CPUs. Nodes without CPUs have none.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        Self::with(topology, &[], &[])
    }

    /// The places on a machine that has changed: what was counted by node stays that node's, also where its last CPU is offline.
    /// (Nodes that had none before can move the numbers of others.)
    #[must_use]
    pub fn following(topology: &Topology, before: &Self) -> Self {
        Self::with(topology, &before.nodes, if before.by_socket { &before.rows } else { &[] })
    }

    fn with(topology: &Topology, nodes: &[u32], sockets: &[u32]) -> Self {
        let with_cpus = topology.nodes.iter().filter(|node| !node.cpus.is_empty()).map(|node| node.id);
        let all = |ids: BTreeSet<u32>| ids.into_iter().collect::<Vec<u32>>();
        let nodes = all(with_cpus.chain(nodes.iter().copied()).collect());
        let by_socket = nodes.len() > MATRIX;
        let here = topology.sockets.iter().map(|socket| socket.id);
        let rows = match by_socket {
            true => all(here.chain(sockets.iter().copied()).collect()),
            false => nodes.clone(),
        };
        let index = |ids: &[u32], id: u32| ids.binary_search(&id).map_or(u32::MAX, |index| index as u32);
        let place = |cpu: &crate::core::topology::Cpu| {
            let first = |part: &CpuSet| part.first().unwrap_or(cpu.id);
            let core = first(&cpu.core);
            let place = Place {
                node: index(&nodes, cpu.node),
                row: index(&rows, if by_socket { cpu.socket } else { cpu.node }),
                socket: cpu.socket,
                cluster: cpu.cluster.as_ref().map_or(core, first),
                core,
                critical: 0,
            };
            (cpu.id, place)
        };
        Self { cpus: topology.cpus.iter().map(place).collect(), nodes, rows, by_socket }
    }

    /// By CPU, for the kernel side; `critical` are those that are for critical threads.
    #[must_use]
    pub fn to_vec(&self, critical: &CpuSet) -> Vec<(u32, Place)> {
        let place = |(cpu, place): (&u32, &Place)| {
            (*cpu, Place { critical: u32::from(critical.contains(*cpu)), ..*place })
        };
        self.cpus.iter().map(place).collect()
    }

    /// What rows and columns of the migration matrix are.
    #[must_use]
    pub fn matrix_of(&self) -> &'static str {
        if self.by_socket { "socket" } else { "node" }
    }

    /// Id of the node (or socket) of a row.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<u32> {
        self.rows.get(row).copied()
    }

    /// Dense index of a CPU's node.
    #[must_use]
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        self.cpus.get(&cpu).map(|place| place.node)
    }

    /// Id of the node with that dense index.
    #[must_use]
    pub fn node(&self, index: u32) -> Option<u32> {
        self.nodes.get(index as usize).copied()
    }

    /// Dense index of the node with that id.
    #[must_use]
    pub fn index_of(&self, node: u32) -> Option<u32> {
        self.nodes.binary_search(&node).ok().map(|index| index as u32)
    }

    /// How many nodes have CPUs.
    #[must_use]
    pub fn node_count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Id of the node whose CPU time an account keeps at `index`; `None` for the last where that is several nodes'.
    #[must_use]
    pub fn accounted_node(&self, index: usize) -> Option<u32> {
        let several = index + 1 == NODES && self.nodes.len() > NODES;
        self.nodes.get(index).copied().filter(|_| !several)
    }

    /// The plan set of some CPUs.
    #[must_use]
    pub fn plan_set(&self, cpus: &CpuSet) -> PlanSet {
        let mut set = PlanSet::EMPTY;
        for cpu in cpus.iter().filter(|cpu| (*cpu as usize) < CPUS) {
            set.cpus[cpu as usize / 64] |= 1 << (cpu % 64);
            // Nodes that a set cannot hold would otherwise count as another's.
            if let Some(node) = self.node_of(cpu).filter(|node| *node < 64) {
                set.nodes |= 1 << node;
            }
        }
        set
    }

    /// The CPUs of the node with that dense index.
    #[must_use]
    pub fn cpus_of(&self, index: u32) -> CpuSet {
        self.cpus.iter().filter(|(_, place)| place.node == index).map(|(cpu, _)| *cpu).collect()
    }

    /// Ids of the nodes of a plan set.
    #[must_use]
    pub fn nodes_of(&self, set: &PlanSet) -> Vec<u32> {
        let inside = (0..).zip(&self.nodes).filter(|(index, _)| set.has_node(*index));
        inside.map(|(_, node)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{preset::Preset, synthetic::Machine};

    #[test]
    fn sparse_ids_and_memory_only_nodes() {
        let machine = Machine {
            sockets: 2,
            socket_ids: vec![36, 8442],
            node_ids: vec![2, 8],
            memory_only_nodes: vec![0, 5],
            cores_per_cluster: 2,
            ..Machine::default()
        };
        let places = Places::new(&machine.topology());
        assert_eq!((places.node_count(), places.matrix_of()), (2, "node"));
        let of = |cpu: usize| places.to_vec(&CpuSet::new())[cpu].1;
        assert_eq!((of(0).node, of(0).row, of(4).node, of(4).row), (0, 0, 1, 1));
        assert_eq!((places.node(1), places.index_of(8), places.index_of(5)), (Some(8), Some(1), None));
        assert_eq!((of(0).cluster == of(1).cluster, of(1).cluster == of(2).cluster), (true, false));
        assert_ne!(of(0).socket, of(4).socket);
        let set = places.plan_set(&"3-4".parse().unwrap());
        assert_eq!((places.nodes_of(&set), set.has_cpu(3), set.has_cpu(5)), (vec![2, 8], true, false));
        assert_eq!(places.cpus_of(1), "4-7".parse().unwrap());
    }

    #[test]
    fn a_node_whose_cpus_are_offline_keeps_its_number() {
        for (machine, matrix_of) in [
            (Machine { sockets: 4, ..Machine::default() }, "node"),
            (Machine { sockets: 12, ..Machine::default() }, "socket"),
        ] {
            let whole = machine.topology();
            let before = Places::new(&whole);
            let mut rest = whole.clone();
            rest.cpus.retain(|cpu| cpu.node != 1);
            let after = Places::following(&rest.settled(), &before);
            assert_eq!((after.node_count(), after.matrix_of()), (before.node_count(), matrix_of));
            for cpu in whole.cpus.iter().filter(|cpu| cpu.node != 1) {
                assert_eq!(after.cpus[&cpu.id], before.cpus[&cpu.id]);
            }
            assert_eq!((after.node_of(4), before.node_of(4)), (None, Some(1)));
            assert_eq!(Places::following(&whole, &after), before, "they are back");
        }
    }

    #[test]
    fn eight_nodes_are_rows_and_more_are_not() {
        let places = Places::new(&Preset::A3.topology());
        assert_eq!((places.node_count(), places.matrix_of(), places.row(7)), (8, "node", Some(7)));
        let machine =
            Machine { sockets: 3, nodes_per_socket: 6, socket_ids: vec![1, 4, 9], ..Machine::default() };
        let places = Places::new(&machine.topology());
        assert_eq!((places.matrix_of(), places.row(1), places.row(3)), ("socket", Some(4), None));
        let rows: Vec<u32> = places.to_vec(&CpuSet::new()).iter().map(|(_, place)| place.row).collect();
        assert_eq!((rows[0], rows[6 * 4], rows[12 * 4]), (0, 1, 2));
        assert_eq!((places.accounted_node(14), places.accounted_node(15)), (Some(14), None), "18 nodes");
    }

    proptest! {
        #[test]
        fn a_plan_set_holds_its_cpus_and_their_nodes(sockets in 1u32..5, nodes in 1u32..5, picks in proptest::collection::btree_set(0u32..80, 0..20)) {
            let machine = Machine { sockets, nodes_per_socket: nodes, ..Machine::default() };
            let topology = machine.topology();
            let places = Places::new(&topology);
            let cpus: CpuSet = picks.into_iter().filter(|cpu| *cpu < machine.cpu_count()).collect();
            let set = places.plan_set(&cpus);
            for cpu in topology.cpus {
                prop_assert_eq!(set.has_cpu(cpu.id), cpus.contains(cpu.id));
                let inside = topology.nodes.iter().any(|node| node.id == cpu.node && !node.cpus.intersection(&cpus).is_empty());
                prop_assert_eq!(places.nodes_of(&set).contains(&cpu.node), inside);
                prop_assert_eq!(set.has_node(places.node_of(cpu.id).unwrap()), inside);
            }
        }
    }
}
