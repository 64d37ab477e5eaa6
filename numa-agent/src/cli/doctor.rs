//! `numa-agent doctor`: what this kernel and host can do for the agent and for a plan, each failing line with its fix. What `check` asks of the
//! machine is judged there (`core::check::preconditions`), and shown here by the same ids.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{
    Format, Incomplete,
    check::look::{About, Found},
    machine::MachineArgs,
    plan_args::PlanArgs,
};
use crate::{
    core::{
        check,
        health::{Health, Verdict},
        idset::CpuSet,
        jitter::tap::Tap,
        remedy::{self, Finding},
        task::TaskId,
        topology::Topology,
        view,
    },
    host::{
        bpf::{BpfError, LoadOptions, Programs, Sends, TapOptions},
        sys, sysfs,
    },
    report::{self, escape},
};

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = view::SOCKET)]
    socket: PathBuf,
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

/// The items of `check`'s section A that have lines of their own here: topology, isolation, cpuset, memory, programs.
const SHOWN: [&str; 7] = ["A1", "A5", "A6", "A8", "A9", "A10", "A19"];

/// Those that go by which CPUs a plan has given to whom.
const OF_A_PLAN: [&str; 3] = ["A12", "A16", "A17"];

/// Checks, prints, and fails if `numa-agent run` could not work here.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    // A configuration that makes no sense is no line.
    args.plan.settings(None)?;
    let mut checks = vec![kernel()];
    match sysfs::read_host() {
        Ok(topology) => {
            checks.extend([topology_check(&topology), allowed(&topology), isolated(&topology)]);
            checks.extend(memory(&topology));
        }
        Err(error) => checks.push(Check::missing(remedy::agent::topology_unknown(&error.to_string()))),
    }
    let health = programs();
    checks.push(pid_namespace());
    checks.extend(program_checks(&health));
    checks.push(event_priority());
    checks.extend(preconditions(args, &health));
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
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Good, found: found.into() }
    }

    fn limited(Finding { name, found, fix }: Finding) -> Self {
        Self { name, state: State::Limited(fix), found }
    }

    fn missing(Finding { name, found, fix }: Finding) -> Self {
        Self { name, state: State::Missing(fix), found }
    }

    fn text(&self) -> String {
        let (mark, fix) = match &self.state {
            State::Good => ("ok     ", None),
            State::Limited(fix) => ("limited", Some(fix)),
            State::Missing(fix) => ("MISSING", Some(fix)),
        };
        let fixes = fix.into_iter().flat_map(|fix| fix.lines());
        let fixes = fixes.map(|fix| escape::text(remedy::remark(fix).unwrap_or(fix)));
        let fix: String = fixes.map(|fix| format!("{:10}fix: {fix}\n", "")).collect();
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

/// What else `check` asks of the machine, and of the processes of the plan that was asked for. What nobody knows is left out.
fn preconditions(args: &DoctorArgs, health: &Result<Health, String>) -> Vec<Check> {
    let machine = MachineArgs { sysfs_root: None, preset: None };
    let about = About { plan: &args.plan, machine: &machine, socket: &args.socket, expect: None };
    let items = Found::look(about, false).and_then(|found| found.preconditions(about, Some(health)));
    let items = match items {
        Ok(items) => items,
        Err(error) => {
            let finding = remedy::agent::preconditions_unknown(&format!("{error:#}"));
            return vec![Check::limited(finding)];
        }
    };
    // Without a plan in particular nobody's CPUs are spoken for.
    let about_it = |id: &str| args.plan.any() || !OF_A_PLAN.contains(&id);
    let items = items.into_iter().filter(|item| !SHOWN.contains(&item.id) && about_it(item.id));
    items.filter(|item| item.verdict != check::Verdict::Skipped).map(of_item).collect()
}

fn of_item(item: check::Item) -> Check {
    let found = format!("{}: {}", item.asked, item.found.join("; "));
    match item.verdict {
        check::Verdict::Pass | check::Verdict::Skipped => Check::good(item.id, found),
        check::Verdict::Warn | check::Verdict::Fail => {
            Check { name: item.id, state: State::Limited(item.fixes.join("\n")), found }
        }
    }
}

fn kernel() -> Check {
    let found = sys::uname()
        .map_or_else(|error| error.to_string(), |(host, release)| format!("Linux {release} on {host}"));
    Check::good("kernel", found)
}

fn topology_check(topology: &Topology) -> Check {
    let nodes = topology.nodes.len();
    let found = format!(
        "sockets: {}, NUMA nodes: {nodes}, CPUs online: {}",
        topology.sockets.len(),
        topology.cpus.len()
    );
    match nodes {
        0 | 1 => Check::limited(remedy::machine::single_node(&found)),
        _ => Check::good("topology", found),
    }
}

fn allowed(topology: &Topology) -> Check {
    let missing = topology.online().difference(&topology.allowed);
    if missing.is_empty() {
        return Check::good("cpuset", "our cgroup allows all online CPUs");
    }
    Check::limited(remedy::machine::own_cpus(&missing))
}

fn isolated(topology: &Topology) -> Check {
    let isolated: CpuSet = topology.isolated.intersection(&topology.allowed);
    if isolated.is_empty() {
        return Check::good("isolation", "no isolated CPUs");
    }
    Check::limited(remedy::machine::isolated(&isolated))
}

/// What works against memory on any of the nodes that we may use; one line if nothing does.
fn memory(topology: &Topology) -> Vec<Check> {
    let conditions = match sysfs::conditions::read("/".as_ref()) {
        Ok(conditions) => conditions,
        Err(error) => return vec![Check::limited(remedy::memory::unknown(&error.to_string()))],
    };
    let concerns = conditions.concerns(&topology.memory_nodes());
    if concerns.is_empty() {
        return vec![Check::good("memory", remedy::memory::summary(&conditions))];
    }
    concerns.iter().map(|concern| Check::limited(remedy::memory::finding(concern))).collect()
}

fn pid_namespace() -> Check {
    match sys::in_initial_pid_namespace() {
        true => Check::good("pids", "we see the host's pids"),
        false => Check::missing(remedy::agent::pid_namespace()),
    }
}

/// Loads and attaches every program, for the moment, those of a tap on our own sends included; `Err`: why there are none.
pub(super) fn programs() -> Result<Health, String> {
    let tap = Tap::Process(TaskId { tid: std::process::id(), start_time: 0 });
    let tap = Some(TapOptions { tap, sends: Sends::Every });
    match Programs::load(&LoadOptions { tap, hold: true, devices: true, ..LoadOptions::default() }) {
        Ok(programs) => Ok(programs.health().clone()),
        Err(BpfError::Unusable(health)) => Ok(health),
        Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
    }
}

fn program_checks(health: &Result<Health, String>) -> Vec<Check> {
    let health = match health {
        Ok(health) => health,
        Err(error) => return vec![Check::missing(remedy::agent::no_programs(error))],
    };
    let hardest = health.hardest().map_or(String::new(), |hardest| format!("; {hardest}"));
    let mut checks = vec![match remedy::agent::programs(health) {
        None => Check::good("programs", format!("all {} attached{hardest}", health.programs.len())),
        Some(finding) => {
            let finding = Finding { found: finding.found + &hardest, ..finding };
            if health.verdict() == Verdict::Unusable {
                Check::missing(finding)
            } else {
                Check::limited(finding)
            }
        }
    }];
    // The tap's failures have a line of their own.
    if let Some(found) = health.tap_summary() {
        checks.push(remedy::agent::tap(health).map_or_else(|| Check::good("tap", found), Check::limited));
    }
    if let Some(hold) = &health.hold {
        checks.push(match hold {
            Ok(()) => Check::good("hold", "processes can be held at exec (`hold`)"),
            Err(why) => Check::limited(remedy::agent::hold(why)),
        });
    }
    checks
}

fn event_priority() -> Check {
    // On a thread of its own, which ends with its priority.
    let priority = std::thread::spawn(sys::prioritise_event_thread).join();
    match priority {
        Ok(sys::EventPriority::Fifo) => Check::good("real-time", "the event thread may run as SCHED_FIFO 1"),
        Ok(normal) => Check::limited(remedy::agent::real_time(&normal.to_string())),
        Err(_) => Check::limited(remedy::agent::real_time("the probe panicked")),
    }
}
