//! Where threads belong: the plan sets that the kernel side counts off-node runs against.

use std::{collections::BTreeMap, sync::Arc};

use numa_ebpf::place::{NO_PLAN, PlanSet};

use super::places::Places;
use crate::core::{idset::CpuSet, plan::Plan, task::ThreadRole};

/// Where a thread belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Its CPUs and their nodes.
    pub set: PlanSet,
    /// A plan says so, for CPUs; else it is a node that a process has turned out to live on.
    pub planned: bool,
}

/// All homes, by index of the kernel side's plan sets.
#[derive(Debug, Clone)]
pub struct Homes {
    /// From index 1 on.
    homes: Vec<Arc<Home>>,
    /// Index of the home of a group's members; its forward threads' is the next.
    groups: BTreeMap<String, u32>,
    planned: bool,
}

impl Homes {
    /// The homes that a plan gives: that of background processes, then two for each group.
    #[must_use]
    pub fn of_plan(plan: &Plan, places: &Places) -> Self {
        let home = |cpus: &CpuSet| Arc::new(Home { set: places.plan_set(cpus), planned: true });
        let mut homes = vec![home(&plan.others.cpus)];
        let mut groups = BTreeMap::new();
        // In the order of slots, which stays when the plan grows.
        for group in plan.slots() {
            groups.insert(group.name.clone(), homes.len() as u32 + 1);
            homes.extend([home(&group.primary_cpus), home(&group.forward_cpus)]);
        }
        Self { homes, groups, planned: true }
    }

    /// One for each node with CPUs.
    #[must_use]
    pub fn of_nodes(places: &Places) -> Self {
        let node = |index| Home { set: places.plan_set(&places.cpus_of(index)), planned: false };
        let homes = (0..places.node_count()).map(|index| Arc::new(node(index))).collect();
        Self { homes, groups: BTreeMap::new(), planned: false }
    }

    /// Whether a plan gives them.
    #[must_use]
    pub fn planned(&self) -> bool {
        self.planned
    }

    /// All, with their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Home)> {
        (NO_PLAN + 1..).zip(self.homes.iter().map(|home| &**home))
    }

    /// The home of that index; `None`: there is none, as for [`NO_PLAN`].
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&Arc<Home>> {
        self.homes.get(index.checked_sub(NO_PLAN + 1)? as usize)
    }

    /// Index of the home that the plan gives a thread of that role of that group, or of the background processes.
    #[must_use]
    pub fn of_thread(&self, group: Option<&str>, role: ThreadRole) -> u32 {
        let members = group.and_then(|group| self.groups.get(group)).copied();
        match (members, role) {
            _ if !self.planned => NO_PLAN,
            (Some(members), ThreadRole::Member) => members,
            (Some(members), ThreadRole::Forward) => members + 1,
            _ => NO_PLAN + 1,
        }
    }

    /// Index of the home that is the node with that dense index.
    #[must_use]
    pub fn of_node(&self, index: u32) -> u32 {
        if self.planned { NO_PLAN } else { NO_PLAN + 1 + index }
    }
}

/// The CPUs that are for critical threads: those of forward threads that nobody else has.
#[must_use]
pub fn critical_cpus(plan: &Plan) -> CpuSet {
    let forward = plan.groups.iter().fold(CpuSet::new(), |cpus, group| cpus.union(&group.forward_cpus));
    let others = |cpus: CpuSet, group: &crate::core::plan::Group| cpus.difference(&group.primary_cpus);
    plan.groups.iter().fold(forward.difference(&plan.others.cpus), others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        preset::Preset,
        settings::{LayoutSettings, PolicyChoice},
        synthetic::Machine,
    };

    #[test]
    fn every_role_of_every_group_has_a_home_of_its_own() {
        let topology = Preset::A3.topology();
        let plan = Plan::new(&topology, &LayoutSettings::default(), 0).unwrap();
        let places = Places::new(&topology);
        let homes = Homes::of_plan(&plan, &places);
        assert_eq!(homes.iter().count(), 1 + 2 * plan.groups.len());
        let cpus = |index| homes.get(index).unwrap().set;
        for group in &plan.groups {
            let home = |role| cpus(homes.of_thread(Some(&group.name), role));
            assert_eq!(home(ThreadRole::Member), places.plan_set(&group.primary_cpus), "{}", group.name);
            assert_eq!(home(ThreadRole::Forward), places.plan_set(&group.forward_cpus), "{}", group.name);
        }
        assert_eq!(cpus(homes.of_thread(None, ThreadRole::Other)), places.plan_set(&plan.others.cpus));
        assert!(homes.get(NO_PLAN).is_none());
    }

    #[test]
    fn a_plan_that_grows_keeps_the_homes_it_had() {
        let topology = Machine { sockets: 2, nodes_per_socket: 2, ..Machine::default() }.topology();
        let places = Places::new(&topology);
        let settings = LayoutSettings { policy: PolicyChoice::Generic, ..LayoutSettings::default() };
        let small = Plan::new(&topology, &settings, 2).unwrap();
        let large = Plan::new(&topology, &settings, 6).unwrap();
        assert!(large.groups.len() > small.groups.len());
        let (before, after) = (Homes::of_plan(&small, &places), Homes::of_plan(&large, &places));
        for group in &small.groups {
            let index = |homes: &Homes| homes.of_thread(Some(&group.name), ThreadRole::Forward);
            assert_eq!(index(&before), index(&after), "{}", group.name);
        }
    }

    #[test]
    fn without_a_plan_nodes_are_homes() {
        let places =
            Places::new(&Machine { sockets: 2, node_ids: vec![3, 9], ..Machine::default() }.topology());
        let homes = Homes::of_nodes(&places);
        assert_eq!(homes.of_thread(Some("socket0_group0"), ThreadRole::Member), NO_PLAN);
        assert_eq!(places.nodes_of(&homes.get(homes.of_node(1)).unwrap().set), [9]);
    }

    #[test]
    fn cpus_that_members_use_too_are_not_critical() {
        let topology = Preset::A3.topology();
        let plan = Plan::new(&topology, &LayoutSettings::default(), 0).unwrap();
        assert_eq!(critical_cpus(&plan), "40-79,120-159,200-239,280-319".parse().unwrap());
        let one_node = Machine::default().topology();
        let plan = Plan::new(&one_node, &LayoutSettings::default(), 1).unwrap();
        assert!(critical_cpus(&plan).is_empty(), "{plan:?}");
    }
}
