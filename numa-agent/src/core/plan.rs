//! The plan: which CPUs and memory nodes each group, and the background processes, get on this machine.

use super::{
    idset::{CpuSet, NodeSet},
    settings::{Align, Layout, LayoutSettings, Policy},
    topology::Topology,
};

/// One scheduling process group's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `socket{S}_group{I}`.
    pub name: String,
    /// Socket id.
    pub socket: u32,
    /// Index within the socket.
    pub index: u32,
    /// Node its processes run on.
    pub primary_node: u32,
    /// Node its forward threads run on; the primary node where the socket has no other.
    pub secondary_node: u32,
    /// CPUs of its processes.
    pub primary_cpus: CpuSet,
    /// CPUs of its forward threads.
    pub forward_cpus: CpuSet,
    /// Nodes its memory is interleaved over.
    pub mem_nodes: NodeSet,
    /// The unit that `primary_cpus` was not cut below.
    pub align: Align,
}

/// Where the background processes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Others {
    /// Socket id.
    pub socket: u32,
    /// Node id.
    pub node: u32,
    /// The node's CPUs.
    pub cpus: CpuSet,
}

/// The whole plan for a machine. Pure function of topology, settings and the number of instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Policy in force.
    pub policy: Policy,
    /// Layout in force.
    pub layout: Layout,
    /// By socket, then index.
    pub groups: Vec<Group>,
    /// The background processes' place.
    pub others: Others,
    /// What the plan had to give up, in words for the user.
    pub warnings: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Not implemented yet.
    #[error("placeholder")]
    Placeholder,
}

impl Plan {
    /// Plans `topology` for `instances` serving instances.
    ///
    /// # Errors
    /// [`PlanError`] where the settings cannot be met on this machine.
    pub fn new(
        _topology: &Topology,
        _settings: &LayoutSettings,
        _instances: usize,
    ) -> Result<Self, PlanError> {
        Err(PlanError::Placeholder)
    }

    /// The groups in the order that instances take them: round-robin over the sockets first.
    pub fn slots(&self) -> Vec<&Group> {
        let mut slots: Vec<&Group> = self.groups.iter().collect();
        slots.sort_by_key(|group| (group.index, group.socket));
        slots
    }
}
