//! Where a program is to be started: CPUs and a memory policy, from what the user names or from a group of the plan.
//!
//! Owns what may be asked for on a machine and why not; setting it is `host::launch`'s.

use std::str::FromStr;

use super::{
    idset::{CpuSet, IdSet, ListError, NodeSet},
    memory::{Mode, Policy},
    plan::Group,
    topology::Topology,
};

/// Ids as the user names them: a kernel list, or `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// Those that there are, and that we may use.
    All,
    /// These.
    These(IdSet),
}

/// CPUs as the user names them: a kernel list, `all`, or those of nodes as `node:0-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cpus {
    /// By their own ids.
    Ids(Ids),
    /// By their nodes'.
    OfNodes(Ids),
}

/// Why a text names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdsError {
    /// It is no list.
    #[error(transparent)]
    List(#[from] ListError),
    /// It is empty.
    #[error("no id is given; write a list like 0-9,12, or all")]
    Empty,
    /// One of numactl's words for something else.
    #[error("{0:?} is one of numactl's forms that are not known here; write ids, a list like 0-1, or all")]
    Numactl(String),
}

impl FromStr for Ids {
    type Err = IdsError;

    fn from_str(text: &str) -> Result<Self, IdsError> {
        let text = text.trim();
        if text == "all" {
            return Ok(Self::All);
        }
        // Relative to a cpuset, all but these, as a parent has it; the node of a device, a file, an address.
        if text.starts_with(['+', '!']) || text == "same" || text.contains(':') {
            return Err(IdsError::Numactl(text.to_owned()));
        }
        let ids: IdSet = text.parse()?;
        if ids.is_empty() { Err(IdsError::Empty) } else { Ok(Self::These(ids)) }
    }
}

impl FromStr for Cpus {
    type Err = IdsError;

    fn from_str(text: &str) -> Result<Self, IdsError> {
        match text.trim().strip_prefix("node:") {
            Some(nodes) => Ok(Self::OfNodes(nodes.parse()?)),
            None => Ok(Self::Ids(text.parse()?)),
        }
    }
}

/// Where a program is to be started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Its CPUs; `None`: those that it would have anyway.
    pub cpus: Option<CpuSet>,
    /// Its memory policy; `None`: the one that it would have anyway.
    pub policy: Option<Policy>,
    /// Whether somebody has named those very CPUs. Those that follow from a plan, from nodes or from `all` may be cut to what
    /// the kernel allows.
    pub named_cpus: bool,
    /// The same of the policy's nodes.
    pub named_nodes: bool,
}

/// Why a program cannot be started there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// CPUs that the machine does not have.
    #[error("there is no CPU {cpus}; this machine has {online} online")]
    NoSuchCpu {
        /// The CPUs.
        cpus: CpuSet,
        /// Those online.
        online: CpuSet,
    },
    /// CPUs that are offline.
    #[error("CPU {0} is offline; `echo 1 > /sys/devices/system/cpu/cpuN/online` brings one back")]
    Offline(CpuSet),
    /// CPUs that our cpuset does not have.
    #[error("our cgroup does not allow CPU {cpus}, only {allowed}; widen its cpuset.cpus")]
    CpuNotAllowed {
        /// The CPUs.
        cpus: CpuSet,
        /// Those that it has.
        allowed: CpuSet,
    },
    /// Nodes that the machine does not have.
    #[error("there is no node {nodes}; the nodes of this machine: {online}")]
    NoSuchNode {
        /// The nodes.
        nodes: NodeSet,
        /// Those online.
        online: NodeSet,
    },
    /// Nodes without CPUs that we could use.
    #[error("node {0} has no CPU that is online and that our cgroup allows")]
    NoCpus(NodeSet),
    /// Nodes without memory.
    #[error("node {nodes} has no memory; {holders} have some")]
    NoMemory {
        /// The nodes.
        nodes: NodeSet,
        /// Those with memory.
        holders: NodeSet,
    },
    /// Nodes whose memory our cpuset does not have.
    #[error("our cgroup does not allow memory of node {nodes}, only of {allowed}; widen its cpuset.mems")]
    MemoryNotAllowed {
        /// The nodes.
        nodes: NodeSet,
        /// Those that it has.
        allowed: NodeSet,
    },
}

impl Placement {
    /// A group's: its members' CPUs, and its memory in the way of the plan.
    #[must_use]
    pub fn of_group(group: &Group) -> Self {
        Self { cpus: Some(group.primary_cpus.clone()), policy: group.memory_policy(), ..Self::default() }
    }

    /// What the user named on this machine.
    ///
    /// # Errors
    /// [`PlacementError`] for what is not there, or not ours.
    pub fn named(
        topology: &Topology,
        cpus: Option<&Cpus>,
        memory: Option<(Mode, &Ids)>,
    ) -> Result<Self, PlacementError> {
        let named_cpus = matches!(cpus, Some(Cpus::Ids(Ids::These(_))));
        let named_nodes = matches!(memory, Some((_, Ids::These(_))));
        let cpus = cpus.map(|cpus| match cpus {
            Cpus::Ids(ids) => cpus_of(topology, ids),
            Cpus::OfNodes(nodes) => cpus_of_nodes(topology, nodes),
        });
        let policy = memory.map(|(mode, ids)| policy_of(topology, mode, ids));
        Ok(Self { cpus: cpus.transpose()?, policy: policy.transpose()?, named_cpus, named_nodes })
    }
}

fn cpus_of(topology: &Topology, ids: &Ids) -> Result<CpuSet, PlacementError> {
    let Ids::These(cpus) = ids else { return Ok(topology.allowed.clone()) };
    let online = topology.online();
    let offline = cpus.intersection(&topology.offline);
    let missing = cpus.difference(&online).difference(&offline);
    let allowed = &topology.allowed;
    let others = cpus.difference(allowed);
    match () {
        () if !missing.is_empty() => Err(PlacementError::NoSuchCpu { cpus: missing, online }),
        () if !offline.is_empty() => Err(PlacementError::Offline(offline)),
        () if !others.is_empty() => {
            Err(PlacementError::CpuNotAllowed { cpus: others, allowed: allowed.clone() })
        }
        () => Ok(cpus.clone()),
    }
}

fn cpus_of_nodes(topology: &Topology, ids: &Ids) -> Result<CpuSet, PlacementError> {
    let Ids::These(nodes) = ids else { return Ok(topology.allowed.clone()) };
    check_nodes(topology, nodes)?;
    let of_node = |node| topology.node(node).map(|node| node.cpus.intersection(&topology.allowed));
    let each = nodes.iter().map(|node| (node, of_node(node).unwrap_or_default()));
    let (mut all, mut empty) = (CpuSet::new(), NodeSet::new());
    for (node, cpus) in each {
        if cpus.is_empty() {
            empty.insert(node);
        }
        all = all.union(&cpus);
    }
    if empty.is_empty() { Ok(all) } else { Err(PlacementError::NoCpus(empty)) }
}

fn policy_of(topology: &Topology, mode: Mode, ids: &Ids) -> Result<Policy, PlacementError> {
    if mode == Mode::Local {
        return Ok(Policy::new(mode, NodeSet::new()));
    }
    let usable = topology.memory_nodes();
    let nodes = match ids {
        Ids::All => usable,
        Ids::These(nodes) => {
            check_nodes(topology, nodes)?;
            let with_memory = topology.nodes.iter().filter(|node| node.memory_bytes != Some(0));
            let holders: NodeSet = with_memory.map(|node| node.id).collect();
            let empty = nodes.difference(&holders);
            if !empty.is_empty() {
                return Err(PlacementError::NoMemory { nodes: empty, holders });
            }
            let others = nodes.difference(&usable);
            if !others.is_empty() {
                return Err(PlacementError::MemoryNotAllowed { nodes: others, allowed: usable });
            }
            nodes.clone()
        }
    };
    // One node is what older kernels have a mode for.
    let one = mode == Mode::PreferredMany && nodes.len() == 1;
    Ok(Policy::new(if one { Mode::Preferred } else { mode }, nodes))
}

fn check_nodes(topology: &Topology, nodes: &NodeSet) -> Result<(), PlacementError> {
    let online: NodeSet = topology.nodes.iter().map(|node| node.id).collect();
    let missing = nodes.difference(&online);
    if missing.is_empty() { Ok(()) } else { Err(PlacementError::NoSuchNode { nodes: missing, online }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{plan::Plan, preset, settings::LayoutSettings, synthetic::Machine};

    fn set(text: &str) -> IdSet {
        text.parse().unwrap()
    }

    /// Two sockets of one node of 4, node 2 with memory alone, node 1 without memory, CPU 7 offline; our cgroup has no CPU 1.
    fn machine() -> Topology {
        let machine = Machine {
            sockets: 2,
            memory_only_nodes: vec![2, 3],
            memoryless_nodes: set("1"),
            offline: set("7"),
            ..Machine::default()
        };
        let mut topology = machine.topology();
        topology.allowed = topology.allowed.difference(&set("1"));
        topology.allowed_mems = set("0,2");
        topology
    }

    fn cpus(text: &str) -> Result<CpuSet, PlacementError> {
        let cpus: Cpus = text.parse().unwrap();
        Placement::named(&machine(), Some(&cpus), None).map(|placement| placement.cpus.unwrap())
    }

    fn memory(mode: Mode, text: &str) -> Result<Policy, PlacementError> {
        let ids: Ids = text.parse().unwrap();
        Placement::named(&machine(), None, Some((mode, &ids))).map(|placement| placement.policy.unwrap())
    }

    #[test]
    fn cpus_are_named_by_id_or_by_node() {
        assert_eq!(cpus("0,2-3"), Ok(set("0,2-3")));
        assert_eq!(cpus("all"), Ok(set("0,2-6")));
        assert_eq!(cpus("node:0"), Ok(set("0,2-3")), "as far as we may");
        assert_eq!(cpus("node:0-1"), Ok(set("0,2-6")));
        assert_eq!(cpus("node:all"), cpus("all"));
    }

    #[test]
    fn cpus_that_cannot_be_had_are_named_with_the_reason() {
        let says = |text: &str, words: &[&str]| {
            let message = cpus(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{text}: {message}");
        };
        says("0,9-10", &["no CPU 9-10", "0-6"]);
        says("6-7", &["CPU 7 is offline"]);
        says("0-2", &["does not allow CPU 1", "cpuset.cpus", "0,2-6"]);
        says("node:5", &["no node 5", "0-3"]);
        says("node:1-2", &["node 2 has no CPU"]);
    }

    #[test]
    fn memory_comes_from_nodes_that_have_some_for_us() {
        assert_eq!(memory(Mode::Interleave, "all"), Ok(Policy::new(Mode::Interleave, set("0,2"))));
        assert_eq!(
            memory(Mode::Bind, "2"),
            Ok(Policy::new(Mode::Bind, set("2"))),
            "no CPUs are no hindrance"
        );
        assert_eq!(memory(Mode::PreferredMany, "2"), Ok(Policy::new(Mode::Preferred, set("2"))));
        assert_eq!(memory(Mode::PreferredMany, "0,2"), Ok(Policy::new(Mode::PreferredMany, set("0,2"))));
        assert_eq!(memory(Mode::Local, "all"), Ok(Policy::new(Mode::Local, set(""))));
        let says = |text: &str, words: &[&str]| {
            let message = memory(Mode::Bind, text).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{text}: {message}");
        };
        says("0-1", &["node 1 has no memory", "0,2-3"]);
        says("2-3", &["memory of node 3", "cpuset.mems", "0,2"]);
        says("0,8", &["no node 8"]);
    }

    #[test]
    fn only_ids_that_were_written_are_insisted_on() {
        let insists = |cpus: &str, nodes: &str| {
            let (cpus, ids): (Cpus, Ids) = (cpus.parse().unwrap(), nodes.parse().unwrap());
            let memory = Some((Mode::Interleave, &ids));
            let placement = Placement::named(&machine(), Some(&cpus), memory).unwrap();
            (placement.named_cpus, placement.named_nodes)
        };
        assert_eq!(insists("0", "0"), (true, true));
        assert_eq!(insists("node:0", "all"), (false, false));
        assert_eq!(insists("all", "0"), (false, true));
        assert_eq!(Placement::named(&machine(), None, None), Ok(Placement::default()));
    }

    #[test]
    fn numactls_other_forms_have_an_answer() {
        for text in ["+0-1", "!0", "netdev:eth0", "same"] {
            assert_eq!(text.parse::<Ids>(), Err(IdsError::Numactl(text.to_owned())));
        }
        assert_eq!("".parse::<Ids>(), Err(IdsError::Empty));
        assert!(matches!("node:x".parse::<Cpus>(), Err(IdsError::List(_))));
        assert_eq!("nodes:0".parse::<Cpus>(), Err(IdsError::Numactl("nodes:0".to_owned())));
    }

    #[test]
    fn a_group_is_its_members_cpus_and_the_plans_memory() {
        let plan = Plan::new(&preset::a3(), &LayoutSettings::default(), 0).unwrap();
        let group = plan.groups.iter().find(|group| group.name == "socket1_group0").unwrap();
        let placement = Placement::of_group(group);
        assert_eq!(placement.cpus, Some(set("80-91")));
        assert_eq!(placement.policy, Some(Policy::new(Mode::Interleave, set("2-3"))));
        let nowhere = Group { mem_nodes: NodeSet::new(), ..group.clone() };
        assert_eq!(Placement::of_group(&nowhere).policy, None);
    }
}
