//! What each CPU is to the plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    core::idset::{CpuSet, IdSet},
    report::BindReport,
};

/// One CPU's part in the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CpuRole {
    /// Indexes, within the socket, of the groups whose processes run here.
    pub groups: IdSet,
    /// Whether forward threads of groups that run elsewhere run here.
    pub forward: bool,
    /// Whether background processes run here.
    pub other: bool,
    /// Whether our cgroup lets us use it.
    pub allowed: bool,
}

impl CpuRole {
    pub fn of_group(index: u32) -> Self {
        Self { groups: [index].into_iter().collect(), ..Self::default() }
    }

    /// Whether the plan puts nobody here.
    pub fn is_free(&self) -> bool {
        self.groups.is_empty() && !self.forward && !self.other
    }

    /// The mark in the cell, for those who do not see the colours: `g0`, `g0-3 o`, `f`.
    pub fn mark(&self) -> String {
        let groups = (!self.groups.is_empty()).then(|| format!("g{}", self.groups));
        let forward = self.forward.then(|| "f".to_owned());
        let other = self.other.then(|| "o".to_owned());
        let marks: Vec<String> = [groups, forward, other].into_iter().flatten().collect();
        match (marks.is_empty(), self.allowed) {
            (false, _) => marks.join(" "),
            (true, true) => "free".to_owned(),
            (true, false) => "×".to_owned(),
        }
    }
}

/// The role of every online CPU.
pub(super) struct Roles {
    by_cpu: BTreeMap<u32, CpuRole>,
}

impl Roles {
    pub fn new(report: &BindReport) -> Self {
        let allowed = |id| report.topology.allowed.contains(id);
        let role = |id| CpuRole { allowed: allowed(id), ..CpuRole::default() };
        let mut by_cpu: BTreeMap<u32, CpuRole> =
            report.topology.cpus.iter().map(|cpu| (cpu.id, role(cpu.id))).collect();
        let mut mark = |cpus: &CpuSet, change: &dyn Fn(&mut CpuRole)| {
            for id in cpus.iter() {
                by_cpu.entry(id).and_modify(change);
            }
        };
        for group in &report.plan.groups {
            mark(&group.primary_cpus, &|role| role.groups.insert(group.index));
            if group.secondary_node != group.primary_node {
                mark(&group.forward_cpus, &|role| role.forward = true);
            }
        }
        mark(&report.plan.others.cpus, &|role| role.other = true);
        Self { by_cpu }
    }

    pub fn of(&self, cpu: u32) -> CpuRole {
        self.by_cpu.get(&cpu).cloned().unwrap_or_default()
    }

    /// What the key to a group on `cpus` shows: the group's colour, or that several share them.
    pub fn shared_by(&self, cpus: &CpuSet) -> CpuRole {
        let groups = cpus.first().map(|cpu| self.of(cpu).groups).unwrap_or_default();
        CpuRole { groups, ..CpuRole::default() }
    }

    pub fn any(&self, is: impl Fn(&CpuRole) -> bool) -> bool {
        self.by_cpu.values().any(is)
    }

    /// The group indexes in use, ascending.
    pub fn groups(&self) -> BTreeSet<u32> {
        self.by_cpu.values().flat_map(|role| role.groups.iter().collect::<Vec<_>>()).collect()
    }
}
