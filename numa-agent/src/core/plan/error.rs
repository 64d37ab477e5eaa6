//! Why a plan is refused, in words that say what to do.

use super::MAX_GROUPS_PER_SOCKET;
use crate::core::{
    idset::{CpuSet, NodeSet},
    settings::Align,
};

/// Why there is no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Our cgroup and the online CPUs have nothing in common.
    #[error(
        "no CPU of {topology} is both online ({online}) and allowed by our cgroup ({allowed}); \
         widen cpuset.cpus of the cgroup that numa-agent runs in"
    )]
    NoCpus {
        /// Where the topology comes from.
        topology: String,
        /// Online CPUs.
        online: CpuSet,
        /// CPUs our cgroup allows.
        allowed: CpuSet,
    },
    /// Interrupts were left all that there is.
    #[error("irq.cpus sets aside all CPUs that can be used ({allowed}); leave some to processes")]
    AllReserved {
        /// CPUs our cgroup allows.
        allowed: CpuSet,
    },
    /// A node has isolated CPUs and no others.
    #[error(
        "node {node} of socket {socket} has isolated CPUs alone ({cpus}), which a plan leaves out: use_isolated = true (--use-isolated) \
         plans them, each thread then staying on the CPU where it is; or leave some of them out of isolcpus="
    )]
    AllIsolated {
        /// Socket id.
        socket: u32,
        /// Node id.
        node: u32,
        /// Its CPUs that could be used else.
        cpus: CpuSet,
    },
    /// The paired policy was asked for where a socket has no pair.
    #[error(
        "the paired policy needs two nodes with usable CPUs on every socket; socket {socket} has {}: \
         use --policy generic",
        if .nodes.is_empty() { "none".to_owned() } else { format!("only node {nodes}") }
    )]
    Unpaired {
        /// The socket without a pair.
        socket: u32,
        /// Its nodes with usable CPUs.
        nodes: NodeSet,
    },
    /// A node would be divided between more groups than it has units.
    #[error(
        "socket {socket}: {groups} groups a socket put {on_node} on node {node}, which has {}; {}",
        counted(*.units, *.align),
        remedy(*.fits, *.align)
    )]
    TooFewUnits {
        /// Socket id.
        socket: u32,
        /// Groups per socket.
        groups: u32,
        /// Node id.
        node: u32,
        /// Groups on that node.
        on_node: u32,
        /// Usable units of the node.
        units: u32,
        /// The unit.
        align: Align,
        /// Groups per socket that would fit on every socket.
        fits: u32,
    },
    /// A number of groups that makes no sense on any machine.
    #[error("{0} groups a socket are too many: groups_per_socket goes up to {MAX_GROUPS_PER_SOCKET}")]
    TooManyGroups(u32),
    /// `others_socket_index` names no socket.
    #[error(
        "others_socket_index {index} does not exist: the sockets are {}, so the index goes from 0 to {}",
        list(.sockets),
        .sockets.len() - 1
    )]
    NoOthersSocket {
        /// The index asked for.
        index: u32,
        /// All socket ids, ascending.
        sockets: Vec<u32>,
    },
    /// `others_socket_index` names a socket without usable CPUs.
    #[error(
        "others_socket_index {index} is socket {socket}, which has no CPU that our cgroup allows; \
         name another or widen cpuset.cpus"
    )]
    OthersSocketUnusable {
        /// The index asked for.
        index: u32,
        /// The socket it names.
        socket: u32,
    },
}

/// `1 usable cluster`, `no usable CPU`.
fn counted(units: u32, align: Align) -> String {
    let unit = match align {
        Align::None => "CPU",
        Align::Core => "core",
        Align::Cluster => "cluster",
    };
    match units {
        0 => format!("no usable {unit}"),
        1 => format!("1 usable {unit}"),
        _ => format!("{units} usable {unit}s"),
    }
}

/// What to do where too many groups meet too few units, of which `fits` groups a socket would have enough.
fn remedy(fits: u32, align: Align) -> String {
    let fewer = if fits > 0 {
        format!("at most {fits} groups a socket fit (--groups-per-socket); ")
    } else {
        String::new()
    };
    let finer = if align == Align::None { "" } else { "--align none or " };
    format!("{fewer}{finer}--layout shared lifts the limit")
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
