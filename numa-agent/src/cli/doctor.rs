//! `numa-agent doctor`: what this kernel and host can do for the agent, each failing line with its fix.

use clap::Args;
use serde_json::{Value, json};

use super::{Format, Incomplete};
use crate::{
    core::{
        health::{Health, Verdict},
        idset::CpuSet,
        jitter::tap::Tap,
        task::TaskId,
        topology::Topology,
    },
    host::{
        bpf::{BpfError, LoadOptions, Programs, Sends, TapOptions},
        sys, sysfs,
    },
    report::{self, conditions::Finding, escape},
};

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// One line of the answer.
struct Check {
    name: &'static str,
    state: State,
    found: String,
}

enum State {
    /// As it should be.
    Good,
    /// The agent works, with less; what to do.
    Limited(String),
    /// `numa-agent run` cannot work; what to do.
    Missing(String),
}

/// Checks, prints, and fails if `numa-agent run` could not work here.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let mut checks = vec![kernel()];
    match sysfs::read_host() {
        Ok(topology) => {
            checks.extend([topology_check(&topology), allowed(&topology), isolated(&topology)]);
            checks.extend(memory(&topology));
        }
        Err(error) => checks.push(Check {
            name: "topology",
            state: State::Missing("mount sysfs at /sys".into()),
            found: error.to_string(),
        }),
    }
    let health = programs();
    checks.push(pid_namespace());
    checks.extend(program_checks(&health));
    checks.push(event_priority());
    super::print(&match args.format {
        Format::Text => checks.iter().map(Check::text).collect(),
        Format::Json => {
            let checks: Vec<Value> = checks.iter().map(Check::json).collect();
            let programs = health.as_ref().ok().map(Health::json);
            report::json::print(&json!({ "schema": 1, "checks": checks, "programs": programs }))
        }
    })?;
    let missing = checks.iter().filter(|check| matches!(check.state, State::Missing(_))).count();
    if missing > 0 {
        return Err(
            Incomplete(format!("`numa-agent run` cannot work here: {missing} of the above missing")).into()
        );
    }
    Ok(())
}

impl Check {
    fn text(&self) -> String {
        let (mark, fix) = match &self.state {
            State::Good => ("ok     ", None),
            State::Limited(fix) => ("limited", Some(fix)),
            State::Missing(fix) => ("MISSING", Some(fix)),
        };
        let fix = fix.map_or(String::new(), |fix| format!("{:10}fix: {}\n", "", escape::text(fix)));
        format!("{mark}  {:<11} {}\n{fix}", self.name, escape::text(&self.found))
    }

    fn json(&self) -> Value {
        let (state, fix) = match &self.state {
            State::Good => ("ok", None),
            State::Limited(fix) => ("limited", Some(fix)),
            State::Missing(fix) => ("missing", Some(fix)),
        };
        json!({ "name": self.name, "state": state, "found": self.found, "fix": fix })
    }
}

fn kernel() -> Check {
    let found = sys::uname()
        .map_or_else(|error| error.to_string(), |(host, release)| format!("Linux {release} on {host}"));
    Check { name: "kernel", state: State::Good, found }
}

fn topology_check(topology: &Topology) -> Check {
    let nodes = topology.nodes.len();
    let found = format!(
        "sockets: {}, NUMA nodes: {nodes}, CPUs online: {}",
        topology.sockets.len(),
        topology.cpus.len()
    );
    let state = match nodes {
        0 | 1 => State::Limited("a single node: CPUs can be divided, memory cannot be placed; look for NUMA or NPS settings in the firmware".into()),
        _ => State::Good,
    };
    Check { name: "topology", state, found }
}

fn allowed(topology: &Topology) -> Check {
    let missing = topology.online().difference(&topology.allowed);
    let (state, found) = if missing.is_empty() {
        (State::Good, "our cgroup allows all online CPUs".to_owned())
    } else {
        let fix = "run the agent in the root cgroup, or widen cpuset.cpus of its cgroup; it plans with what is allowed";
        (State::Limited(fix.into()), format!("our cgroup's cpuset leaves out CPUs {missing}"))
    };
    Check { name: "cpuset", state, found }
}

fn isolated(topology: &Topology) -> Check {
    let isolated: CpuSet = topology.isolated.intersection(&topology.allowed);
    let (state, found) = if isolated.is_empty() {
        (State::Good, "no isolated CPUs".to_owned())
    } else {
        let fix = "the scheduler does not spread threads over isolated CPUs; remove isolcpus= unless threads are pinned one by one";
        (State::Limited(fix.into()), format!("CPUs {isolated} are isolated"))
    };
    Check { name: "isolation", state, found }
}

/// What works against memory on any of the nodes that we may use; one line if nothing does.
fn memory(topology: &Topology) -> Vec<Check> {
    let conditions = match sysfs::conditions::read("/".as_ref()) {
        Ok(conditions) => conditions,
        Err(error) => {
            let state = State::Limited("what works against a memory plan is not known".into());
            return vec![Check { name: "memory", state, found: error.to_string() }];
        }
    };
    let concerns = conditions.concerns(&topology.memory_nodes());
    if concerns.is_empty() {
        return vec![Check {
            name: "memory",
            state: State::Good,
            found: report::conditions::summary(&conditions),
        }];
    }
    let check = |concern| {
        let Finding { name, found, fix } = report::conditions::finding(concern);
        Check { name, state: State::Limited(fix), found }
    };
    concerns.iter().map(check).collect()
}

fn pid_namespace() -> Check {
    let (state, found) = if sys::in_initial_pid_namespace() {
        (State::Good, "we see the host's pids")
    } else {
        let fix = "run the agent on the host, or with hostPID: true (--pid=host)";
        (State::Missing(fix.into()), "we are in a pid namespace of our own")
    };
    Check { name: "pids", state, found: found.into() }
}

/// Loads and attaches every program, for the moment, those of a tap on our own sends included; `Err`: why there are none.
fn programs() -> Result<Health, String> {
    let tap = Tap::Process(TaskId { tid: std::process::id(), start_time: 0 });
    let tap = Some(TapOptions { tap, sends: Sends::Every });
    match Programs::load(&LoadOptions { tap, hold: true, ..LoadOptions::default() }) {
        Ok(programs) => Ok(programs.health().clone()),
        Err(BpfError::Unusable(health)) => Ok(health),
        Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
    }
}

fn program_checks(health: &Result<Health, String>) -> Vec<Check> {
    let health = match health {
        Ok(health) => health,
        Err(error) => {
            let state = State::Missing("as the line above says".into());
            return vec![Check { name: "programs", state, found: error.clone() }];
        }
    };
    let state = match health.verdict() {
        Verdict::Full => State::Good,
        Verdict::Degraded => State::Limited("docs/architecture.md says what each program is for".into()),
        Verdict::Unusable => State::Missing("a kernel with BTF raw tracepoints, 5.10 or later".into()),
    };
    // The tap's failures have a line of their own.
    let alone = Health { tap: Vec::new(), ..health.clone() };
    let found = [Some(alone.summary()), alone.hardest()].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let mut checks = vec![Check { name: "programs", state, found }];
    if let (Some(verdict), Some(found)) = (health.tap_verdict(), health.tap_summary()) {
        let state = match verdict {
            Verdict::Full => State::Good,
            Verdict::Degraded => State::Limited("nothing if you do not use `jitter record --tap`; it follows system calls here (docs/jitter.md: which sends it does not see)".into()),
            Verdict::Unusable => State::Limited("nothing if you do not use `jitter record --tap`, which does not work here".into()),
        };
        checks.push(Check { name: "tap", state, found });
    }
    if let Some(hold) = &health.hold {
        let (state, found) = match hold {
            Ok(()) => (State::Good, "processes can be held at exec (`hold`)".to_owned()),
            Err(why) => {
                let fix = "nothing if you do not set `hold` or `memory.apply`, which do not work here";
                (State::Limited(fix.into()), why.clone())
            }
        };
        checks.push(Check { name: "hold", state, found });
    }
    checks
}

fn event_priority() -> Check {
    // On a thread of its own, which ends with its priority.
    let priority = std::thread::spawn(sys::prioritise_event_thread).join();
    match priority {
        Ok(sys::EventPriority::Fifo) => {
            Check { name: "real-time", state: State::Good, found: "the event thread may run as SCHED_FIFO 1".into() }
        }
        Ok(normal) => Check {
            name: "real-time",
            state: State::Limited("give CAP_SYS_NICE, and in a v1 cpu cgroup cpu.rt_runtime_us; without it binding lags on a busy machine".into()),
            found: normal.to_string(),
        },
        Err(_) => Check { name: "real-time", state: State::Limited("report this".into()), found: "the probe panicked".into() },
    }
}
