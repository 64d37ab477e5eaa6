//! What of the machine a plan may use: sockets and nodes cut down to the CPUs that are online and allowed.

use super::{PlanError, split::Units};
use crate::core::{
    idset::{CpuSet, NodeSet},
    topology::Topology,
};

/// A socket that can host groups: it has at least one node.
pub(super) struct HostSocket {
    pub id: u32,
    /// Its nodes with usable CPUs, by ascending id; never empty.
    pub nodes: Vec<HostNode>,
}

/// A node's usable share of a socket.
pub(super) struct HostNode {
    pub id: u32,
    /// Never empty.
    pub cpus: CpuSet,
    pub units: Units,
}

/// The sockets that can host groups, by ascending id; never empty.
pub(super) fn usable(
    topology: &Topology,
    reserved: &CpuSet,
    isolated: &CpuSet,
    warnings: &mut Vec<String>,
) -> Result<Vec<HostSocket>, PlanError> {
    let with_isolated = topology.allowed.difference(reserved);
    let allowed = with_isolated.difference(isolated);
    let mut sockets = Vec::new();
    for socket in &topology.sockets {
        // Others are given up with a word; isolation is a choice that the user made elsewhere, and may have meant for this.
        for node in &socket.nodes {
            let cpus = node.cpus.intersection(&with_isolated);
            if !cpus.is_empty() && cpus.is_subset(isolated) {
                return Err(PlanError::AllIsolated { socket: socket.id, node: node.id, cpus });
            }
        }
        let cut = socket.nodes.iter().map(|node| (node.id, node.cpus.intersection(&allowed)));
        let nodes: Vec<HostNode> = cut
            .filter(|(_, cpus)| !cpus.is_empty())
            .map(|(id, cpus)| HostNode { id, units: Units::new(topology, &cpus), cpus })
            .collect();
        if nodes.is_empty() {
            let why = match socket.nodes.iter().any(|node| !node.cpus.is_subset(reserved)) {
                true => "our cgroup allows none of its CPUs",
                false => "all its CPUs are left to interrupts",
            };
            warnings.push(format!("socket {} hosts no groups: {why}", socket.id));
        } else {
            sockets.push(HostSocket { id: socket.id, nodes });
        }
    }
    if sockets.is_empty() && !topology.allowed.is_empty() && allowed.is_empty() {
        return Err(PlanError::AllReserved { allowed: topology.allowed.clone() });
    }
    if sockets.is_empty() {
        return Err(PlanError::NoCpus {
            topology: topology.source.clone(),
            online: topology.online(),
            allowed: topology.allowed.clone(),
        });
    }
    Ok(sockets)
}

/// SLIT distance, for comparing: a distance that the firmware does not give is the farthest.
pub(super) fn far(topology: &Topology, from: u32, to: u32) -> u32 {
    topology.distance(from, to).unwrap_or(u32::MAX)
}

/// The nodes out of `wanted` that can hold memory; else the node nearest to `node` that can; else none.
pub(super) fn memory_of(
    topology: &Topology,
    node: u32,
    wanted: &NodeSet,
    warnings: &mut Vec<String>,
) -> NodeSet {
    let holders = topology.memory_nodes();
    let ours = wanted.intersection(&holders);
    if !ours.is_empty() {
        return ours;
    }
    let nearest = holders.iter().min_by_key(|&holder| (far(topology, node, holder), holder));
    let warning = match nearest {
        Some(nearest) => format!(
            "no node of {wanted} has memory that our cgroup allows: groups on node {node} take node {nearest}'s, the nearest"
        ),
        None => {
            format!("no node has memory that our cgroup allows: no memory policy for groups on node {node}")
        }
    };
    // A node that spans sockets comes by once per socket.
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
    nearest.into_iter().collect()
}
