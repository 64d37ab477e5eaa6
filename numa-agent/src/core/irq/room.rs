//! Where the interrupts of a node's devices may go: as near as possible, and off the CPUs that matter.

use std::fmt;

use crate::core::{
    idset::CpuSet,
    plan::Plan,
    topology::{Node, Topology},
};

/// CPUs for the interrupts of a node's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Never empty.
    pub cpus: CpuSet,
    /// The same in the order in which interrupts take them: a hardware thread of each core, then the others.
    pub order: Vec<u32>,
    /// What they are otherwise for.
    pub use_: Use,
    /// How near they are.
    pub near: Near,
    /// The node that they are near to.
    pub home: u32,
}

/// What the CPUs that take interrupts are otherwise for, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Set aside for them.
    Reserved,
    /// No group's, and no forward thread's.
    Free,
    /// Group processes run there too.
    Groups,
    /// Forward threads run there too: there is nothing else.
    Forward,
}

/// How near the CPUs are, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Near {
    /// On the device's node.
    Node,
    /// On its socket.
    Socket,
    /// Elsewhere.
    Machine,
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let near = match self.near {
            Near::Node => format!("node {}", self.home),
            Near::Socket => format!("the socket of node {}", self.home),
            Near::Machine => "another socket".to_owned(),
        };
        match self.use_ {
            Use::Reserved => write!(f, "reserved for interrupts, on {near}"),
            Use::Free => write!(f, "no group's, on {near}"),
            Use::Groups => write!(f, "group processes' too, on {near}"),
            Use::Forward => write!(f, "forward threads' too, on {near}: there are no others"),
        }
    }
}

/// The CPUs for a device on that node; `None`: the node is not known, and the background processes' one is taken. `reserved` are
/// those that the plan leaves to interrupts.
///
/// Nearness comes after use: a forward thread is disturbed by each interrupt on its CPU, while a socket's other node is as near as its
/// memory. Only CPUs that are set aside by the configuration are used on other sockets.
#[must_use]
pub fn room(topology: &Topology, plan: &Plan, reserved: &CpuSet, node: Option<u32>) -> Option<Room> {
    let node = topology.node(node.unwrap_or(plan.others.node)).or_else(|| topology.node(plan.others.node))?;
    let home = with_cpus(topology, node)?;
    let sockets = topology.sockets.iter().filter(|socket| socket.nodes.iter().any(|each| each.id == home.id));
    let socket =
        sockets.flat_map(|socket| &socket.nodes).fold(CpuSet::new(), |all, node| all.union(&node.cpus));
    let online = topology.online();
    // Kept free by whoever booted the machine; used only where the configuration says so, or nothing else is online.
    let quiet = topology.isolated.union(&topology.nohz_full);
    let forward = plan.groups.iter().fold(CpuSet::new(), |all, group| all.union(&group.forward_cpus));
    let groups = plan.groups.iter().fold(CpuSet::new(), |all, group| all.union(&group.primary_cpus));
    let loud = online.difference(&quiet).difference(reserved);
    let kinds = [
        (Use::Reserved, reserved.clone()),
        (Use::Free, loud.difference(&groups).difference(&forward)),
        (Use::Groups, loud.difference(&forward)),
        (Use::Forward, if loud.is_empty() { online.clone() } else { loud }),
    ];
    let places = [(Near::Node, &home.cpus), (Near::Socket, &socket), (Near::Machine, &online)];
    for (use_, cpus) in &kinds {
        let far = *use_ == Use::Reserved || *use_ == Use::Forward;
        for (near, place) in places.iter().filter(|(near, _)| far || *near != Near::Machine) {
            let cpus = cpus.intersection(place);
            if !cpus.is_empty() {
                return Some(Room {
                    order: order(topology, &cpus),
                    cpus,
                    use_: *use_,
                    near: *near,
                    home: home.id,
                });
            }
        }
    }
    None
}

/// The node itself, or the nearest one that has CPUs.
fn with_cpus<'a>(topology: &'a Topology, node: &'a Node) -> Option<&'a Node> {
    let far = |other: &&Node| (topology.distance(node.id, other.id).unwrap_or(u32::MAX), other.id);
    let others = || topology.nodes.iter().filter(|node| !node.cpus.is_empty()).min_by_key(far);
    if node.cpus.is_empty() { others() } else { Some(node) }
}

fn order(topology: &Topology, cpus: &CpuSet) -> Vec<u32> {
    let cores: Vec<Vec<u32>> = topology.cores_of(cpus).iter().map(|core| core.iter().collect()).collect();
    let deepest = cores.iter().map(Vec::len).max().unwrap_or(0);
    (0..deepest).flat_map(|thread| cores.iter().filter_map(move |core| core.get(thread).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        irq::reserve::Reserve,
        preset::Preset,
        settings::{LayoutSettings, PolicyChoice},
        synthetic::Machine,
    };

    fn room_on(topology: &Topology, settings: &LayoutSettings, node: Option<u32>) -> (String, Use, Near) {
        let plan = Plan::new(topology, settings, 0).unwrap();
        let reserved = settings.reserve.on(topology);
        let room = room(topology, &plan, &reserved, node).unwrap();
        let mut order = room.order.clone();
        order.sort_unstable();
        assert_eq!(order, room.cpus.iter().collect::<Vec<_>>());
        (room.cpus.to_string(), room.use_, room.near)
    }

    #[test]
    fn on_a3_interrupts_keep_off_the_forward_threads() {
        let topology = Preset::A3.topology();
        let settings = LayoutSettings::default();
        assert_eq!(room_on(&topology, &settings, Some(0)), ("0-39".into(), Use::Groups, Near::Node));
        assert_eq!(room_on(&topology, &settings, Some(1)), ("0-39".into(), Use::Groups, Near::Socket));
        assert_eq!(room_on(&topology, &settings, None), ("160-199".into(), Use::Groups, Near::Node));
        assert_eq!(room_on(&topology, &settings, Some(77)), ("160-199".into(), Use::Groups, Near::Node));
    }

    #[test]
    fn what_is_set_aside_comes_first() {
        let topology = Preset::A3.topology();
        let two = LayoutSettings {
            reserve: Reserve { per_socket: 2, ..Reserve::default() },
            ..LayoutSettings::default()
        };
        assert_eq!(room_on(&topology, &two, Some(0)), ("38-39".into(), Use::Reserved, Near::Node));
        assert_eq!(room_on(&topology, &two, Some(7)), ("278-279".into(), Use::Reserved, Near::Socket));
        let one_socket = LayoutSettings {
            reserve: Reserve { cpus: "0-1".parse().unwrap(), per_socket: 0 },
            ..LayoutSettings::default()
        };
        assert_eq!(room_on(&topology, &one_socket, Some(6)), ("0-1".into(), Use::Reserved, Near::Machine));
    }

    #[test]
    fn a_node_that_the_plan_does_not_use_is_free() {
        // Three nodes a socket: the paired policy uses two.
        let machine = Machine { nodes_per_socket: 3, sockets: 2, cores_per_node: 4, ..Preset::A2.machine() };
        let topology = machine.topology();
        let settings = LayoutSettings {
            policy: PolicyChoice::Paired,
            groups_per_socket: Some(1),
            ..LayoutSettings::default()
        };
        assert_eq!(room_on(&topology, &settings, Some(2)), ("8-11".into(), Use::Free, Near::Node));
        assert_eq!(room_on(&topology, &settings, Some(1)), ("8-11".into(), Use::Free, Near::Socket));
    }

    #[test]
    fn isolated_cpus_and_memory_nodes_take_none() {
        let mut topology = Preset::A3.topology();
        topology.isolated = "0-19".parse().unwrap();
        topology.nohz_full = "20-29".parse().unwrap();
        let settings = LayoutSettings::default();
        assert_eq!(room_on(&topology, &settings, Some(0)).0, "30-39");
        let mut memory_only = topology.nodes[0].clone();
        (memory_only.id, memory_only.cpus) = (8, CpuSet::new());
        memory_only.distances = topology.nodes.iter().map(|node| (node.id, 10 + (node.id + 2) % 8)).collect();
        topology.nodes.push(memory_only);
        assert_eq!(room_on(&topology, &settings, Some(8)).0, "240-279", "node 6 is the nearest");
    }

    #[test]
    fn on_one_node_there_is_nothing_but_the_forward_threads_cpus() {
        let machine = Machine {
            nodes_per_socket: 1,
            sockets: 1,
            cores_per_node: 4,
            threads_per_core: 2,
            ..Preset::A2.machine()
        };
        let topology = machine.topology();
        let plan = Plan::new(&topology, &LayoutSettings::default(), 0).unwrap();
        let room = room(&topology, &plan, &CpuSet::new(), Some(0)).unwrap();
        assert_eq!((room.use_, room.near), (Use::Forward, Near::Node));
        let firsts: CpuSet = room.order[..4].iter().copied().collect();
        assert_eq!(topology.cores_of(&firsts).len(), 4, "each core once before any twice: {:?}", room.order);
    }
}
