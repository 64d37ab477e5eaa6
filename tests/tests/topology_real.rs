//! The sysfs reader on trees of real machines, against what hwloc finds on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::OnceLock,
};

use numa_agent::{
    core::{idset::CpuSet, preset, topology::Topology},
    host::{
        cpuset::Cpuset,
        sysfs::{self, SysfsError},
    },
};
use numa_agent_tests::{
    hwloc::{Machines, machines_or_skip},
    sysfs_tree::write_sysfs,
};

const KUNPENG: &str = "128arm-2pa2n8cluster4co";

fn machines() -> Option<&'static Machines> {
    static MACHINES: OnceLock<Option<Machines>> = OnceLock::new();
    MACHINES.get_or_init(machines_or_skip).as_ref()
}

fn read(machines: &Machines, name: &str) -> Result<Topology, SysfsError> {
    sysfs::read(&machines.sys(name).expect("a sys directory"), &Cpuset::default())
}

fn packages(topology: &Topology) -> BTreeMap<u32, CpuSet> {
    let cpus = |socket: u32| topology.cpus.iter().filter(move |cpu| cpu.socket == socket).map(|cpu| cpu.id);
    topology.sockets.iter().map(|socket| (socket.id, cpus(socket.id).collect())).collect()
}

/// `parts` cut to `cpus`, without what is empty then.
fn cut(parts: BTreeMap<u32, CpuSet>, cpus: &CpuSet) -> BTreeMap<u32, CpuSet> {
    let parts = parts.into_iter().map(|(id, part)| (id, part.intersection(cpus)));
    parts.filter(|(_, part)| !part.is_empty()).collect()
}

/// Captures whose cgroup hwloc obeys; another machine's tree is not limited for us.
const LIMITED: [&str; 4] =
    ["16amd64-8n2c-cpusets", "16em64t-4s2ca2c-cpusetreorder", "32amd64-4s2n4c-cgroup2", "4fake-4gr1nu1pu"];

/// Captures of which hwloc drops nodes that have memory, and we do not: the first's eight nodes all list all CPUs, of
/// the second some are a GPU's memory.
const MORE_NODES: [&str; 2] = ["8em64t-2s2ca2c-buggynuma", "nvidiagpunumanodes"];

/// Captured with `cpuN/online` files that are empty, and no `cpu/online`: nothing says what was online.
const UNREADABLE: &str = "128ia64-17n4s2c";

#[test]
fn every_machine_is_as_hwloc_says() {
    let Some(machines) = machines() else { return };
    let names = machines.names().expect("listed");
    assert!(names.len() >= 45, "{names:?}");
    let mut compared = 0;
    for name in &names {
        let topology = match read(machines, name) {
            Ok(topology) if name != UNREADABLE => topology,
            Err(error) if name == UNREADABLE => {
                assert!(error.to_string().contains("cpu0/online holds \"\""), "{error}");
                continue;
            }
            other => panic!("{name}: {other:?}"),
        };
        let Some(expected) = machines.expected(name) else { continue };
        compared += 1;
        if LIMITED.contains(&name.as_str()) {
            assert!(expected.cpus.is_subset(&topology.online()), "{name}: CPUs");
        } else {
            assert_eq!(topology.online(), expected.cpus, "{name}: CPUs");
            // hwloc drops nodes without memory, among them those of CPUs alone.
            let kept = |id: &u32| expected.nodes.contains_key(id);
            let mut dropped = topology.nodes.iter().filter(|node| !kept(&node.id));
            let memoryless = dropped.all(|node| node.memory_bytes == Some(0));
            assert!(memoryless || MORE_NODES.contains(&name.as_str()), "{name}: nodes");
            assert!(expected.nodes.keys().all(|id| topology.node(*id).is_some()), "{name}: nodes");
        }
        let nodes = topology.nodes.iter().map(|node| (node.id, node.cpus.clone())).collect();
        let mut nodes = cut(nodes, &expected.cpus);
        nodes.retain(|id, _| expected.nodes.contains_key(id));
        // hwloc gives a node without CPUs those it is nearest to.
        let local = expected.nodes.into_iter().filter(|(id, _)| nodes.contains_key(id)).collect();
        // CPUs whose node is offline are on none for hwloc; we must place them.
        if !topology.warnings.iter().any(|warning| warning.starts_with("no node lists")) {
            assert_eq!(nodes, cut(local, &expected.cpus), "{name}: nodes' CPUs");
        }
        if topology.warnings.iter().any(|warning| warning.contains("physical_package_id")) {
            assert!(expected.packages.is_empty(), "{name}: hwloc knows the packages' ids");
        } else {
            let packages = cut(packages(&topology), &expected.cpus);
            assert_eq!(packages, cut(expected.packages, &expected.cpus), "{name}: packages");
        }
    }
    assert!(compared >= 36, "only {compared} of {} machines were compared", names.len());
    println!("{} machines, {compared} of them compared with hwloc", names.len());
}

#[test]
fn a_kunpeng_920() {
    let Some(machines) = machines() else { return };
    let kunpeng = read(machines, KUNPENG).expect("read");
    let shares: Vec<(u32, u32, String)> = kunpeng
        .sockets
        .iter()
        .flat_map(|socket| socket.nodes.iter().map(|node| (socket.id, node.id, node.cpus.to_string())))
        .collect();
    let expected = [(36, 0, "0-31"), (36, 1, "32-63"), (8442, 2, "64-95"), (8442, 3, "96-127")];
    assert_eq!(shares, expected.map(|(socket, node, cpus)| (socket, node, cpus.to_owned())));
    let clusters = kunpeng.clusters_of(&kunpeng.online());
    assert_eq!(clusters.len(), 32);
    assert!(
        clusters.iter().zip(0..).all(|(cluster, index)| { cluster.ranges() == [(index * 4, index * 4 + 3)] })
    );
    assert_eq!(kunpeng.cores_of(&kunpeng.online()).len(), 128);
    let row = |node: u32| kunpeng.node(node).expect("a node").distances.values().copied().collect::<Vec<_>>();
    assert_eq!(
        [row(0), row(1), row(2), row(3)],
        [[10, 16, 32, 33], [16, 10, 25, 32], [32, 25, 10, 16], [33, 32, 16, 10]]
    );
    assert_eq!(kunpeng.nodes[0].memory_bytes, Some(131_732_940 << 10));
    assert_eq!(kunpeng.nodes[0].free_bytes, Some(130_167_340 << 10));
    let l3 = kunpeng.cpu(127).and_then(|cpu| cpu.caches.last()).expect("an L3 cache");
    assert_eq!((l3.level, l3.size_bytes, l3.shared_cpus.to_string()), (3, Some(32 << 20), "96-127".into()));
    assert!(kunpeng.warnings.is_empty() && kunpeng.offline.is_empty(), "{:?}", kunpeng.warnings);
}

#[test]
fn sparse_node_ids() {
    let Some(machines) = machines() else { return };
    let sparse = read(machines, "48amd64-4d2n6c-sparse").expect("read");
    let nodes = |index: usize| sparse.sockets[index].nodes.iter().map(|node| node.id).collect::<Vec<_>>();
    assert_eq!([nodes(0), nodes(1), nodes(2), nodes(3)], [[0, 1], [2, 33], [34, 45], [72, 73]]);
    assert_eq!(sparse.distance(73, 73), Some(10));
    assert!(sparse.nodes.iter().all(|node| node.distances.len() == 8 && node.cpus.len() == 6));
}

#[test]
fn memory_only_and_memoryless_nodes() {
    let Some(machines) = machines() else { return };
    let topology = read(machines, "fakememinitiators-1np2c+1npp+gi").expect("read");
    let cpus: BTreeSet<u32> =
        topology.nodes.iter().filter(|node| !node.cpus.is_empty()).map(|node| node.id).collect();
    assert_eq!(cpus, (0..4).collect());
    assert_eq!(topology.memory_nodes().to_string(), "5-10");
    let gpus = read(machines, "nvidiagpunumanodes").expect("read");
    assert_eq!(gpus.nodes.iter().filter(|node| node.cpus.is_empty()).count(), 6);
    assert_eq!(gpus.online().to_string(), "0-15,88-103");
}

/// A generated tree has, for each file that the reader takes from the Kunpeng's, one of the same name.
#[test]
fn the_generated_a3_has_a_kunpengs_files() {
    let Some(machines) = machines() else { return };
    let real = machines.sys(KUNPENG).expect("a sys directory");
    let made = tempfile::tempdir().expect("a temporary directory");
    write_sysfs(&preset::a3(), made.path()).expect("the tree is written");
    let (real, made) = (files(&real), files(made.path()));
    let unread = |file: &&String| {
        ["possible", "kernel_max", "has_cpu", "has_normal_memory"].iter().any(|name| file.ends_with(name))
    };
    let missing: Vec<&String> = made.difference(&real).filter(|file| !unread(file)).collect();
    // Kernels without `nohz_full=` have no such file.
    assert_eq!(missing, ["devices/system/cpu/nohz_full"], "generated, but no real machine has it");
    for file in [
        "devices/system/cpu/online",
        "devices/system/cpu/present",
        "devices/system/cpu/isolated",
        "devices/system/cpu/cpu#/topology/physical_package_id",
        "devices/system/cpu/cpu#/topology/core_cpus_list",
        "devices/system/cpu/cpu#/topology/cluster_cpus_list",
        "devices/system/cpu/cpu#/cache/index#/shared_cpu_list",
        "devices/system/cpu/cpu#/cache/index#/size",
        "devices/system/node/online",
        "devices/system/node/has_memory",
        "devices/system/node/node#/cpulist",
        "devices/system/node/node#/distance",
        "devices/system/node/node#/meminfo",
    ] {
        assert!(real.contains(file) && made.contains(file), "{file}");
    }
}

/// The files below `root`/devices/system, each number replaced by `#`.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![root.join("devices/system")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                dirs.push(entry.path());
                continue;
            }
            let path = entry.path();
            let path = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            let mut name = String::new();
            for c in path.chars() {
                match c.is_ascii_digit() {
                    false => name.push(c),
                    true if !name.ends_with('#') => name.push('#'),
                    true => (),
                }
            }
            found.insert(name);
        }
    }
    found
}
