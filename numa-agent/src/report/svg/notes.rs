//! The words in the picture.

use super::roles::Roles;
use crate::{
    core::{
        idset::CpuSet,
        plan::Group,
        topology::{Socket, Topology},
    },
    report::{BindReport, escape, gib, many, shown},
};

/// Instances named per group; the rest is a number.
const NAMED_TENANTS: usize = 3;
/// Instance names are cut to this many characters, so that the numbers behind them show.
const NAME: usize = 48;

/// A line under a socket's nodes; not escaped.
pub(super) enum Note {
    /// Of a group on those CPUs.
    Group(CpuSet, String),
    /// Of the background processes.
    Others(String),
    /// Who sits in the group or place above.
    Tenant(String),
}

pub(super) fn socket(report: &BindReport, socket: &Socket) -> Vec<Note> {
    let mut notes = Vec::new();
    for group in report.plan.groups.iter().filter(|group| group.socket == socket.id) {
        notes.push(Note::Group(group.primary_cpus.clone(), about_group(group)));
        let tenants = report.tenants(group);
        let named = tenants.iter().take(NAMED_TENANTS).map(|(name, (processes, threads))| {
            let (processes, threads) = (many(*processes, "process", "es"), many(*threads, "thread", "s"));
            let name = escape::shortened(&escape::text(name), NAME);
            Note::Tenant(format!("{name}: {processes}, {threads}"))
        });
        notes.extend(named);
        if tenants.len() > NAMED_TENANTS {
            notes.push(Note::Tenant(format!("and {} more instances", tenants.len() - NAMED_TENANTS)));
        }
    }
    let others = &report.plan.others;
    if others.socket == socket.id {
        notes.push(Note::Others(format!("background processes: node {}, CPUs {}", others.node, others.cpus)));
        let names: Vec<String> =
            report.background().into_iter().map(|(name, count)| format!("{name} ({count})")).collect();
        if !names.is_empty() {
            notes.push(Note::Tenant(names.join(", ")));
        }
    }
    notes
}

fn about_group(group: &Group) -> String {
    let forward = if group.secondary_node == group.primary_node {
        "forward on the same".to_owned()
    } else {
        format!("forward {}", group.forward_cpus)
    };
    format!("g{}: CPUs {} · {forward} · memory {}", group.index, group.primary_cpus, shown(&group.mem_nodes))
}

/// What a pointer over the cell shows; not escaped.
pub(super) fn cpu(report: &BindReport, roles: &Roles, socket: u32, cpu: u32) -> String {
    let role = roles.of(cpu);
    let mut parts: Vec<String> =
        role.groups.iter().map(|index| format!("socket{socket}_group{index}")).collect();
    parts.extend(role.forward.then(|| "forward threads".to_owned()));
    parts.extend(role.other.then(|| "background processes".to_owned()));
    parts.extend((!role.allowed).then(|| "not allowed by our cgroup".to_owned()));
    parts.extend(report.topology.isolated.contains(cpu).then(|| "isolated".to_owned()));
    if parts.len() > 8 {
        let more = parts.split_off(8).len();
        parts.push(format!("{more} more"));
    }
    format!(
        "CPU {cpu}: {}",
        if parts.is_empty() { "not used by the plan".to_owned() } else { parts.join(", ") }
    )
}

pub(super) fn machine(topology: &Topology) -> Vec<String> {
    let memory_only = topology.nodes.iter().filter(|node| node.cpus.is_empty());
    let mut lines: Vec<String> =
        memory_only.map(|node| format!("node {} has no CPUs, {}", node.id, gib(node.memory_bytes))).collect();
    for (what, cpus) in [("offline", &topology.offline), ("isolated", &topology.isolated)] {
        if !cpus.is_empty() {
            lines.push(format!("{what} CPUs: {cpus}"));
        }
    }
    lines
}
