//! The plan: which CPUs and memory nodes each group, and the background processes, get on this machine.
//!
//! Owns every placement decision, and only those: which process sits in which group is `core::engine`'s, what a role
//! is `core::rules`'. A plan is a value; a changed machine or changed settings make a new one.

mod error;
mod hosts;
#[cfg(test)]
mod machine;
mod split;
#[cfg(test)]
mod tests;

pub use self::error::PlanError;
use self::hosts::{HostNode, HostSocket};
use super::{
    idset::{CpuSet, NodeSet},
    memory::{self, Mode},
    settings::{Align, Layout, LayoutSettings, Policy, PolicyChoice},
    topology::Topology,
};

/// The most groups a socket may be asked to host: far beyond any use, small enough to plan in no time.
pub const MAX_GROUPS_PER_SOCKET: u32 = 4096;

/// Groups a socket hosts under the paired policy unless the user says otherwise (the guide's layout).
const PAIRED_GROUPS: u32 = 4;

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
    /// Nodes its memory is interleaved over; empty where no node can hold memory for us.
    pub mem_nodes: NodeSet,
    /// The unit that `primary_cpus` was not cut below.
    pub align: Align,
}

impl Group {
    /// The memory policy of its processes; `None` where no node can hold memory for us.
    #[must_use]
    pub fn memory_policy(&self) -> Option<memory::Policy> {
        (!self.mem_nodes.is_empty()).then(|| memory::Policy::new(Mode::Interleave, self.mem_nodes.clone()))
    }
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

/// What of a plan stays on a machine that changes, where it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    policy: Policy,
    others_socket: u32,
}

impl Plan {
    /// Plans `topology` for `instances` serving instances.
    ///
    /// # Errors
    /// [`PlanError`] where the settings cannot be met on this machine.
    pub fn new(topology: &Topology, settings: &LayoutSettings, instances: usize) -> Result<Self, PlanError> {
        Self::following(None, topology, settings, instances)
    }

    /// The same for a machine that has changed since the plan that `kept` is of.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn following(
        kept: Option<Kept>,
        topology: &Topology,
        settings: &LayoutSettings,
        instances: usize,
    ) -> Result<Self, PlanError> {
        let mut warnings: Vec<String> = settings.reserve.warning(topology).into_iter().collect();
        let isolated = match settings.use_isolated {
            true => CpuSet::new(),
            false => topology.isolated.intersection(&topology.online()).intersection(&topology.allowed),
        };
        if !isolated.is_empty() {
            warnings.push(format!(
                "isolated CPUs {isolated} are left out of the plan: the scheduler does not balance load between them, so threads would pile up \
                 on one; use_isolated = true (--use-isolated) plans them"
            ));
        }
        let sockets = hosts::usable(topology, &settings.reserve.on(topology), &isolated, &mut warnings)?;
        let policy = policy(kept, topology, settings.policy, &sockets, &mut warnings)?;
        let places: Vec<Places> = sockets.iter().map(|socket| Places::new(policy, socket)).collect();
        let count = groups_per_socket(policy, settings, instances, &places, &mut warnings)?;

        let mut groups = Vec::new();
        for place in &places {
            groups.extend(place.groups(topology, settings, count, &mut warnings));
        }
        let others = others(kept, topology, policy, settings.others_socket_index, &sockets, &mut warnings)?;

        if instances > groups.len() {
            let as_needed = settings.groups_per_socket.map_or(policy == Policy::Generic, |count| count == 0);
            warnings.push(format!(
                "{instances} instances share {} groups{}",
                groups.len(),
                if as_needed { "" } else { "; a higher --groups-per-socket gives each its own" }
            ));
        }
        let mut planned = others.cpus.clone();
        for group in &groups {
            planned = planned.union(&group.primary_cpus).union(&group.forward_cpus);
        }
        let isolated = planned.intersection(&topology.isolated);
        if !isolated.is_empty() {
            warnings.push(format!(
                "the plan uses isolated CPUs {isolated}: the scheduler does not balance load between them, so threads \
                 may pile up on one"
            ));
        }
        Ok(Self { policy, layout: settings.layout, groups, others, warnings })
    }

    /// What plans that follow keep of this one.
    pub fn kept(&self) -> Kept {
        Kept { policy: self.policy, others_socket: self.others.socket }
    }

    /// The groups in the order that instances take them: round-robin over the sockets first.
    pub fn slots(&self) -> Vec<&Group> {
        let mut slots: Vec<&Group> = self.groups.iter().collect();
        slots.sort_by_key(|group| (group.index, group.socket));
        slots
    }
}

/// The policy in force.
fn policy(
    kept: Option<Kept>,
    topology: &Topology,
    choice: PolicyChoice,
    sockets: &[HostSocket],
    warnings: &mut Vec<String>,
) -> Result<Policy, PlanError> {
    let unpaired = sockets.iter().find(|socket| socket.nodes.len() < 2);
    match choice {
        PolicyChoice::Generic => Ok(Policy::Generic),
        PolicyChoice::Auto if kept.is_some_and(|kept| kept.policy == Policy::Paired) => {
            // Another policy would move every instance, also on the sockets that are as they were.
            for socket in sockets.iter().filter(|socket| socket.nodes.len() < 2) {
                warnings.push(format!(
                    "socket {} has only node {} left: forward threads there share it with their processes",
                    socket.id, socket.nodes[0].id
                ));
            }
            Ok(Policy::Paired)
        }
        PolicyChoice::Auto => {
            let two_online = topology.sockets.iter().all(|socket| socket.nodes.len() == 2);
            match unpaired {
                None if two_online && kept.is_none() => Ok(Policy::Paired),
                Some(socket) if two_online => {
                    warnings.push(format!(
                        "every socket has two nodes, but our cgroup leaves socket {} only node {}: \
                         planning by the generic policy",
                        socket.id, socket.nodes[0].id
                    ));
                    Ok(Policy::Generic)
                }
                _ => Ok(Policy::Generic),
            }
        }
        PolicyChoice::Paired => match unpaired {
            Some(socket) => Err(PlanError::Unpaired {
                socket: socket.id,
                nodes: socket.nodes.iter().map(|node| node.id).collect(),
            }),
            None => {
                for socket in sockets.iter().filter(|socket| socket.nodes.len() > 2) {
                    warnings.push(format!(
                        "socket {} has {} nodes, the paired policy uses nodes {} and {} only; --policy generic uses all",
                        socket.id,
                        socket.nodes.len(),
                        socket.nodes[0].id,
                        socket.nodes[1].id
                    ));
                }
                Ok(Policy::Paired)
            }
        },
    }
}

/// How many groups every socket hosts.
fn groups_per_socket(
    policy: Policy,
    settings: &LayoutSettings,
    instances: usize,
    places: &[Places<'_>],
    warnings: &mut Vec<String>,
) -> Result<u32, PlanError> {
    let (wanted, explicit) = match (settings.groups_per_socket, policy) {
        (Some(count), _) if count > MAX_GROUPS_PER_SOCKET => return Err(PlanError::TooManyGroups(count)),
        (Some(count), _) if count > 0 => (count, true),
        (None, Policy::Paired) => (PAIRED_GROUPS, false),
        _ => {
            let needed = instances.div_ceil(places.len()).clamp(1, MAX_GROUPS_PER_SOCKET as usize);
            (needed as u32, false)
        }
    };
    if settings.layout == Layout::Shared {
        return Ok(wanted);
    }
    let capacities = places.iter().map(|place| (place.capacity(settings.align), place));
    let Some((fits, tightest)) = capacities.min_by_key(|(fits, _)| *fits) else { return Ok(wanted) };
    if wanted <= fits {
        return Ok(wanted);
    }
    let refusal = tightest.refusal(wanted, fits, settings.align);
    if explicit || fits == 0 {
        return Err(refusal);
    }
    warnings.push(format!("{refusal}; planning {fits}"));
    Ok(fits)
}

/// The nodes of one socket that groups sit on: group `i` on node `i mod n`.
struct Places<'a> {
    policy: Policy,
    socket: &'a HostSocket,
    primaries: &'a [HostNode],
}

impl<'a> Places<'a> {
    fn new(policy: Policy, socket: &'a HostSocket) -> Self {
        let primaries = match policy {
            Policy::Paired => &socket.nodes[..1],
            Policy::Generic => &socket.nodes[..],
        };
        Self { policy, socket, primaries }
    }

    /// How many of `count` groups the node at `position` gets.
    fn share(&self, count: u32, position: usize) -> u32 {
        let nodes = self.primaries.len() as u32;
        (count + nodes - 1 - position as u32) / nodes
    }

    /// The most groups for which every node has a unit per group.
    fn capacity(&self, align: Option<Align>) -> u32 {
        let nodes = self.primaries.len() as u32;
        let fit = |(position, node): (usize, &HostNode)| position as u32 + nodes * node.units.count(align);
        self.primaries.iter().enumerate().map(fit).min().unwrap_or(0)
    }

    /// Why `count` groups, more than the socket's capacity, do not fit.
    fn refusal(&self, count: u32, fits: u32, align: Option<Align>) -> PlanError {
        let units = |node: &HostNode| node.units.count(align);
        let full = |&position: &usize| self.share(count, position) > units(&self.primaries[position]);
        let position = (0..self.primaries.len()).find(full).unwrap_or(0);
        let node = &self.primaries[position];
        PlanError::TooFewUnits {
            socket: self.socket.id,
            groups: count,
            node: node.id,
            on_node: self.share(count, position),
            units: units(node),
            align: align.unwrap_or(Align::None),
            fits,
        }
    }

    /// The socket's groups.
    fn groups(
        &self,
        topology: &Topology,
        settings: &LayoutSettings,
        count: u32,
        warnings: &mut Vec<String>,
    ) -> Vec<Group> {
        let mut groups = Vec::new();
        for (position, node) in self.primaries.iter().enumerate() {
            let on_node = self.share(count, position);
            if on_node == 0 {
                continue;
            }
            let (align, parts) = match settings.layout {
                Layout::Shared => (node.units.default_align(1), vec![node.cpus.clone(); on_node as usize]),
                Layout::Split => {
                    let align = settings.align.unwrap_or_else(|| node.units.default_align(on_node));
                    (align, node.units.split(align, on_node))
                }
            };
            let secondary = self.secondary(topology, node);
            let wanted: NodeSet = [node.id].into_iter().chain(secondary.map(|other| other.id)).collect();
            let mem_nodes = hosts::memory_of(topology, node.id, &wanted, warnings);
            groups.extend(parts.into_iter().enumerate().map(|(round, primary_cpus)| {
                let index = (round * self.primaries.len() + position) as u32;
                Group {
                    name: format!("socket{}_group{index}", self.socket.id),
                    socket: self.socket.id,
                    index,
                    primary_node: node.id,
                    secondary_node: secondary.map_or(node.id, |other| other.id),
                    forward_cpus: secondary.map_or(&primary_cpus, |other| &other.cpus).clone(),
                    primary_cpus,
                    mem_nodes: mem_nodes.clone(),
                    align,
                }
            }));
        }
        groups.sort_by_key(|group| group.index);
        groups
    }

    /// The node for the forward threads of groups on `node`; `None` where the socket has no other.
    fn secondary(&self, topology: &Topology, node: &HostNode) -> Option<&'a HostNode> {
        match self.policy {
            Policy::Paired => self.socket.nodes.get(1),
            Policy::Generic => {
                let others = self.socket.nodes.iter().filter(|other| other.id != node.id);
                others.min_by_key(|other| (hosts::far(topology, node.id, other.id), other.id))
            }
        }
    }
}

/// The place of the background processes.
fn others(
    kept: Option<Kept>,
    topology: &Topology,
    policy: Policy,
    index: Option<u32>,
    usable: &[HostSocket],
    warnings: &mut Vec<String>,
) -> Result<Others, PlanError> {
    let named = |index: u32| topology.sockets.get(index as usize).map(|socket| socket.id);
    let host = |id: u32| usable.iter().find(|socket| socket.id == id);
    let last = &usable[usable.len() - 1];
    let default = if policy == Policy::Paired { 2 } else { 0 };
    let by_default = named(default).and_then(host);
    let no_default = |socket: u32| {
        format!(
            "background processes go to socket {socket}: the default, index {default}, is no usable socket here; \
             --others-socket-index names another"
        )
    };
    let socket = match (kept, index) {
        // An index means another socket once one is gone.
        (Some(Kept { others_socket, .. }), _) => match host(others_socket) {
            Some(socket) => {
                let excuse = index.is_none() && by_default.is_none();
                warnings.extend(excuse.then(|| no_default(socket.id)));
                socket
            }
            None => {
                warnings.push(format!(
                    "background processes go to socket {}: socket {others_socket} is not usable any more",
                    last.id
                ));
                last
            }
        },
        (None, Some(index)) => {
            let sockets = || topology.sockets.iter().map(|socket| socket.id).collect();
            let id = named(index).ok_or_else(|| PlanError::NoOthersSocket { index, sockets: sockets() })?;
            host(id).ok_or(PlanError::OthersSocketUnusable { index, socket: id })?
        }
        (None, None) => by_default.unwrap_or_else(|| {
            warnings.push(no_default(last.id));
            last
        }),
    };
    let node = &socket.nodes[0];
    Ok(Others { socket: socket.id, node: node.id, cpus: node.cpus.clone() })
}
