//! Who else decides where threads, memory and interrupts go: daemons, service managers, launchers, the programs themselves.

use super::{Finding, shell_word};
use crate::core::{
    idset::{CpuSet, NodeSet},
    units::bytes,
};

/// It moves interrupts, also to the CPUs of forward threads.
#[must_use]
pub fn irqbalance(pid: u32, open: &CpuSet) -> Finding {
    Finding::new(
        "irqbalance",
        format!(
            "irqbalance runs (pid {pid}) and may put interrupts on CPUs {open}, which are forward threads'"
        ),
        format!(
            "systemctl disable --now irqbalance # or IRQBALANCE_BANNED_CPULIST={open} in /etc/default/irqbalance (/etc/sysconfig/irqbalance) and systemctl restart irqbalance"
        ),
    )
}

/// It moves whole processes to nodes of its own choice.
#[must_use]
pub fn numad(pid: u32) -> Finding {
    Finding::new(
        "numad",
        format!("numad runs (pid {pid}) and puts processes on nodes of its own choice"),
        "systemctl disable --now numad",
    )
}

/// It gives masks to processes.
#[must_use]
pub fn tuned(pid: u32, profile: &str, setting: &str) -> Finding {
    Finding::new(
        "tuned",
        format!(
            "TuneD runs (pid {pid}) with profile {profile}, whose [scheduler] sets masks of its own ({setting})"
        ),
        "tuned-adm profile throughput-performance # or another without isolated_cores and group.* in its [scheduler]",
    )
}

/// Nobody knows what its profile does.
#[must_use]
pub fn tuned_unknown(pid: u32, why: &str) -> Finding {
    Finding::new(
        "tuned",
        format!("TuneD runs (pid {pid}), and what its profile does is not known: {why}"),
        "tuned-adm active # look for [scheduler] in that profile's tuned.conf, or systemctl disable --now tuned",
    )
}

/// A process whose own settings bind its threads.
#[must_use]
pub fn binds_itself(process: &str, setting: &str) -> Finding {
    // A variable's name, and nothing else that somebody may have put there.
    let name = setting.split_once('=').map(|(name, _)| name);
    let name = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    let fix = match name {
        _ if setting.contains("enable_cpu_binding") => {
            r#"COMMAND --additional-config '{"enable_cpu_binding": false}' # start it so"#.to_owned()
        }
        Some("CPU_AFFINITY_CONF") => "CPU_AFFINITY_CONF=mode:0 COMMAND # start it so".to_owned(),
        Some("VLLM_CPU_OMP_THREADS_BIND") => "VLLM_CPU_OMP_THREADS_BIND=all COMMAND # start it so".to_owned(),
        Some(name) => format!("env -u {name} COMMAND # start it without {name}"),
        None => format!("# start it without {}", shell_word(setting).replace(['\n', '\r'], " ")),
    };
    Finding::new("app", format!("{process} binds its threads itself: {setting}"), fix)
}

/// A process that something started on CPUs or nodes of its choice.
#[must_use]
pub fn launcher(process: &str, ancestor: &str) -> Finding {
    Finding::new(
        "launcher",
        format!(
            "{process} was started by {ancestor}: its first threads and their memory are where that said"
        ),
        "numa-agent exec --config FILE --group GROUP -- COMMAND # without taskset and numactl",
    )
}

/// A unit that says where its processes run.
#[must_use]
pub fn unit(process: &str, path: &str, line: &str) -> Finding {
    // A drop-in is in a folder named after its unit.
    let mut names = path.rsplit('/');
    let file = names.next().unwrap_or(path);
    let unit = names.next().and_then(|folder| folder.strip_suffix(".d")).unwrap_or(file);
    let unit = shell_word(unit);
    Finding::new(
        "unit",
        format!("{process}: {path} has {line}, which its processes begin with"),
        format!("systemctl daemon-reload && systemctl restart {unit} # after removing {line} from {path}"),
    )
}

/// A cgroup that leaves out CPUs that the plan has for its processes.
#[must_use]
pub fn cut_cpus(process: &str, cgroup: &str, missing: &CpuSet, has: &CpuSet) -> Finding {
    Finding::new(
        "cpuset",
        format!("{process}: {cgroup} allows CPUs {has}, and leaves out {missing} of the planned ones"),
        format!(
            "echo {} > {} # whoever made it may set it again: docker update --cpuset-cpus, the kubelet's CPU manager, systemctl set-property UNIT AllowedCPUs=",
            has.union(missing),
            shell_word(&format!("{cgroup}/cpuset.cpus"))
        ),
    )
}

/// A cgroup that leaves out memory nodes that the plan has for its processes.
#[must_use]
pub fn cut_nodes(process: &str, cgroup: &str, missing: &NodeSet, has: &NodeSet) -> Finding {
    Finding::new(
        "cpuset",
        format!(
            "{process}: {cgroup} allows memory of nodes {has}, and leaves out {missing} of the planned ones"
        ),
        format!(
            "echo {} > {} # whoever made it may set it again: docker update --cpuset-mems, the kubelet's memory manager, systemctl set-property UNIT AllowedMemoryNodes=",
            has.union(missing),
            shell_word(&format!("{cgroup}/cpuset.mems"))
        ),
    )
}

/// A process with memory on disk.
#[must_use]
pub fn swapped(process: &str, amount: u64) -> Finding {
    Finding::new(
        "swap",
        format!("{process} has {} in swap: a thread that touches it waits for the disk", bytes(amount)),
        "swapoff -a # brings it back, and needs as much free memory; memory.swap.max=0 for its cgroup keeps it so",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_named_is_no_command() {
        let cpus = |text: &str| text.parse::<CpuSet>().unwrap();
        for finding in [
            cut_cpus("x (1)", "/sys/fs/cgroup/x;$(id)", &cpus("1"), &cpus("0")),
            cut_nodes("x (1)", "/sys/fs/cgroup/x;$(id)", &cpus("1"), &cpus("0")),
        ] {
            assert!(finding.fix.starts_with("echo 0-1 > '/sys/fs/cgroup/x;$(id)/cpuset."), "{}", finding.fix);
        }
        let fix = |setting| binds_itself("pid 7 (worker)", setting).fix;
        assert_eq!(
            fix(r#"$(reboot)={"enable_cpu_binding":true}"#),
            r#"COMMAND --additional-config '{"enable_cpu_binding": false}' # start it so"#
        );
        assert_eq!(fix("$(reboot)=1\nreboot"), "# start it without '$(reboot)=1 reboot'");
    }

    #[test]
    fn a_drop_in_is_its_units() {
        let fix = |path: &str| unit("x (1)", path, "CPUAffinity=0").fix;
        assert!(fix("/etc/systemd/system/serve.service.d/numa.conf").contains("restart serve.service #"));
        assert!(fix("/lib/systemd/system/serve.service").contains("restart serve.service #"));
    }

    #[test]
    fn each_way_of_binding_has_its_own_end() {
        let fix = |setting| binds_itself("pid 7 (worker)", setting).fix;
        assert_eq!(
            fix("OMP_PROC_BIND=close"),
            "env -u OMP_PROC_BIND COMMAND # start it without OMP_PROC_BIND"
        );
        assert_eq!(fix("CPU_AFFINITY_CONF=mode:1"), "CPU_AFFINITY_CONF=mode:0 COMMAND # start it so");
        assert_eq!(fix("--numa-bind"), "# start it without --numa-bind");
        assert!(fix(r#"{"enable_cpu_binding":true}"#).contains("false"));
    }
}
