//! The sysfs reader on made-up machines: what is written as a tree comes back the same.

use std::{collections::BTreeSet, fs, path::Path};

use numa_agent::{
    core::{
        idset::CpuSet,
        preset,
        synthetic::{Distances, Machine, Numbering},
        topology::Topology,
    },
    host::{
        cpuset::Cpuset,
        sysfs::{self, SysfsError},
    },
};
use numa_agent_tests::sysfs_tree::write_sysfs;
use proptest::prelude::*;

fn list(text: &str) -> CpuSet {
    text.parse().expect("a good list")
}

fn read(dir: &Path) -> Result<Topology, SysfsError> {
    sysfs::read(dir, &Cpuset::default())
}

/// A fresh tree of `machine`.
fn tree(machine: &Machine) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_sysfs(&machine.topology(), dir.path()).expect("the tree is written");
    dir
}

fn round_trip(machine: &Machine) {
    let dir = tree(machine);
    let expected = Topology { source: dir.path().display().to_string(), ..machine.topology() };
    assert_eq!(read(dir.path()).expect("the tree is read"), expected);
}

/// The machines that plans are tried on, by name.
fn machines() -> Vec<(&'static str, Machine)> {
    let two_sockets = Machine { sockets: 2, cores_per_node: 16, ..Machine::default() };
    let smt = Machine { threads_per_core: 2, numbering: Numbering::Apart, ..two_sockets.clone() };
    vec![
        ("a2", preset::Preset::A2.machine()),
        ("a3", preset::Preset::A3.machine()),
        ("one node", Machine::default()),
        ("2 sockets x 1 node, SMT", smt.clone()),
        ("2 sockets x 1 node, no SMT", two_sockets.clone()),
        (
            "2 x SNC2",
            Machine { nodes_per_socket: 2, distances: Distances { near: 12, far: 21 }, ..smt.clone() },
        ),
        (
            "EPYC NPS4",
            Machine {
                nodes_per_socket: 4,
                cores_per_l3: 8,
                distances: Distances { near: 12, far: 32 },
                ..smt.clone()
            },
        ),
        ("memory-only node", Machine { memory_only_nodes: vec![2], ..smt.clone() }),
        ("CPU-only node", Machine { memoryless_nodes: list("1"), ..two_sockets.clone() }),
        (
            "sparse ids",
            Machine {
                socket_ids: vec![36, 8442],
                node_ids: vec![0, 8],
                memory_only_nodes: vec![255],
                ..two_sockets.clone()
            },
        ),
        (
            "offline and isolated CPUs",
            Machine { offline: list("0,5,16-19"), isolated: list("8-11"), ..smt.clone() },
        ),
        ("a node whose CPUs are all offline", Machine { offline: list("16-31"), ..two_sockets }),
        ("adjacent threads", Machine { numbering: Numbering::Adjacent, cores_per_cluster: 4, ..smt }),
    ]
}

#[test]
fn machines_come_back_from_their_trees() {
    for (name, machine) in machines() {
        println!("{name}");
        round_trip(&machine);
    }
}

/// Kernels before 2.6.26 have masks only, and no `online` or `present`.
#[test]
fn masks_alone_do() {
    fn prune(dir: &Path) {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            if path.is_dir() {
                prune(&path);
            } else if name.ends_with("list") || name == "present" || name.starts_with("core_cpus") {
                fs::remove_file(&path).expect("removed");
            }
        }
    }
    for (name, machine) in machines().into_iter().filter(|(_, machine)| machine.cpu_count() <= 64) {
        println!("{name}");
        let dir = tree(&machine);
        prune(dir.path());
        fs::remove_file(dir.path().join("devices/system/cpu/online")).expect("removed");
        let expected = Topology { source: dir.path().display().to_string(), ..machine.topology() };
        let found = read(dir.path()).expect("the tree is read");
        // cpu0 has no `online` of its own; without the list it counts as online.
        if !machine.offline.contains(0) {
            assert_eq!(found, expected);
        }
    }
}

fn random_machine() -> impl Strategy<Value = Machine> {
    let shape = (1u32..4, 1u32..4, 1u32..8, 1u32..5, 0u32..4, 1u32..4);
    let ids = prop::collection::btree_set(0u32..300, 16);
    let odd = (prop::collection::btree_set(0u32..64, 0..20), prop::collection::btree_set(0u32..64, 0..9));
    (shape, ids, odd, 0u32..3, 11u32..30, 0u32..30, any::<bool>()).prop_map(
        |(
            (sockets, nodes, cores, cluster, l3, threads),
            ids,
            (offline, isolated),
            extra,
            near,
            step,
            apart,
        )| {
            let ids: Vec<u32> = ids.into_iter().collect();
            let places = (sockets * nodes) as usize;
            let cpus = sockets * nodes * cores * threads;
            let within = |set: BTreeSet<u32>| set.into_iter().filter(|id| *id < cpus).collect::<CpuSet>();
            let mut offline = within(offline);
            if offline.len() == cpus as usize {
                offline.remove(cpus / 2);
            }
            Machine {
                sockets,
                nodes_per_socket: nodes,
                cores_per_node: cores,
                cores_per_cluster: cluster,
                cores_per_l3: l3,
                threads_per_core: threads,
                numbering: if apart { Numbering::Apart } else { Numbering::Adjacent },
                socket_ids: ids.iter().map(|id| id * 7).take(sockets as usize).collect(),
                node_ids: ids[..places].to_vec(),
                memory_only_nodes: ids[places..places + extra as usize].to_vec(),
                memoryless_nodes: ids[..places].iter().copied().filter(|id| id % 5 == 0).collect(),
                distances: Distances { near, far: near + step },
                offline,
                isolated: within(isolated),
                ..Machine::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_machine_comes_back(machine in random_machine()) {
        round_trip(&machine);
    }

    /// What the planner relies on, whatever the machine.
    #[test]
    fn any_machine_is_consistent(machine in random_machine()) {
        let topology = machine.topology();
        let online = topology.online();
        let shares: Vec<&CpuSet> = topology.sockets.iter().flat_map(|socket| &socket.nodes).map(|node| &node.cpus).collect();
        prop_assert_eq!(shares.iter().map(|cpus| cpus.len()).sum::<usize>(), online.len(), "each CPU on one socket and node");
        prop_assert!(topology.cpus.iter().all(|cpu| cpu.core.contains(cpu.id) && cpu.core.is_subset(&online)));
        for cpus in shares {
            let clusters = topology.clusters_of(cpus);
            prop_assert!(clusters.is_empty() || clusters.iter().map(CpuSet::len).sum::<usize>() == cpus.len());
            let whole_cores = clusters.iter().all(|cluster| {
                cluster.iter().all(|cpu| topology.cpu(cpu).is_some_and(|cpu| cpu.core.is_subset(cluster)))
            });
            prop_assert!(whole_cores);
        }
        prop_assert_eq!(online.intersection(&topology.offline), CpuSet::new());
    }
}
