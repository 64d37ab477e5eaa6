//! Which interrupt goes to which CPU, and which CPUs each queue of a network interface has.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::{
    Inventory, Irq, Queue, Side,
    room::{self, Room, Use},
};
use crate::core::{
    device::{Device, Kind},
    idset::CpuSet,
    plan::Plan,
    topology::Topology,
};

/// Names of an NPU's interrupts for each operator that it is given and has done; the busiest that it has. They come first, so that each has
/// a CPU of its own while there are CPUs.
const BUSY: [&str; 2] = ["sq_send_trigger_irq", "cq_update_irq"];

/// Names of an NPU's interrupts, where no PCI device lists them as its own.
const OF_NPUS: [&str; 3] = ["sq_send_trigger_irq", "cq_update_irq", "trs-mbox"];

/// The most devices that a warning lists.
const MOST_DEVICES: usize = 8;

/// What is to be planned; empty: everything.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Only devices whose address, kind or name matches.
    pub device: Option<Regex>,
    /// Only these interrupts.
    pub irqs: BTreeSet<u32>,
}

/// One interrupt's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The interrupt.
    pub irq: u32,
    /// What drivers call it; not escaped.
    pub name: String,
    /// Its device; not escaped.
    pub device: String,
    /// The device's node.
    pub node: Option<u32>,
    /// Where it may go now.
    pub now: CpuSet,
    /// Where it does go, where the kernel says so.
    pub effective: Option<CpuSet>,
    /// Where it should go.
    pub planned: CpuSet,
    /// Why there.
    pub why: String,
    /// Whether the kernel manages it: it will refuse.
    pub managed: bool,
}

/// One queue's CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePlace {
    /// The interface; not escaped.
    pub interface: String,
    /// `rx-0/rps_cpus`.
    pub file: String,
    /// The device's node.
    pub node: Option<u32>,
    /// Its mask now.
    pub now: CpuSet,
    /// Its mask as planned.
    pub planned: CpuSet,
    /// Why.
    pub why: String,
}

/// An interrupt that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its number, or the label of one that has none (`LOC`).
    pub irq: String,
    /// What it is; not escaped.
    pub name: String,
    /// Why it is left alone.
    pub why: &'static str,
}

/// The whole plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IrqPlan {
    /// Device interrupts, by device.
    pub places: Vec<Place>,
    /// Network queues.
    pub queues: Vec<QueuePlace>,
    /// Everything else.
    pub left: Vec<Left>,
    /// What had to be given up, in words for the user.
    pub warnings: Vec<String>,
}

/// Plans. The choice does not change where anything goes, only what is shown: one device at a time comes to the same as all at once.
#[must_use]
pub fn plan(
    topology: &Topology,
    plan: &Plan,
    reserved: &CpuSet,
    found: &Inventory,
    choice: &Choice,
) -> IrqPlan {
    let mut planner = Planner { topology, plan, reserved, turns: BTreeMap::new(), done: IrqPlan::default() };
    let mut devices: Vec<Device> =
        found.devices.iter().filter(|device| device.kind != Kind::Other).cloned().collect();
    devices.extend(unlisted(found));
    if let [only] = topology.nodes.as_slice() {
        // Firmware of machines with one node often says nothing.
        devices.iter_mut().for_each(|device| device.node = device.node.or(Some(only.id)));
    }
    devices.sort_by(|a, b| (a.kind, &a.address).cmp(&(b.kind, &b.address)));
    let mut taken = BTreeSet::new();
    let mut warned = BTreeSet::new();
    let is_chosen =
        |device: &Device| choice.device.as_ref().is_none_or(|regex| regex.is_match(&device.label()));
    if let Some(regex) = choice.device.as_ref().filter(|_| !devices.iter().any(is_chosen)) {
        let labels: Vec<String> = devices.iter().take(MOST_DEVICES).map(Device::label).collect();
        let more = if devices.len() > MOST_DEVICES { ", .." } else { "" };
        planner.done.warnings.push(match labels.is_empty() {
            true => format!("--device {regex}: this machine has no device that is planned"),
            false => format!("--device {regex} matches none of {}{more}", labels.join(", ")),
        });
    }
    for device in &devices {
        let Some(room) = room::room(topology, plan, reserved, device.node) else { continue };
        let chosen = is_chosen(device);
        let mut used = false;
        for irq in in_order(device, found) {
            // A pin may be shared; the first device has it.
            if !taken.insert(irq.number) {
                continue;
            }
            let cpu = planner.next_cpu(&room);
            if !chosen || !(choice.irqs.is_empty() || choice.irqs.contains(&irq.number)) {
                continue;
            }
            used = true;
            planner.place(device, irq, &room, cpu);
        }
        if chosen && choice.irqs.is_empty() {
            used |= planner.queues(device, &room, found);
        }
        if used && warned.insert(device.node) {
            planner.warn(device.node, &room);
        }
    }
    let mut done = planner.done;
    done.left = left(found, &taken);
    done.warnings.extend(found.warnings.iter().cloned());
    let unknown: Vec<String> = choice
        .irqs
        .iter()
        .filter(|irq| !done.places.iter().any(|place| place.irq == **irq))
        .map(u32::to_string)
        .collect();
    if !unknown.is_empty() {
        done.warnings.push(format!("IRQ {}: no device's that is planned; left alone", unknown.join(", ")));
    }
    done
}

/// Interrupts that are an NPU's by their name, and of no PCI device.
fn unlisted(found: &Inventory) -> Option<Device> {
    let listed: BTreeSet<u32> = found.devices.iter().flat_map(|device| device.irqs.iter().copied()).collect();
    let ours =
        |irq: &&Irq| !listed.contains(&irq.number) && OF_NPUS.iter().any(|name| irq.name.contains(name));
    let irqs: Vec<&Irq> = found.irqs.values().filter(ours).collect();
    let first = irqs.first()?;
    Some(Device {
        address: "by name".to_owned(),
        kind: Kind::Npu,
        // Of one node all, or it is not known.
        node: first.node.filter(|_| irqs.iter().all(|irq| irq.node == first.node)),
        names: Vec::new(),
        irqs: irqs.iter().map(|irq| irq.number).collect(),
    })
}

/// A device's interrupts that are in use and can be moved, the busiest kinds first.
fn in_order<'a>(device: &Device, found: &'a Inventory) -> Vec<&'a Irq> {
    let mut irqs: Vec<&Irq> = device.irqs.iter().filter_map(|number| found.irqs.get(number)).collect();
    irqs.retain(|irq| !irq.name.is_empty() && irq.affinity.is_some());
    let rank = |irq: &Irq| BUSY.iter().position(|name| irq.name.contains(name)).unwrap_or(BUSY.len());
    irqs.sort_by_key(|irq| (rank(irq) == BUSY.len(), irq.number));
    irqs
}

struct Planner<'a> {
    topology: &'a Topology,
    plan: &'a Plan,
    reserved: &'a CpuSet,
    /// How many interrupts the CPUs of a room have got.
    turns: BTreeMap<CpuSet, usize>,
    done: IrqPlan,
}

impl Planner<'_> {
    /// Each interrupt has one CPU, and the room's CPUs take turns, over all devices.
    fn next_cpu(&mut self, room: &Room) -> u32 {
        let turn = self.turns.entry(room.cpus.clone()).or_default();
        let cpu = room.order[*turn % room.order.len()];
        *turn += 1;
        cpu
    }

    fn place(&mut self, device: &Device, irq: &Irq, room: &Room, cpu: u32) {
        let unknown = if device.node.is_none() { "; its own node is not known" } else { "" };
        self.done.places.push(Place {
            irq: irq.number,
            name: irq.name.clone(),
            device: device.label(),
            node: device.node,
            now: irq.affinity.clone().unwrap_or_default(),
            effective: irq.effective.clone(),
            planned: [cpu].into_iter().collect(),
            why: format!("{room}{unknown}"),
            managed: irq.managed == Some(true),
        });
    }

    /// Whether the device has any.
    fn queues(&mut self, device: &Device, room: &Room, found: &Inventory) -> bool {
        let of = |side| {
            found.queues.iter().filter(move |queue| queue.address == device.address && queue.side == side)
        };
        let mut by_interface: BTreeMap<&str, [Vec<&Queue>; 2]> = BTreeMap::new();
        for (at, side) in [Side::Receive, Side::Send].into_iter().enumerate() {
            for queue in of(side) {
                by_interface.entry(&queue.interface).or_default()[at].push(queue);
            }
        }
        for [receive, send] in by_interface.values_mut() {
            receive.sort_by_key(|queue| queue.index);
            send.sort_by_key(|queue| queue.index);
            self.receive(device, room, receive);
            self.send(device, send);
        }
        !by_interface.is_empty()
    }

    /// Packets are handed on to other CPUs only where that spreads them over CPUs that nobody minds: a queue for each CPU spreads them already.
    fn receive(&mut self, device: &Device, room: &Room, queues: &[&Queue]) {
        let (planned, why) = match room.use_ {
            Use::Reserved | Use::Free if queues.len() < room.cpus.len() => {
                (room.cpus.clone(), format!("fewer queues than CPUs; {room}"))
            }
            Use::Reserved | Use::Free => (CpuSet::new(), "off: a queue for each CPU".to_owned()),
            Use::Groups | Use::Forward => {
                (CpuSet::new(), "off: packets stay on the CPU that the interrupt disturbs anyway".to_owned())
            }
        };
        for queue in queues {
            self.queue(device, queue, planned.clone(), why.clone());
        }
    }

    /// The node's CPUs share the queues evenly. CPUs of other nodes have none of their own, and take any.
    fn send(&mut self, device: &Device, queues: &[&Queue]) {
        let Some(node) = device.node.and_then(|node| self.topology.node(node)) else { return };
        let cpus: Vec<u32> = node.cpus.iter().collect();
        if cpus.is_empty() {
            return;
        }
        for (turn, queue) in queues.iter().enumerate() {
            let planned: CpuSet = if queues.len() <= cpus.len() {
                cpus.iter().copied().skip(turn).step_by(queues.len()).collect()
            } else {
                [cpus[turn % cpus.len()]].into_iter().collect()
            };
            self.queue(device, queue, planned, "its share of its node's CPUs".to_owned());
        }
    }

    fn queue(&mut self, device: &Device, queue: &Queue, planned: CpuSet, why: String) {
        let Some(now) = queue.cpus.clone() else { return };
        self.done.queues.push(QueuePlace {
            interface: queue.interface.clone(),
            file: queue.file(),
            node: device.node,
            now,
            planned,
            why,
        });
    }

    fn warn(&mut self, node: Option<u32>, room: &Room) {
        let devices = match node {
            Some(node) => format!("devices on node {node}"),
            None => format!(
                "devices whose node is not known go where background processes are (node {})",
                self.plan.others.node
            ),
        };
        let hint = "irq.cpus_per_socket sets CPUs aside";
        match room.use_ {
            Use::Reserved | Use::Free if node.is_some() => {}
            Use::Reserved | Use::Free => self.done.warnings.push(devices),
            Use::Groups => {
                self.done.warnings.push(format!(
                    "{devices}: their interrupts share CPUs {} with groups; {hint}",
                    room.cpus
                ));
            }
            Use::Forward => {
                let more = if self.reserved.is_empty() { hint } else { "there is no other CPU" };
                self.done.warnings.push(format!(
                    "{devices}: their interrupts share CPUs {} with forward threads; {more}",
                    room.cpus
                ));
            }
        }
    }
}

/// What is not planned, and why.
fn left(found: &Inventory, taken: &BTreeSet<u32>) -> Vec<Left> {
    let device_of = |number: u32| found.devices.iter().find(|device| device.irqs.contains(&number));
    let numbered = found.irqs.values().filter(|irq| !taken.contains(&irq.number));
    let numbered = numbered.filter(|irq| !irq.name.is_empty() || irq.count > 0).map(|irq| {
        let why = match device_of(irq.number) {
            _ if irq.affinity.is_none() => "its CPUs cannot be set",
            Some(device) if device.kind != Kind::Other => "nobody uses it now",
            Some(_) => "a device of a kind that no plan cares for",
            None => "no PCI device's",
        };
        Left { irq: irq.number.to_string(), name: irq.name.clone(), why }
    });
    let local = found.local.iter().map(|(label, name)| Left {
        irq: label.clone(),
        name: name.clone(),
        why: "each CPU's own",
    });
    numbered.chain(local).collect()
}

#[cfg(test)]
mod tests;
