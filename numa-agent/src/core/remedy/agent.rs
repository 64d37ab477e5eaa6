//! What the agent itself lacks: rights, kernel programs, a place to see from.

use super::{Finding, plan::Commands};
use crate::core::health::{Health, Verdict};

/// Rights are what is missing.
const AS_ROOT: &str = "sudo numa-agent doctor # as root; in a container --privileged, or CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE";

/// No `/sys`, or one that makes no sense.
#[must_use]
pub fn topology_unknown(error: &str) -> Finding {
    Finding::new("topology", error, "mount -t sysfs sysfs /sys")
}

/// What surrounds a plan cannot be read.
#[must_use]
pub fn preconditions_unknown(error: &str) -> Finding {
    Finding::new("host", error, "numa-agent check --section A # says so too; look at the file that it names")
}

/// The agent is in a container's pid namespace.
#[must_use]
pub fn pid_namespace() -> Finding {
    Finding::new(
        "pids",
        "we are in a pid namespace of our own: the pids that we see are not the kernel's",
        "# run the agent on the host, or with --pid=host (docker, podman) or hostPID: true (Kubernetes)",
    )
}

/// No program could be loaded at all.
#[must_use]
pub fn no_programs(error: &str) -> Finding {
    let fix = if error.contains("NUMA_AGENT_SKIP_EBPF") {
        "env -u NUMA_AGENT_SKIP_EBPF cargo xtask build --release"
    } else if error.contains("CONFIG_DEBUG_INFO_BTF") {
        "grep CONFIG_DEBUG_INFO_BTF /boot/config-$(uname -r) # boot a kernel that has it, 5.10 or later"
    } else {
        AS_ROOT
    };
    Finding::new("programs", error, fix)
}

/// Some program is not attached; `None` if all are. Those of a tap are not looked at.
#[must_use]
pub fn programs(health: &Health) -> Option<Finding> {
    let fix = match health.verdict() {
        Verdict::Full => return None,
        Verdict::Degraded => {
            "# boot a later kernel if what is missing matters: docs/architecture.md says what each program is for"
        }
        Verdict::Unusable if refused(health) => AS_ROOT,
        Verdict::Unusable => "# boot a kernel with BTF raw tracepoints, 5.10 or later",
    };
    let alone = Health { tap: Vec::new(), ..health.clone() };
    Some(Finding::new("programs", alone.summary(), fix))
}

fn refused(health: &Health) -> bool {
    let whys = health.failed().filter_map(|program| program.result.as_ref().err());
    whys.into_iter().any(|why| why.contains("run as root"))
}

/// The tap's programs are not all there; `None` if they are, or nobody asked for them.
#[must_use]
pub fn tap(health: &Health) -> Option<Finding> {
    let fix = match health.tap_verdict()? {
        Verdict::Full => return None,
        Verdict::Degraded => {
            "# nothing if you do not use `jitter record --tap`; it follows system calls here (docs/jitter.md: which sends it does not see)"
        }
        Verdict::Unusable => {
            "# nothing if you do not use `jitter record --tap`, which does not work here; else boot a kernel with the tracepoint sock:sock_send_length (6.3) or with CONFIG_FTRACE_SYSCALLS=y"
        }
    };
    Some(Finding::new("tap", health.tap_summary().unwrap_or_default(), fix))
}

/// Processes cannot be held at exec.
#[must_use]
pub fn hold(why: &str) -> Finding {
    Finding::new(
        "hold",
        why,
        "# nothing if you do not set `hold` or `memory.apply`, which do not work here; else run the agent as root, or with CAP_KILL and CAP_SYS_PTRACE",
    )
}

/// The event thread may not be `SCHED_FIFO`.
#[must_use]
pub fn real_time(found: &str) -> Finding {
    Finding::new(
        "real-time",
        found,
        "sudo numa-agent run --config FILE # as root or with CAP_SYS_NICE; in a v1 cpu cgroup also give its cpu.rt_runtime_us; without it binding lags on a busy machine",
    )
}

/// No agent runs.
#[must_use]
pub fn not_running(why: &str, commands: &Commands) -> Finding {
    Finding::new(
        "agent",
        format!("{why}; threads that are born later stay where the kernel puts them"),
        format!("systemctl start numa-agent # or {}", commands.with("run")),
    )
}

/// One that runs and binds nobody.
#[must_use]
pub fn only_looks(pid: u32, commands: &Commands) -> Finding {
    Finding::new(
        "agent",
        format!("the agent (pid {pid}) only looks: it binds nobody"),
        format!(
            "# end it (kill {pid}; or by its service), and once it is gone: {}, without --dry-run",
            commands.with("run")
        ),
    )
}

/// The most differences that are named.
const MOST_DIFFERENCES: usize = 5;

/// One that runs has another plan.
#[must_use]
pub fn other_plan(pid: u32, differs: &[String], commands: &Commands) -> Finding {
    let more = match differs.len().saturating_sub(MOST_DIFFERENCES) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let shown: Vec<&str> = differs.iter().take(MOST_DIFFERENCES).map(String::as_str).collect();
    Finding::new(
        "agent",
        format!(
            "the agent (pid {pid}) goes by another plan than the one that is checked: {}{more}",
            shown.join("; ")
        ),
        format!(
            "kill -HUP {pid} # has it read its configuration again; if that is another one, end it, and once it is gone: {}",
            commands.with("run")
        ),
    )
}

/// One that runs is not of this version.
#[must_use]
pub fn other_version(pid: u32, theirs: &str, ours: &str) -> Finding {
    Finding::new(
        "agent",
        format!("the agent (pid {pid}) is version {theirs}, and this is {ours}"),
        "systemctl restart numa-agent # so that it is the binary that is installed",
    )
}

/// One that runs lacks kernel programs.
#[must_use]
pub fn lacks_programs(programs: &str) -> Finding {
    Finding::new(
        "programs",
        format!("the agent's kernel programs: {programs}"),
        "sudo numa-agent doctor # says why, and what to do",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::health::ProgramResult;

    fn health(required: bool, result: Result<(), &str>) -> Health {
        let result = result.map_err(str::to_owned);
        let program = ProgramResult { name: "fork", required, result, verified: None };
        Health { programs: vec![program], ..Health::default() }
    }

    #[test]
    fn what_to_do_depends_on_what_is_missing() {
        assert_eq!(programs(&health(true, Ok(()))), None);
        let fix = |required, why| programs(&health(required, Err(why))).unwrap().fix;
        assert!(fix(true, "ENOENT").contains("5.10 or later"));
        assert!(fix(true, "EPERM; run as root, or with CAP_BPF").contains("sudo numa-agent"));
        assert!(fix(false, "ENOENT").contains("docs/architecture.md"));
        assert!(no_programs("Operation not permitted").fix.contains("sudo"));
        assert!(no_programs("no kernel with BTF (CONFIG_DEBUG_INFO_BTF=y)").fix.contains("boot a kernel"));
        assert!(no_programs("NUMA_AGENT_SKIP_EBPF=1 was set").fix.contains("xtask"));
    }
}
