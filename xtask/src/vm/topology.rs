//! The shapes of machines, and how QEMU is told of them. No I/O.

use super::Arch;

/// A shape: sockets, the nodes of each, the CPUs of each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// As on the command line.
    pub name: &'static str,
    /// What it stands for.
    pub about: &'static str,
    sockets: u32,
    /// 0: the machine has no NUMA at all.
    nodes_per_socket: u32,
    cpus_per_node: ByArch,
    /// A multiple of 128.
    mib_per_node: u32,
    /// Nodes without CPUs, after all others.
    memory_only: u32,
    /// Whether node 1 is missing.
    hole: bool,
    /// CPUs that are taken offline before the tests.
    offline: &'static [u32],
    /// Whether it has two network cards, which nobody else hears: on x86_64 one is the last node's.
    cards: bool,
    /// Whether init brings all CPUs but the first online: with hundreds of them the kernel's own start is hardly to be waited for.
    pub online_later: bool,
}

/// A number of CPUs; on aarch64 a multiple of [`CLUSTER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ByArch {
    x86_64: u32,
    aarch64: u32,
}

impl ByArch {
    fn of(self, arch: Arch) -> u32 {
        match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
        }
    }
}

/// A node as QEMU is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    id: u32,
    /// First and last.
    cpus: Option<(u32, u32)>,
    memory: bool,
    /// `None` for nodes without CPUs.
    socket: Option<u32>,
}

/// A Kunpeng's clusters have four cores; QEMU gives clusters to the `virt` machine only.
const CLUSTER: u32 = 4;
/// SLIT distances as a Kunpeng 920 has them: the node itself, the other die of the socket, other sockets near and far.
const OWN: u32 = 10;
const SAME_SOCKET: u32 = 16;
const NEAR: u32 = 32;
const FAR: u32 = 33;
/// A node without CPUs is behind a link of its own.
const MEMORY_ONLY: u32 = 40;

/// What the first node has beyond the others, for the kernel and for all files. Like the rest a multiple of the 128 MiB of a memory section,
/// all of which is of one node (`SECTION_SIZE_BITS` of `arch/arm64/include/asm/sparsemem.h`, 6.1).
const FIRST_NODE_MIB: u32 = 128;

/// All shapes, in the order of the table.
pub const ALL: [Topology; 8] = [
    Topology {
        name: "a3-mini",
        about: "4 sockets of 2 nodes, near and far",
        sockets: 4,
        nodes_per_socket: 2,
        cpus_per_node: ByArch { x86_64: 2, aarch64: CLUSTER },
        mib_per_node: 128,
        cards: true,
        ..SMALL
    },
    Topology { name: "2s1n", about: "2 sockets of one node", sockets: 2, nodes_per_socket: 1, ..SMALL },
    Topology {
        name: "snc",
        about: "2 sockets of 2 nodes, which are more than a cluster",
        sockets: 2,
        nodes_per_socket: 2,
        cpus_per_node: ByArch { x86_64: 4, aarch64: 2 * CLUSTER },
        ..SMALL
    },
    Topology {
        name: "cxl",
        about: "2 sockets of one node, and a node without CPUs",
        sockets: 2,
        nodes_per_socket: 1,
        memory_only: 1,
        ..SMALL
    },
    Topology {
        name: "sparse",
        about: "no node 1, two CPUs offline",
        sockets: 3,
        nodes_per_socket: 1,
        hole: true,
        offline: &[1, 6],
        ..SMALL
    },
    Topology { name: "one", about: "no NUMA", sockets: 1, nodes_per_socket: 0, mib_per_node: 512, ..SMALL },
    Topology {
        name: "a3-half",
        about: "4 sockets of 2 nodes of 20 CPUs in clusters of 4",
        sockets: 4,
        nodes_per_socket: 2,
        cpus_per_node: ByArch { x86_64: 8, aarch64: 20 },
        mib_per_node: 128,
        online_later: true,
        ..SMALL
    },
    Topology {
        name: "a3",
        about: "4 sockets of 2 nodes of 40 CPUs in clusters of 4, as far as the emulator goes",
        sockets: 4,
        nodes_per_socket: 2,
        cpus_per_node: ByArch { x86_64: 16, aarch64: 40 },
        mib_per_node: 128,
        online_later: true,
        ..SMALL
    },
];

/// A small machine of one node.
const SMALL: Topology = Topology {
    name: "",
    about: "",
    sockets: 1,
    nodes_per_socket: 1,
    cpus_per_node: ByArch { x86_64: 4, aarch64: CLUSTER },
    mib_per_node: 256,
    memory_only: 0,
    hole: false,
    offline: &[],
    cards: false,
    online_later: false,
};

/// The shape of that name.
pub fn find(name: &str) -> Option<Topology> {
    ALL.into_iter().find(|topology| topology.name == name)
}

impl Topology {
    /// CPUs in all.
    pub fn cpus(&self, arch: Arch) -> u32 {
        let sockets = if self.sockets_are_missing(arch) { self.sockets - 1 } else { self.sockets };
        sockets * self.nodes_per_socket.max(1) * self.cpus_per_node.of(arch)
    }

    /// ACPI numbers the nodes that it lists, so on x86_64 a hole takes a node that has nothing: no memory, and a socket whose
    /// processors are not plugged in. A device tree may leave one out.
    fn sockets_are_missing(&self, arch: Arch) -> bool {
        self.hole && arch == Arch::X86_64
    }

    fn nodes(&self, arch: Arch) -> Vec<Node> {
        let each = self.cpus_per_node.of(arch);
        let with_cpus = self.sockets * self.nodes_per_socket;
        let nodes = (0..with_cpus + self.memory_only).map(|index| Node {
            id: index,
            cpus: (index < with_cpus).then(|| (index * each, (index + 1) * each - 1)),
            memory: true,
            socket: (index < with_cpus).then(|| index / self.nodes_per_socket),
        });
        let mut nodes: Vec<Node> = nodes.collect();
        if self.sockets_are_missing(arch) {
            nodes[1].memory = false;
        } else if self.hole {
            nodes[1..].iter_mut().for_each(|node| node.id += 1);
            nodes.insert(1, Node { id: 1, cpus: None, memory: false, socket: None });
        }
        nodes
    }

    /// What init has to do about CPUs.
    pub fn init_args(&self) -> Vec<String> {
        let online = self.online_later.then(|| "--online".to_owned());
        online.into_iter().chain(self.offline.iter().map(|cpu| format!("--offline={cpu}"))).collect()
    }

    /// QEMU's arguments: processors, memory, nodes, distances.
    pub fn arguments(&self, arch: Arch) -> Vec<String> {
        let nodes = self.nodes(arch);
        let mib = |node: &Node| self.mib_per_node + if node.id == 0 { FIRST_NODE_MIB } else { 0 };
        let memory: u32 = nodes.iter().filter(|node| node.memory).map(mib).sum();
        let memory = memory.max(self.mib_per_node);
        let mut args = vec!["-smp".to_owned(), self.smp(arch), "-m".into(), format!("{memory}M")];
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        for node in &nodes {
            let id = node.id;
            let mut value = format!("node,nodeid={id}");
            if let Some((first, last)) = node.cpus {
                value.push_str(&format!(",cpus={first}-{last}"));
            }
            if node.memory {
                add("-object", format!("memory-backend-ram,id=m{id},size={}M", mib(node)));
                value.push_str(&format!(",memdev=m{id}"));
            }
            add("-numa", value);
        }
        // From a device tree's distances, 6.1 and later make a node that has nothing else.
        let far_and_near = if self.hole && arch == Arch::Aarch64 { &[] } else { &nodes[..] };
        for (from, to) in far_and_near.iter().flat_map(|from| nodes.iter().map(move |to| (from, to))) {
            add("-numa", format!("dist,src={},dst={},val={}", from.id, to.id, self.distance(from, to)));
        }
        if self.sockets_are_missing(arch) {
            // The last socket's are plugged in beside the first's.
            for core in 0..self.cpus_per_node.of(arch) {
                let place = format!("socket-id={},die-id=0,core-id={core},thread-id=0", self.sockets - 1);
                add("-device", format!("Nehalem-x86_64-cpu,{place}"));
            }
        }
        if self.cards {
            // ACPI says whose a bridge is; a device tree of QEMU's does not.
            let last = nodes.iter().map(|node| node.id).max().unwrap_or(0);
            let second = match arch {
                Arch::X86_64 => {
                    add("-device", format!("pxb-pcie,id=far,bus_nr=64,numa_node={last},bus=pcie.0"));
                    add("-device", "pcie-root-port,id=far-port,bus=far,chassis=1".to_owned());
                    "far-port"
                }
                Arch::Aarch64 => "pcie.0",
            };
            for (index, bus) in ["pcie.0", second].into_iter().enumerate() {
                add("-netdev", format!("hubport,id=net{index},hubid=0"));
                // Nobody boots from it.
                add("-device", format!("virtio-net-pci,netdev=net{index},bus={bus},romfile="));
            }
        }
        args
    }

    fn smp(&self, arch: Arch) -> String {
        let (cpus, sockets, each) = (self.cpus(arch), self.sockets, self.cpus_per_node.of(arch));
        let dies = self.nodes_per_socket.max(1);
        match arch {
            Arch::X86_64 => {
                let booted = if self.sockets_are_missing(arch) {
                    format!("{each},maxcpus={}", sockets * dies * each)
                } else {
                    cpus.to_string()
                };
                format!("{booted},sockets={sockets},dies={dies},cores={each},threads=1")
            }
            Arch::Aarch64 => {
                let clusters = dies * each / CLUSTER;
                format!("{cpus},sockets={sockets},clusters={clusters},cores={CLUSTER},threads=1")
            }
        }
    }

    fn distance(&self, from: &Node, to: &Node) -> u32 {
        let apart = match (from.socket, to.socket) {
            _ if from.id == to.id => return OWN,
            (Some(from), Some(to)) => from.abs_diff(to),
            _ => return MEMORY_ONLY,
        };
        match apart {
            0 => SAME_SOCKET,
            // Sockets stand in a ring.
            1 => NEAR,
            _ if apart + 1 == self.sockets => NEAR,
            _ => FAR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, arch: Arch) -> String {
        find(name).unwrap().arguments(arch).join(" ")
    }

    #[test]
    fn a3_has_its_320_cpus_in_clusters_of_4_on_aarch64() {
        let a3 = find("a3").unwrap();
        assert_eq!(a3.cpus(Arch::Aarch64), 320);
        let args = text("a3", Arch::Aarch64);
        assert!(args.contains("-smp 320,sockets=4,clusters=20,cores=4,threads=1"), "{args}");
        assert!(args.contains("node,nodeid=7,cpus=280-319,memdev=m7"), "{args}");
        // Without x2APIC there are no more than 255.
        assert!(a3.cpus(Arch::X86_64) < 255);
    }

    #[test]
    fn cards_are_the_guides_machines_and_one_is_far() {
        let far = "-device pcie-root-port,id=far-port,bus=far,chassis=1 -netdev hubport,id=net0";
        let x86 = text("a3-mini", Arch::X86_64);
        assert!(x86.contains("numa_node=7,bus=pcie.0") && x86.contains(far), "{x86}");
        let arm = text("a3-mini", Arch::Aarch64);
        assert_eq!(arm.matches("virtio-net-pci").count(), 2, "{arm}");
        assert!(!arm.contains("pxb") && !text("2s1n", Arch::X86_64).contains("virtio"), "{arm}");
    }

    #[test]
    fn distances_are_symmetric_and_tell_near_from_far() {
        for (topology, arch) in ALL.into_iter().flat_map(|topology| Arch::ALL.map(|arch| (topology, arch))) {
            let nodes = topology.nodes(arch);
            for (from, to) in nodes.iter().flat_map(|from| nodes.iter().map(move |to| (from, to))) {
                assert_eq!(topology.distance(from, to), topology.distance(to, from));
                assert_eq!(topology.distance(from, to) == OWN, from.id == to.id);
            }
        }
        let a3 = find("a3-mini").unwrap();
        let nodes = a3.nodes(Arch::Aarch64);
        let from_0: Vec<u32> = nodes.iter().map(|to| a3.distance(&nodes[0], to)).collect();
        assert_eq!(from_0, [10, 16, 32, 32, 33, 33, 32, 32]);
    }

    #[test]
    fn a_memory_only_node_has_no_cpus_and_a_plain_machine_no_nodes() {
        let cxl = text("cxl", Arch::X86_64);
        assert!(cxl.contains("node,nodeid=2,memdev=m2") && cxl.contains("-m 896M"), "{cxl}");
        let one = text("one", Arch::Aarch64);
        assert_eq!(one, "-smp 4,sockets=1,clusters=1,cores=4,threads=1 -m 512M");
    }

    #[test]
    fn a_hole_takes_an_empty_socket_or_none() {
        let x86 = text("sparse", Arch::X86_64);
        assert!(x86.starts_with("-smp 4,maxcpus=12,sockets=3,dies=1,cores=4,threads=1 -m 640M"), "{x86}");
        assert!(
            x86.contains("-numa node,nodeid=1,cpus=4-7 -object")
                && x86.contains("socket-id=2,die-id=0,core-id=3")
        );
        let arm = text("sparse", Arch::Aarch64);
        assert!(arm.starts_with("-smp 12,sockets=3,clusters=1,cores=4,threads=1 -m 896M"), "{arm}");
        assert!(
            arm.contains("-numa node,nodeid=1 -object") && arm.contains("nodeid=3,cpus=8-11,memdev=m3"),
            "{arm}"
        );
        assert!(!arm.contains("dist") && x86.contains("dist,src=0,dst=2"), "{arm}; {x86}");
    }

    #[test]
    fn names_are_unique_and_sizes_fit_clusters() {
        for topology in ALL {
            assert_eq!(find(topology.name), Some(topology));
            assert_eq!(topology.cpus_per_node.of(Arch::Aarch64) % CLUSTER, 0);
            assert!(topology.offline.iter().all(|cpu| *cpu > 0 && *cpu < topology.cpus(Arch::X86_64)));
        }
    }
}
