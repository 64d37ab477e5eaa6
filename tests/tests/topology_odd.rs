//! The sysfs reader on trees that lack something or hold nonsense: a stated substitute, or an error naming the file.

use std::{fs, path::Path};

use numa_agent::{
    core::{synthetic::Machine, topology::Topology},
    host::{
        cpuset::Cpuset,
        sysfs::{self, SysfsError},
    },
};
use numa_agent_tests::sysfs_tree::write_sysfs;

/// Reads a tree of two sockets with two nodes of four cores each, after `change` was made to `devices/system`.
fn read_changed(change: impl Fn(&Path)) -> Result<Topology, SysfsError> {
    let machine = Machine { sockets: 2, nodes_per_socket: 2, cores_per_cluster: 2, ..Machine::default() };
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_sysfs(&machine.topology(), dir.path()).expect("the tree is written");
    change(&dir.path().join("devices/system"));
    sysfs::read(dir.path(), &Cpuset::default())
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).expect("written");
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
}

fn shares(topology: &Topology) -> Vec<(u32, u32, String)> {
    let sockets = topology.sockets.iter();
    sockets
        .flat_map(|socket| socket.nodes.iter().map(|node| (socket.id, node.id, node.cpus.to_string())))
        .collect()
}

#[test]
fn a_kernel_without_numa_is_one_node() {
    let topology = read_changed(|system| remove(&system.join("node"))).expect("read");
    assert_eq!(shares(&topology), [(0, 0, "0-7".into()), (1, 0, "8-15".into())]);
    assert_eq!((topology.nodes.len(), topology.nodes[0].memory_bytes), (1, None));
    assert_eq!(topology.memory_nodes().to_string(), "0");
    assert!(topology.warnings[0].contains("without NUMA"), "{:?}", topology.warnings);
}

#[test]
fn an_unknown_package_is_socket_0_with_a_warning() {
    let topology = read_changed(|system| {
        for cpu in 0..16 {
            let file = system.join(format!("cpu/cpu{cpu}/topology/physical_package_id"));
            if cpu % 2 == 0 { write(&file, "-1\n") } else { remove(&file) }
        }
    })
    .expect("read");
    assert_eq!(topology.sockets.len(), 1);
    assert_eq!(topology.sockets[0].nodes.len(), 4);
    assert!(topology.warnings[0].contains("physical_package_id for CPUs 0-15"), "{:?}", topology.warnings);
}

#[test]
fn a_node_may_span_sockets() {
    let topology = read_changed(|system| {
        write(&system.join("node/node1/cpulist"), "4-11\n");
        write(&system.join("node/node2/cpulist"), "\n");
    })
    .expect("read");
    let expected = [(0, 0, "0-3"), (0, 1, "4-7"), (1, 1, "8-11"), (1, 3, "12-15")];
    assert_eq!(shares(&topology), expected.map(|(socket, node, cpus)| (socket, node, cpus.to_owned())));
    assert_eq!(topology.node(1).map(|node| node.cpus.to_string()), Some("4-11".into()));
    assert!(topology.node(2).is_some_and(|node| node.cpus.is_empty()));
}

#[test]
fn offline_cpus_that_a_node_or_a_core_still_lists_are_cut() {
    let topology = read_changed(|system| {
        write(&system.join("cpu/online"), "0-4,6-15\n");
        remove(&system.join("cpu/cpu5/topology"));
    })
    .expect("read");
    assert_eq!(topology.node(1).map(|node| node.cpus.to_string()), Some("4,6-7".into()));
    assert_eq!(topology.cpu(4).and_then(|cpu| cpu.cluster.clone()), Some("4".parse().unwrap()));
    assert_eq!((topology.offline.to_string(), topology.cpus.len()), ("5".into(), 15));
}

#[test]
fn cpus_on_no_node_or_on_two_are_placed_with_a_warning() {
    let topology = read_changed(|system| {
        write(&system.join("node/node0/cpulist"), "0-2\n");
        write(&system.join("node/node1/cpulist"), "2,4-7\n");
    })
    .expect("read");
    assert_eq!(topology.node(0).map(|node| node.cpus.to_string()), Some("0-3".into()));
    assert_eq!(topology.node(1).map(|node| node.cpus.to_string()), Some("4-7".into()));
    assert!(topology.warnings[0].contains("node 1 lists CPUs 2"), "{:?}", topology.warnings);
    assert!(topology.warnings[1].contains("no node lists CPUs 3"), "{:?}", topology.warnings);
}

#[test]
fn clusters_that_are_cores_nodes_or_sockets_are_no_level() {
    for of in
        [|cpu: u32| (cpu, cpu), |cpu| (cpu / 4 * 4, cpu / 4 * 4 + 3), |cpu| (cpu / 8 * 8, cpu / 8 * 8 + 7)]
    {
        let topology = read_changed(|system| {
            for cpu in 0..16 {
                let (first, last) = of(cpu);
                write(
                    &system.join(format!("cpu/cpu{cpu}/topology/cluster_cpus_list")),
                    &format!("{first}-{last}\n"),
                );
            }
        })
        .expect("read");
        assert!(topology.cpus.iter().all(|cpu| cpu.cluster.is_none()), "{:?}", of(0));
    }
    let without = read_changed(|system| {
        for cpu in 0..16 {
            remove(&system.join(format!("cpu/cpu{cpu}/topology/cluster_cpus_list")));
            remove(&system.join(format!("cpu/cpu{cpu}/topology/cluster_cpus")));
        }
    })
    .expect("read");
    assert!(without.cpus.iter().all(|cpu| cpu.cluster.is_none()), "cluster_id alone repeats per socket");
}

#[test]
fn memory_and_distances_that_are_not_there() {
    let topology = read_changed(|system| {
        for node in 0..4 {
            remove(&system.join(format!("node/node{node}/meminfo")));
        }
        write(&system.join("node/has_memory"), "0,2-3\n");
        write(&system.join("node/node0/distance"), "10 20\n");
        remove(&system.join("node/node1/distance"));
        write(&system.join("cpu/nohz_full"), " (null)\n");
    })
    .expect("read");
    assert_eq!(
        topology.nodes.iter().map(|node| node.memory_bytes).collect::<Vec<_>>(),
        [None, Some(0), None, None]
    );
    assert_eq!(topology.memory_nodes().to_string(), "0,2-3");
    assert_eq!(
        (topology.distance(0, 1), topology.distance(1, 0), topology.distance(2, 3)),
        (None, None, Some(12))
    );
    assert_eq!(topology.warnings.len(), 2, "{:?}", topology.warnings);
}

#[test]
fn the_cgroups_limits_narrow_what_is_allowed() {
    let machine = Machine { sockets: 2, memoryless_nodes: [1].into_iter().collect(), ..Machine::default() };
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_sysfs(&machine.topology(), dir.path()).expect("the tree is written");
    let limits = Cpuset { cpus: Some("2-5,99".parse().unwrap()), mems: Some("0-1".parse().unwrap()) };
    let topology = sysfs::read(dir.path(), &limits).expect("read");
    assert_eq!((topology.allowed.to_string(), topology.allowed_mems.to_string()), ("2-5".into(), "0".into()));
    assert_eq!(topology.online().to_string(), "0-7");
}

#[test]
fn errors_name_the_file_and_what_to_do() {
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(Change<'_>, &str, &str); 10] = [
        (&|system| remove(&system.join("cpu")), "devices/system/cpu is missing", "give the directory"),
        (
            &|system| write(&system.join("cpu/online"), "0-x\n"),
            "cpu/online holds \"0-x\"",
            "is not an id or a range",
        ),
        (
            &|system| write(&system.join("cpu/online"), "\n"),
            "cpu/online is missing",
            "capture the whole tree",
        ),
        (&|system| remove(&system.join("cpu/cpu3")), "cpu/cpu3 is missing", "capture the whole tree"),
        (&|system| remove(&system.join("node/node2")), "node/node2 is missing", "capture the whole tree"),
        (
            &|system| write(&system.join("cpu/cpu1/topology/physical_package_id"), "\x1b[2J"),
            "cpu1/topology/physical_package_id holds \"\\u{1b}[2J\"",
            "not a number",
        ),
        (&|system| write(&system.join("node/node1/distance"), "10 far"), "node1/distance holds", "distances"),
        (
            &|system| write(&system.join("node/node1/meminfo"), "Node 1 MemTotal: lots kB"),
            "node1/meminfo holds",
            "not a number of kB",
        ),
        (
            &|system| write(&system.join("cpu/cpu2/cache/index3/size"), "big"),
            "index3/size holds \"big\"",
            "512K",
        ),
        (
            &|system| write(&system.join("cpu/cpu2/cache/index3/type"), "\x1b["),
            "index3/type holds \"\\u{1b}[\"",
            "not Data, Instruction or Unified",
        ),
    ];
    for (change, file, hint) in cases {
        let message = read_changed(change).expect_err(file).to_string();
        assert!(message.contains(file) && message.contains(hint), "{message}");
        assert!(!message.contains('\x1b'), "{message}");
    }
    let masks = |system: &Path| {
        remove(&system.join("node/node1/cpulist"));
        remove(&system.join("node/node1/cpumap"));
    };
    let message = read_changed(masks).expect_err("no CPUs of node 1").to_string();
    assert!(message.contains("node1/cpulist is missing"), "{message}");
}

#[test]
fn the_directory_above_sys_is_pointed_out() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_sysfs(&Machine::default().topology(), &dir.path().join("sys")).expect("the tree is written");
    let message = sysfs::read(dir.path(), &Cpuset::default()).expect_err("not /sys").to_string();
    assert!(message.ends_with(&format!("did you mean {}?", dir.path().join("sys").display())), "{message}");
}
