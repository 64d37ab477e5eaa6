//! What works against a memory plan on this machine: the kernel's own memory management, and nodes without room. Facts in,
//! concerns out; `core::remedy` has the words.

use crate::core::idset::NodeSet;

/// A node with less of its memory free is short: what is planned for it comes from other nodes. The page cache does not help: the
/// kernel takes a free page elsewhere before it takes back one of a file here (`get_page_from_freelist` in `mm/page_alloc.c`).
pub const LEAST_FREE: f64 = 0.05;

/// Percent of the last minute in which some task waited for memory, that are one too many (`Documentation/accounting/psi.rst`).
pub const MOST_STALLED: f64 = 1.0;

/// What the kernel's files say. `None` where it has no such file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conditions {
    /// `kernel.numa_balancing`: bit 0 moves tasks and their pages together, bit 1 moves pages between tiers (since 5.18).
    pub balancing: Option<u32>,
    /// `vm.zone_reclaim_mode`: not 0 takes pages back on a full node before it looks at another.
    pub zone_reclaim: Option<u32>,
    /// The chosen word of `transparent_hugepage/enabled`: `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// That of `transparent_hugepage/defrag`.
    pub defrag: Option<String>,
    /// The online nodes that have memory, by ascending id.
    pub nodes: Vec<NodeRoom>,
    /// `some avg60` of `/proc/pressure/memory`, in percent.
    pub stalled: Option<f64>,
}

/// How full a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRoom {
    /// Node id.
    pub id: u32,
    /// All its memory, in bytes.
    pub total_bytes: u64,
    /// Free, in bytes.
    pub free_bytes: u64,
    /// Pages of files, which could be taken back, in bytes.
    pub file_bytes: u64,
}

impl NodeRoom {
    /// The share that is free.
    #[must_use]
    pub fn free_share(&self) -> f64 {
        self.free_bytes as f64 / self.total_bytes.max(1) as f64
    }
}

/// One thing that works against the plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Concern {
    /// NUMA balancing is on, with this value.
    Balancing(u32),
    /// Zone reclaim is on, with this value.
    ZoneReclaim(u32),
    /// Huge pages are given to everybody.
    HugePagesAlways,
    /// Whoever touches memory first waits until a huge page has been made.
    DefragAlways,
    /// Planned nodes without room, by ascending id.
    Short(Vec<NodeRoom>),
    /// Tasks wait for memory, percent of the last minute.
    Stalled(f64),
}

impl Conditions {
    /// What works against a plan with memory on `nodes`. What is about nodes is none on a machine with memory on one alone.
    #[must_use]
    pub fn concerns(&self, nodes: &NodeSet) -> Vec<Concern> {
        let several = self.nodes.len() > 1;
        let is = |word: &Option<String>, wanted: &str| word.as_deref() == Some(wanted);
        let on = |value: Option<u32>| value.filter(|value| *value != 0 && several);
        let mut concerns = Vec::new();
        concerns.extend(on(self.balancing).map(Concern::Balancing));
        concerns.extend(on(self.zone_reclaim).map(Concern::ZoneReclaim));
        if several && is(&self.huge_pages, "always") {
            concerns.push(Concern::HugePagesAlways);
        }
        if is(&self.defrag, "always") && !is(&self.huge_pages, "never") {
            concerns.push(Concern::DefragAlways);
        }
        let short =
            self.nodes.iter().filter(|node| nodes.contains(node.id) && node.free_share() < LEAST_FREE);
        let short: Vec<NodeRoom> = short.cloned().collect();
        if several && !short.is_empty() {
            concerns.push(Concern::Short(short));
        }
        concerns.extend(self.stalled.filter(|percent| *percent >= MOST_STALLED).map(Concern::Stalled));
        concerns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, free_mib: u64) -> NodeRoom {
        NodeRoom { id, total_bytes: 1000 << 20, free_bytes: free_mib << 20, file_bytes: 0 }
    }

    fn quiet(nodes: &[NodeRoom]) -> Conditions {
        Conditions {
            balancing: Some(0),
            zone_reclaim: Some(0),
            huge_pages: Some("madvise".into()),
            defrag: Some("madvise".into()),
            nodes: nodes.to_vec(),
            stalled: Some(0.99),
        }
    }

    #[test]
    fn a_quiet_machine_and_an_old_kernel_are_no_concern() {
        let all: NodeSet = [0, 1].into_iter().collect();
        assert_eq!(quiet(&[node(0, 50), node(1, 900)]).concerns(&all), []);
        assert_eq!(Conditions::default().concerns(&all), []);
    }

    #[test]
    fn each_setting_is_a_concern_of_its_own() {
        let all: NodeSet = [0, 1].into_iter().collect();
        let nodes = [node(0, 500), node(1, 500)];
        let with = |change: fn(&mut Conditions)| {
            let mut conditions = quiet(&nodes);
            change(&mut conditions);
            conditions.concerns(&all)
        };
        assert_eq!(with(|c| c.balancing = Some(2)), [Concern::Balancing(2)]);
        assert_eq!(with(|c| c.zone_reclaim = Some(1)), [Concern::ZoneReclaim(1)]);
        assert_eq!(with(|c| c.huge_pages = Some("always".into())), [Concern::HugePagesAlways]);
        assert_eq!(with(|c| c.defrag = Some("always".into())), [Concern::DefragAlways]);
        assert_eq!(with(|c| c.stalled = Some(1.0)), [Concern::Stalled(1.0)]);
        let off = with(|c| (c.huge_pages, c.defrag) = (Some("never".into()), Some("always".into())));
        assert_eq!(off, [], "nobody waits for huge pages that nobody gets");
    }

    #[test]
    fn only_planned_nodes_are_short() {
        let conditions = quiet(&[node(0, 49), node(1, 900), node(3, 10)]);
        let on = |ids: &[u32]| conditions.concerns(&ids.iter().copied().collect());
        assert_eq!(on(&[0, 1]), [Concern::Short(vec![node(0, 49)])]);
        assert_eq!(on(&[0, 3]), [Concern::Short(vec![node(0, 49), node(3, 10)])]);
        assert_eq!(on(&[1]), []);
    }

    #[test]
    fn a_single_node_has_nobody_to_fight_over() {
        let mut conditions = quiet(&[node(0, 10)]);
        (conditions.balancing, conditions.zone_reclaim) = (Some(1), Some(1));
        conditions.huge_pages = Some("always".into());
        assert_eq!(conditions.concerns(&[0].into_iter().collect()), []);
    }
}
