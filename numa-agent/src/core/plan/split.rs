//! Dividing a node's CPUs between groups without cutting a unit.

use crate::core::{idset::CpuSet, settings::Align, topology::Topology};

/// A set of CPUs as units of each size, by lowest CPU.
pub(super) struct Units {
    cpus: Vec<CpuSet>,
    cores: Vec<CpuSet>,
    clusters: Vec<CpuSet>,
}

impl Units {
    pub fn new(topology: &Topology, cpus: &CpuSet) -> Self {
        Self {
            cpus: cpus.iter().map(|cpu| CpuSet::from_iter([cpu])).collect(),
            cores: topology.cores_of(cpus),
            clusters: topology.clusters_of(cpus),
        }
    }

    fn of(&self, align: Align) -> &[CpuSet] {
        match align {
            Align::None => &self.cpus,
            Align::Core => &self.cores,
            Align::Cluster => &self.clusters,
        }
    }

    /// How many groups can have a unit each; of the smallest unit, where the alignment is left to us.
    pub fn count(&self, align: Option<Align>) -> u32 {
        self.of(align.unwrap_or(Align::None)).len() as u32
    }

    /// The largest unit of which there is at least one per group.
    pub fn default_align(&self, groups: u32) -> Align {
        let fits = |align: &Align| self.count(Some(*align)) >= groups;
        [Align::Cluster, Align::Core].into_iter().find(fits).unwrap_or(Align::None)
    }

    /// Divides the units in order into `parts` sets whose sizes differ by at most one unit, larger first.
    pub fn split(&self, align: Align, parts: u32) -> Vec<CpuSet> {
        let units = self.of(align);
        let (each, larger) = (units.len() / parts as usize, units.len() % parts as usize);
        let mut rest = units;
        (0..parts as usize)
            .map(|part| {
                let (taken, left) = rest.split_at(each + usize::from(part < larger));
                rest = left;
                taken.iter().flat_map(CpuSet::iter).collect()
            })
            .collect()
    }
}
