//! CPUs that the plan leaves to interrupts: in no group, for no forward thread, for no background process.

use crate::core::{idset::CpuSet, topology::Topology};

/// What the configuration's `irq` sets aside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserve {
    /// These CPUs, as far as they are online.
    pub cpus: CpuSet,
    /// So many on each socket: the last ones of its first node, by whole cores.
    pub per_socket: u32,
}

impl Reserve {
    /// The CPUs that are set aside on this machine. A socket's first node keeps at least one core for others.
    #[must_use]
    pub fn on(&self, topology: &Topology) -> CpuSet {
        let mut reserved = self.cpus.intersection(&topology.online());
        for socket in topology.sockets.iter().filter(|_| self.per_socket > 0) {
            let Some(node) = socket.nodes.iter().find(|node| !node.cpus.is_empty()) else { continue };
            let mut left = self.per_socket as usize;
            for core in topology.cores_of(&node.cpus).iter().skip(1).rev() {
                if left == 0 {
                    break;
                }
                reserved = reserved.union(core);
                left = left.saturating_sub(core.len());
            }
        }
        reserved
    }

    /// What of it there is not on this machine, in words for the user.
    #[must_use]
    pub fn warning(&self, topology: &Topology) -> Option<String> {
        let absent = self.cpus.difference(&topology.online());
        let told = || format!("irq.cpus: CPUs {absent} are not online here, so no interrupt gets them");
        (!absent.is_empty()).then(told)
    }

    /// Whether nothing is set aside anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        plan::{Plan, PlanError},
        preset::Preset,
        settings::LayoutSettings,
    };

    fn plan(topology: &Topology, reserve: Reserve) -> Result<Plan, PlanError> {
        Plan::new(topology, &LayoutSettings { reserve, ..LayoutSettings::default() }, 0)
    }

    #[test]
    fn so_many_a_socket_are_its_first_nodes_last() {
        let topology = Preset::A3.topology();
        let reserve = Reserve { per_socket: 2, ..Reserve::default() };
        assert_eq!(reserve.on(&topology).to_string(), "38-39,118-119,198-199,278-279");
        let plan = plan(&topology, reserve).unwrap();
        let groups: Vec<String> =
            plan.groups[..4].iter().map(|group| group.primary_cpus.to_string()).collect();
        assert_eq!(groups, ["0-11", "12-23", "24-31", "32-37"]);
        assert_eq!(plan.groups[0].forward_cpus.to_string(), "40-79");
        assert_eq!(plan.others.cpus.to_string(), "160-197", "background processes keep off too");
    }

    #[test]
    fn whole_cores_are_set_aside_and_one_is_kept() {
        let machine = crate::core::synthetic::Machine {
            threads_per_core: 2,
            cores_per_node: 3,
            ..Preset::A2.machine()
        };
        let topology = machine.topology();
        let one = Reserve { per_socket: 1, ..Reserve::default() }.on(&topology);
        assert_eq!(topology.cores_of(&one).len(), topology.sockets.len());
        assert_eq!(one.len(), 2 * topology.sockets.len());
        let all = Reserve { per_socket: 1000, ..Reserve::default() }.on(&topology);
        for socket in &topology.sockets {
            assert_eq!(socket.nodes[0].cpus.difference(&all).len(), 2);
        }
    }

    #[test]
    fn cpus_that_are_not_there_are_told() {
        let topology = Preset::A2.topology();
        let reserve = |cpus: &str| Reserve { cpus: cpus.parse().unwrap(), per_socket: 0 };
        assert_eq!(reserve("0-1").warning(&topology), None);
        let told = "irq.cpus: CPUs 192-193 are not online here, so no interrupt gets them";
        assert_eq!(reserve("190-193").warning(&topology).as_deref(), Some(told));
        assert_eq!(plan(&topology, reserve("190-193")).unwrap().warnings, [told]);
    }

    #[test]
    fn no_cpu_left_is_an_error_that_says_why() {
        let topology = Preset::A2.topology();
        let reserve = Reserve { cpus: topology.online(), per_socket: 0 };
        let error = plan(&topology, reserve).unwrap_err().to_string();
        assert!(error.contains("irq.cpus"), "{error}");
    }
}
