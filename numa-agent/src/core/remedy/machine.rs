//! What of the machine does not go with a plan: its shape, its CPUs, their clocks, who may use them.

use super::Finding;
use crate::core::{
    idset::{CpuSet, NodeSet},
    units::bytes,
};

/// Memory cannot be placed.
#[must_use]
pub fn single_node(found: &str) -> Finding {
    Finding::new(
        "topology",
        format!("{found}: CPUs can be divided, memory cannot be placed"),
        "cat /proc/cmdline # remove numa=off, if it is there; else look for NUMA, NPS, SNC or die interleaving in the firmware",
    )
}

/// Another shape than the one expected.
#[must_use]
pub fn other_shape(found: &str, expected: &str) -> Finding {
    Finding::new(
        "topology",
        format!("found {found}, expected {expected}"),
        "numa-agent topology # shows what there is; look for die or channel interleaving in the firmware and for numa=off in /proc/cmdline, or say what you expect by --expect",
    )
}

/// CPUs that are there and switched off.
#[must_use]
pub fn offline(cpus: &CpuSet) -> Finding {
    Finding::new(
        "cpus",
        format!("CPUs {cpus} are offline: their share of the plan goes to others"),
        format!("for cpu in {}; do echo 1 > /sys/devices/system/cpu/cpu$cpu/online; done", words(cpus)),
    )
}

/// The same with SMT off, where more or fewer are offline than second threads can be.
#[must_use]
pub fn offline_beside_smt(cpus: &CpuSet, control: &str, cores: usize) -> Finding {
    let Finding { fix, .. } = offline(cpus);
    Finding::new(
        "cpus",
        format!(
            "CPUs {cpus} are offline: SMT is {control}, but that would be {cores}, one for each core, and it is {}",
            cpus.len()
        ),
        format!("{fix} # second threads are refused (EPERM) while SMT is off"),
    )
}

/// A set for a shell's `for`: every number, or what makes them.
fn words(cpus: &CpuSet) -> String {
    let word = |(first, last): (u32, u32)| match last - first {
        0 => first.to_string(),
        _ => format!("$(seq {first} {last})"),
    };
    cpus.ranges().into_iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Planned nodes that can hold no memory for us.
#[must_use]
pub fn without_memory(nodes: &NodeSet) -> Finding {
    Finding::new(
        "memory",
        format!(
            "nodes {nodes} have no memory that we may use: what runs there has all of its memory elsewhere"
        ),
        "dmidecode -t memory # shows empty DIMM slots; look also for cpuset.mems of our own cgroup",
    )
}

/// Planned nodes of unlike size.
#[must_use]
pub fn unlike_memory(sizes: &[(u32, u64)]) -> Finding {
    let sizes: Vec<String> =
        sizes.iter().map(|(node, size)| format!("node {node}: {}", bytes(*size))).collect();
    Finding::new(
        "memory",
        format!("nodes are not alike: {}; interleaving fills the smallest first", sizes.join(", ")),
        "dmidecode -t memory # shows whether all channels are filled alike; memory may also be reserved: huge pages, crashkernel=, CMA",
    )
}

/// Our own cgroup leaves out some CPUs.
#[must_use]
pub fn own_cpus(missing: &CpuSet) -> Finding {
    Finding::new(
        "cpuset",
        format!("our cgroup's cpuset leaves out CPUs {missing}; a plan has only what is allowed"),
        "echo $$ > /sys/fs/cgroup/cgroup.procs # and start it from this shell; or widen cpuset.cpus of its cgroup",
    )
}

/// Our own cgroup leaves out some nodes' memory.
#[must_use]
pub fn own_nodes(missing: &NodeSet) -> Finding {
    Finding::new(
        "cpuset",
        format!("our cgroup's cpuset leaves out memory of nodes {missing}; a plan has only what is allowed"),
        "echo $$ > /sys/fs/cgroup/cgroup.procs # and start it from this shell; or widen cpuset.mems of its cgroup",
    )
}

/// Isolated CPUs: threads there stay where they are.
#[must_use]
pub fn isolated(cpus: &CpuSet) -> Finding {
    Finding::new(
        "isolation",
        format!(
            "CPUs {cpus} are isolated: the scheduler does not spread threads over them, so several may share one while others idle"
        ),
        "grubby --update-kernel=ALL --remove-args=isolcpus # or /etc/default/grub and update-grub; then restart; not if threads are pinned one by one",
    )
}

/// CPUs without a tick.
#[must_use]
pub fn nohz_full(cpus: &CpuSet) -> Finding {
    Finding::new(
        "isolation",
        format!(
            "CPUs {cpus} run without a tick (nohz_full): with more than one thread each, entering and leaving that mode only costs"
        ),
        "grubby --update-kernel=ALL --remove-args=nohz_full # or /etc/default/grub and update-grub; then restart; not if each of these CPUs has one thread",
    )
}

/// Hardware threads share cores.
#[must_use]
pub fn smt() -> Finding {
    Finding::new(
        "smt",
        "SMT is on: two hardware threads share a core, and slow each other down by turns",
        "echo off > /sys/devices/system/cpu/smt/control # or nosmt on the kernel's command line; measure before and after: numa-agent jitter",
    )
}

/// CPUs that change their clock as they see fit.
#[must_use]
pub fn governor(name: &str, cpus: &CpuSet) -> Finding {
    Finding::new(
        "frequency",
        format!("cpufreq governor {name} on CPUs {cpus}: threads that wake up begin slowly"),
        "for file in /sys/devices/system/cpu/cpufreq/policy*/scaling_governor; do echo performance > $file; done # or cpupower frequency-set -g performance",
    )
}

/// A clock that takes long to read.
#[must_use]
pub fn clock(current: &str, better: &str) -> Finding {
    Finding::new(
        "clock",
        format!(
            "the clock source is {current}, though {better} is there: reading the time is a slow system call"
        ),
        format!(
            "echo {better} > /sys/devices/system/clocksource/clocksource0/current_clocksource # dmesg | grep -i clocksource says why it was given up"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_every_cpu() {
        let finding = offline(&"3,40-79,81-82".parse().unwrap());
        assert!(
            finding.fix.starts_with("for cpu in 3 $(seq 40 79) $(seq 81 82); do echo 1 >"),
            "{}",
            finding.fix
        );
    }
}
