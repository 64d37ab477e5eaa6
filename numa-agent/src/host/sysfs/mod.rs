//! Reads the topology from a sysfs tree: this machine's, or one captured from another.
//!
//! What a kernel may leave out has a stated substitute (a warning in the topology); what it cannot leave out is an error
//! that names the file. File names are those of `Documentation/ABI/stable/sysfs-devices-{system-cpu,node}`; trees as old
//! as 2.6.16 are read, whose sets are masks only.

pub mod conditions;
pub mod devices;
mod tree;

use std::{collections::BTreeMap, path::Path};

pub use tree::SysfsError;
use tree::Tree;

use super::cpuset::{self, Cpuset};
use crate::core::{
    idset::{CpuSet, IdSet, NodeSet},
    outline::Outline,
    topology::{Cache, Cpu, Node, Topology},
};

const CPU: &str = "devices/system/cpu";
const NODE: &str = "devices/system/node";

/// Reads this machine's topology, with the CPUs and memory nodes that our own cgroup allows.
///
/// # Errors
/// See [`read`]; also if our cgroup's limits cannot be read.
pub fn read_host() -> Result<Topology, SysfsError> {
    read(Path::new("/sys"), &cpuset::own(Path::new("/"))?)
}

/// Reads the tree at `root`, which stands for `/sys`. For another machine's tree give [`Cpuset::default`]: everything
/// is allowed.
///
/// # Errors
/// [`SysfsError`], naming the file.
pub fn read(root: &Path, cpuset: &Cpuset) -> Result<Topology, SysfsError> {
    let tree = Tree { root };
    if !tree.is_dir(CPU) {
        let hint = match tree.is_dir(&format!("sys/{CPU}")) {
            true => format!("did you mean {}?", tree.path("sys").display()),
            false => "give the directory that holds devices/system/cpu".to_owned(),
        };
        return Err(SysfsError::NotSysfs { root: root.into(), path: tree.path(CPU), hint });
    }
    Reader { tree, warnings: Vec::new() }.topology(cpuset)
}

/// Reads what may have changed since, of the tree at `root`.
///
/// # Errors
/// As [`read`].
pub fn outline(root: &Path, cpuset: &Cpuset) -> Result<Outline, SysfsError> {
    let reader = Reader { tree: Tree { root }, warnings: Vec::new() };
    let online = match reader.tree.list(&format!("{CPU}/online"))? {
        Some(online) => online,
        None => reader.online(&reader.tree.numbered(CPU, "cpu")?)?,
    };
    let nodes = reader.tree.list(&format!("{NODE}/online"))?.unwrap_or_default();
    let memory = reader.tree.list(&format!("{NODE}/has_memory"))?.unwrap_or_else(|| nodes.clone());
    Ok(Outline {
        allowed: limited(&online, cpuset.cpus.as_ref()),
        memory: limited(&memory.intersection(&nodes), cpuset.mems.as_ref()),
        online,
        nodes,
    })
}

fn limited(all: &IdSet, limit: Option<&IdSet>) -> IdSet {
    limit.map_or_else(|| all.clone(), |limit| all.intersection(limit))
}

struct Reader<'a> {
    tree: Tree<'a>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn topology(mut self, cpuset: &Cpuset) -> Result<Topology, SysfsError> {
        let dirs = self.tree.numbered(CPU, "cpu")?;
        let online = self.online(&dirs)?;
        let present = self.tree.list(&format!("{CPU}/present"))?.unwrap_or(dirs).union(&online);
        let nodes = self.nodes()?;
        let homes = self.homes(&online, &nodes)?;
        let cpus = self.cpus(&online, &homes)?;
        let set = |name: &str| -> Result<CpuSet, SysfsError> {
            Ok(self.tree.list(&format!("{CPU}/{name}"))?.unwrap_or_default().intersection(&present))
        };
        let (isolated, nohz_full) = (set("isolated")?, set("nohz_full")?);
        let with_memory: NodeSet =
            nodes.iter().filter(|node| node.memory_bytes != Some(0)).map(|node| node.id).collect();
        Ok(Topology {
            source: self.tree.root.display().to_string(),
            sockets: Vec::new(),
            offline: present.difference(&online),
            isolated,
            nohz_full,
            allowed: limited(&online, cpuset.cpus.as_ref()),
            allowed_mems: limited(&with_memory, cpuset.mems.as_ref()),
            nodes,
            cpus,
            warnings: self.warnings,
        }
        .settled())
    }

    fn online(&self, dirs: &CpuSet) -> Result<CpuSet, SysfsError> {
        let file = format!("{CPU}/online");
        let online = match self.tree.list(&file)? {
            Some(online) => online,
            // Before 2.6.28. A CPU that cannot go offline (often cpu0) has no file of its own.
            None => {
                let mut online = CpuSet::new();
                for id in dirs.iter() {
                    if self.tree.number(&format!("{CPU}/cpu{id}/online"))? != Some(0) {
                        online.insert(id);
                    }
                }
                online
            }
        };
        if online.is_empty() {
            return Err(SysfsError::Missing {
                path: self.tree.path(&file),
                hint: "neither that file nor a cpuN directory names an online CPU; capture the whole tree",
            });
        }
        if let Some(id) = online.difference(dirs).first() {
            return Err(SysfsError::Missing {
                path: self.tree.path(&format!("{CPU}/cpu{id}")),
                hint: "cpu/online names that CPU; capture the whole tree",
            });
        }
        Ok(online)
    }

    /// The online nodes, their CPUs left empty.
    fn nodes(&mut self) -> Result<Vec<Node>, SysfsError> {
        let dirs = self.tree.numbered(NODE, "node")?;
        if dirs.is_empty() {
            self.warnings.push(format!(
                "{} has no node: a kernel without NUMA support, taken as one node",
                self.tree.path(NODE).display()
            ));
            let distances = BTreeMap::from([(0, 10)]);
            return Ok(vec![Node {
                id: 0,
                cpus: CpuSet::new(),
                memory_bytes: None,
                free_bytes: None,
                distances,
            }]);
        }
        let online = self.tree.list(&format!("{NODE}/online"))?.unwrap_or_else(|| dirs.clone());
        if let Some(id) = online.difference(&dirs).first() {
            return Err(SysfsError::Missing {
                path: self.tree.path(&format!("{NODE}/node{id}")),
                hint: "node/online names that node; capture the whole tree",
            });
        }
        let has_memory = self.tree.list(&format!("{NODE}/has_memory"))?;
        online.iter().map(|id| self.node(id, &online, has_memory.as_ref())).collect()
    }

    fn node(&mut self, id: u32, online: &NodeSet, has_memory: Option<&NodeSet>) -> Result<Node, SysfsError> {
        let [total, free_bytes] =
            self.tree.meminfo(&format!("{NODE}/node{id}/meminfo"), ["MemTotal:", "MemFree:"])?;
        let memory_bytes = total.or_else(|| has_memory.filter(|nodes| !nodes.contains(id)).map(|_| 0));
        Ok(Node { id, cpus: CpuSet::new(), memory_bytes, free_bytes, distances: self.distances(id, online)? })
    }

    /// A row of the distance matrix: one number for each online node, by ascending id.
    fn distances(&mut self, id: u32, online: &NodeSet) -> Result<BTreeMap<u32, u32>, SysfsError> {
        let file = format!("{NODE}/node{id}/distance");
        let Some(text) = self.tree.text(&file)? else {
            self.warnings.push(format!("{} is missing: distances unknown", self.tree.path(&file).display()));
            return Ok(BTreeMap::new());
        };
        let row: Vec<u32> = text
            .split_whitespace()
            .map(|word| word.parse().map_err(|_| self.tree.content(&file, &text, "not a row of distances")))
            .collect::<Result<_, _>>()?;
        if row.len() != online.len() {
            self.warnings.push(format!(
                "{} has {} distances for {} online nodes: not used",
                self.tree.path(&file).display(),
                row.len(),
                online.len()
            ));
            return Ok(BTreeMap::new());
        }
        Ok(online.iter().zip(row).collect())
    }

    /// The node of every online CPU.
    fn homes(&mut self, online: &CpuSet, nodes: &[Node]) -> Result<BTreeMap<u32, u32>, SysfsError> {
        let mut homes = BTreeMap::new();
        if !self.tree.is_dir(&format!("{NODE}/node{}", nodes[0].id)) {
            return Ok(online.iter().map(|cpu| (cpu, nodes[0].id)).collect());
        }
        for node in nodes {
            let file = |name: &str| format!("{NODE}/node{}/{name}", node.id);
            let Some(cpus) = self.tree.list_or_mask(&file("cpulist"), &file("cpumap"))? else {
                return Err(SysfsError::Missing {
                    path: self.tree.path(&file("cpulist")),
                    hint: "without it (or cpumap) a node's CPUs are unknown; capture the whole tree",
                });
            };
            let cpus = cpus.intersection(online);
            let taken: CpuSet = cpus.iter().filter(|cpu| homes.contains_key(cpu)).collect();
            if !taken.is_empty() {
                self.warnings.push(format!(
                    "node {} lists CPUs {taken}, which a node before it has: ignored",
                    node.id
                ));
            }
            homes.extend(cpus.difference(&taken).iter().map(|cpu| (cpu, node.id)));
        }
        let homeless: CpuSet = online.iter().filter(|cpu| !homes.contains_key(cpu)).collect();
        if !homeless.is_empty() {
            self.warnings.push(format!("no node lists CPUs {homeless}: node {} taken", nodes[0].id));
            homes.extend(homeless.iter().map(|cpu| (cpu, nodes[0].id)));
        }
        Ok(homes)
    }

    fn cpus(&mut self, online: &CpuSet, homes: &BTreeMap<u32, u32>) -> Result<Vec<Cpu>, SysfsError> {
        let mut without_socket = CpuSet::new();
        let mut cpus = Vec::new();
        for id in online.iter() {
            let dir = format!("{CPU}/cpu{id}/topology");
            let file = |name: &str| format!("{dir}/{name}");
            // -1 is the kernel's word for unknown.
            let package =
                self.tree.number(&file("physical_package_id"))?.and_then(|id| u32::try_from(id).ok());
            if package.is_none() {
                without_socket.insert(id);
            }
            // `core_cpus` since 5.3, an alias of the older `thread_siblings`.
            let core = match self.tree.list_or_mask(&file("core_cpus_list"), &file("core_cpus"))? {
                Some(core) => Some(core),
                None => self.tree.list_or_mask(&file("thread_siblings_list"), &file("thread_siblings"))?,
            };
            cpus.push(Cpu {
                id,
                socket: package.unwrap_or(0),
                node: homes[&id],
                core: core.unwrap_or_default(),
                cluster: self.tree.list_or_mask(&file("cluster_cpus_list"), &file("cluster_cpus"))?,
                caches: self.caches(id)?,
            });
        }
        if !without_socket.is_empty() {
            self.warnings
                .push(format!("no physical_package_id for CPUs {without_socket}: taken as on socket 0"));
        }
        Ok(cpus)
    }

    fn caches(&self, cpu: u32) -> Result<Vec<Cache>, SysfsError> {
        let dir = format!("{CPU}/cpu{cpu}/cache");
        let mut caches = Vec::new();
        for index in self.tree.numbered(&dir, "index")?.iter() {
            let file = |name: &str| format!("{dir}/index{index}/{name}");
            let (Some(level), Some(kind)) =
                (self.tree.number(&file("level"))?, self.tree.text(&file("type"))?)
            else {
                continue;
            };
            if !["Data", "Instruction", "Unified"].contains(&kind.as_str()) {
                return Err(self.tree.content(&file("type"), &kind, "not Data, Instruction or Unified"));
            }
            let level = u32::try_from(level)
                .map_err(|_| self.tree.content(&file("level"), &level.to_string(), "not a level"))?;
            let size_bytes = match self.tree.text(&file("size"))? {
                Some(size) => Some(
                    bytes(&size)
                        .ok_or_else(|| self.tree.content(&file("size"), &size, "not a size like 512K"))?,
                ),
                None => None,
            };
            let shared = self.tree.list_or_mask(&file("shared_cpu_list"), &file("shared_cpu_map"))?;
            let mut shared_cpus = shared.unwrap_or_default();
            shared_cpus.insert(cpu);
            caches.push(Cache { level, kind, size_bytes, shared_cpus });
        }
        Ok(caches)
    }
}

/// A cache's size: the kernel prints KiB with a `K`.
fn bytes(size: &str) -> Option<u64> {
    let (digits, shift) = match size.strip_suffix('K') {
        Some(digits) => (digits, 10),
        None => size.strip_suffix('M').map_or((size, 0), |digits| (digits, 20)),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
