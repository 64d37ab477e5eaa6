//! Machines that can be planned for without having one: `--preset a2|a3`.
//!
//! Shape and CPU counts are those of the Ascend servers' hosts (Kunpeng 920 class). No capture of either exists to us, so
//! the rest is assumed: CPUs numbered node by node, SLIT distances 10 (local), 12 (the socket's other die) and 20
//! (another socket), 64 KiB L1, 512 KiB L2, one L3 of 32 MiB a die, 128 GiB of memory a node.

use super::{
    synthetic::{Distances, Machine},
    topology::Topology,
};

/// A machine known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Atlas 800I/T A2: 4 sockets x 2 nodes x 24 cores, 192 CPUs.
    A2,
    /// Atlas 800I/T A3: 4 sockets x 2 nodes x 40 cores, 320 CPUs.
    A3,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 2] = [Self::A2, Self::A3];

    /// What users call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A2 => "a2",
            Self::A3 => "a3",
        }
    }

    /// The preset of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The machine's shape, for variations on it.
    #[must_use]
    pub fn machine(self) -> Machine {
        Machine {
            name: format!("preset {}", self.name()),
            sockets: 4,
            nodes_per_socket: 2,
            cores_per_node: match self {
                Self::A2 => 24,
                Self::A3 => 40,
            },
            cores_per_cluster: 4,
            memory_bytes: 128 << 30,
            distances: Distances { near: 12, far: 20 },
            ..Machine::default()
        }
    }

    /// The machine.
    #[must_use]
    pub fn topology(self) -> Topology {
        self.machine().topology()
    }
}

/// [`Preset::A2`]'s machine.
#[must_use]
pub fn a2() -> Topology {
    Preset::A2.topology()
}

/// [`Preset::A3`]'s machine.
#[must_use]
pub fn a3() -> Topology {
    Preset::A3.topology()
}

/// The machine of the preset of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<Topology> {
    Preset::by_name(name).map(Preset::topology)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a3_is_the_guides_machine() {
        let a3 = by_name("a3").expect("a3");
        assert_eq!(a3.source, "preset a3");
        assert_eq!((a3.cpus.len(), a3.nodes.len(), a3.sockets.len()), (320, 8, 4));
        for (socket, first) in a3.sockets.iter().zip([0, 80, 160, 240]) {
            let nodes: Vec<_> = socket.nodes.iter().map(|node| (node.id, node.cpus.to_string())).collect();
            let expected = |half: u32| {
                let start = first + half * 40;
                (socket.id * 2 + half, format!("{start}-{}", start + 39))
            };
            assert_eq!(nodes, [expected(0), expected(1)]);
        }
        let node = &a3.nodes[3];
        assert_eq!(node.distances.values().copied().collect::<Vec<_>>(), [20, 20, 12, 10, 20, 20, 20, 20]);
        let clusters = a3.clusters_of(&node.cpus);
        assert_eq!((clusters.len(), clusters[1].to_string()), (10, "124-127".to_owned()));
        assert_eq!(a3.cores_of(&node.cpus).len(), 40);
        assert_eq!((a3.allowed.clone(), a3.memory_nodes().len()), (a3.online(), 8));
    }

    #[test]
    fn a2_has_24_cores_a_node() {
        let a2 = by_name("a2").expect("a2");
        assert_eq!((a2.cpus.len(), a2.nodes.len(), a2.sockets.len()), (192, 8, 4));
        assert_eq!(a2.node(7).map(|node| node.cpus.to_string()), Some("168-191".into()));
        assert_eq!(a2.clusters_of(&a2.nodes[0].cpus).len(), 6);
        assert_eq!(by_name("a4"), None);
    }
}
