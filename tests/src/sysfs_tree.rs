//! Writes a machine as a sysfs tree, as a kernel would show it, for tests of everything that takes `--sysfs-root`.

use std::{collections::BTreeMap, fs, io, path::Path};

use numa_agent::core::{
    idset::{CpuSet, IdSet},
    topology::{Cpu, Node, Topology},
};

/// Writes `topology` below `dir`, which then stands for `/sys`: the files of a kernel of 5.16 or later, sets in both
/// forms (list and mask). Offline CPUs get a directory with `online` alone, as they do there.
///
/// # Errors
/// If a file cannot be written.
pub fn write_sysfs(topology: &Topology, dir: &Path) -> io::Result<()> {
    let tree = Writer { dir };
    let online = topology.online();
    let present = online.union(&topology.offline);
    let cpu = "devices/system/cpu";
    for (name, set) in [
        ("online", &online),
        ("present", &present),
        ("possible", &present),
        ("offline", &topology.offline),
        ("isolated", &topology.isolated),
        ("nohz_full", &topology.nohz_full),
    ] {
        tree.line(&format!("{cpu}/{name}"), set)?;
    }
    for id in topology.offline.iter() {
        tree.line(&format!("{cpu}/cpu{id}/online"), 0)?;
    }
    for each in &topology.cpus {
        tree.cpu(topology, each)?;
    }
    tree.nodes(topology)
}

/// One socket with nodes that have these CPUs.
#[must_use]
pub fn one_socket(nodes: &[&CpuSet]) -> Topology {
    let distance = |from: usize, to: usize| if from == to { 10 } else { 12 };
    let node = |(id, cpus): (usize, &&CpuSet)| Node {
        id: id as u32,
        cpus: (*cpus).clone(),
        memory_bytes: Some(1 << 30),
        free_bytes: Some(1 << 29),
        distances: (0..nodes.len()).map(|to| (to as u32, distance(id, to))).collect(),
    };
    let cpus = nodes.iter().enumerate().flat_map(|(node, cpus)| {
        cpus.iter().map(move |id| Cpu {
            id,
            socket: 0,
            node: node as u32,
            core: [id].into_iter().collect(),
            cluster: None,
            caches: Vec::new(),
        })
    });
    let mut cpus: Vec<Cpu> = cpus.collect();
    cpus.sort_by_key(|cpu| cpu.id);
    Topology { nodes: nodes.iter().enumerate().map(node).collect(), cpus, ..Topology::default() }.settled()
}

/// A set as the kernel prints masks: 32-bit groups, highest first.
#[must_use]
pub fn mask(set: &IdSet) -> String {
    let groups = set.last().map_or(1, |last| last / 32 + 1);
    let group =
        |index: u32| (0..32).filter(|bit| set.contains(index * 32 + bit)).fold(0u32, |m, b| m | 1 << b);
    (0..groups).rev().map(|index| format!("{:08x}", group(index))).collect::<Vec<_>>().join(",")
}

struct Writer<'a> {
    dir: &'a Path,
}

impl Writer<'_> {
    fn line(&self, file: &str, content: impl std::fmt::Display) -> io::Result<()> {
        let path = self.dir.join(file);
        let content = format!("{content}\n");
        // A tree has ten thousand files and few directories: make those only when found missing.
        match fs::write(&path, &content) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(self.dir))?;
                fs::write(&path, &content)
            }
            result => result,
        }
    }

    fn set(&self, list: &str, masked: &str, set: &CpuSet) -> io::Result<()> {
        self.line(list, set)?;
        self.line(masked, mask(set))
    }

    fn cpu(&self, topology: &Topology, cpu: &Cpu) -> io::Result<()> {
        let dir = format!("devices/system/cpu/cpu{}", cpu.id);
        if cpu.id != 0 {
            self.line(&format!("{dir}/online"), 1)?;
        }
        let socket: CpuSet =
            topology.cpus.iter().filter(|other| other.socket == cpu.socket).map(|other| other.id).collect();
        // On a machine without clusters x86 kernels give the core.
        let cluster = cpu.cluster.as_ref().unwrap_or(&cpu.core);
        let first = |set: &CpuSet| set.first().unwrap_or(cpu.id);
        let topology_file = |name: &str| format!("{dir}/topology/{name}");
        self.line(&topology_file("physical_package_id"), cpu.socket)?;
        self.line(&topology_file("die_id"), cpu.node)?;
        self.line(&topology_file("cluster_id"), first(cluster))?;
        self.line(&topology_file("core_id"), first(&cpu.core))?;
        for (name, set) in [
            ("core_cpus", &cpu.core),
            ("thread_siblings", &cpu.core),
            ("cluster_cpus", cluster),
            ("package_cpus", &socket),
            ("core_siblings", &socket),
        ] {
            self.set(&topology_file(&format!("{name}_list")), &topology_file(name), set)?;
        }
        for (index, cache) in cpu.caches.iter().enumerate() {
            let file = |name: &str| format!("{dir}/cache/index{index}/{name}");
            self.line(&file("level"), cache.level)?;
            self.line(&file("type"), &cache.kind)?;
            if let Some(size) = cache.size_bytes {
                self.line(&file("size"), format!("{}K", size / 1024))?;
            }
            self.set(&file("shared_cpu_list"), &file("shared_cpu_map"), &cache.shared_cpus)?;
        }
        Ok(())
    }

    fn nodes(&self, topology: &Topology) -> io::Result<()> {
        let dir = "devices/system/node";
        let ids = |wanted: &dyn Fn(&Node) -> bool| -> IdSet {
            topology.nodes.iter().filter(|node| wanted(node)).map(|node| node.id).collect()
        };
        for name in ["online", "possible"] {
            self.line(&format!("{dir}/{name}"), ids(&|_| true))?;
        }
        self.line(&format!("{dir}/has_cpu"), ids(&|node| !node.cpus.is_empty()))?;
        for name in ["has_memory", "has_normal_memory"] {
            self.line(&format!("{dir}/{name}"), ids(&|node| node.memory_bytes != Some(0)))?;
        }
        for node in &topology.nodes {
            let file = |name: &str| format!("{dir}/node{}/{name}", node.id);
            self.set(&file("cpulist"), &file("cpumap"), &node.cpus)?;
            let fields = BTreeMap::from([("MemTotal", node.memory_bytes), ("MemFree", node.free_bytes)]);
            let lines = fields.iter().rev().filter_map(|(name, bytes)| {
                bytes.map(|bytes| format!("Node {} {:16}{:8} kB", node.id, format!("{name}:"), bytes / 1024))
            });
            self.line(&file("meminfo"), lines.collect::<Vec<_>>().join("\n"))?;
            let row: Vec<String> = node.distances.values().map(u32::to_string).collect();
            self.line(&file("distance"), row.join(" "))?;
        }
        Ok(())
    }
}
