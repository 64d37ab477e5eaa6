//! Section A: whether the machine is the one that the plan is for, and who would fight it.

use super::{
    Item, Point, Verdict,
    facts::{AgentState, Around, Daemon, DaemonKind, Shape, Surroundings, Tuned},
};
use crate::core::{
    health::{Health, Verdict as Programs},
    idset::{CpuSet, NodeSet},
    memory::conditions::Concern,
    plan::Plan,
    remedy::{
        self, Finding,
        plan::{Commands, first},
    },
    settings::Policy,
    topology::Topology,
    units::{bytes, many, share},
};

/// A planned node may have that much less memory than the largest; the first one has what the firmware keeps for itself.
const LEAST_ALIKE: f64 = 0.9;

/// Clock sources that are read without a system call, the best first.
const FAST_CLOCKS: [&str; 3] = ["tsc", "arch_sys_counter", "kvm-clock"];

/// What section A is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Preconditions<'a> {
    /// The machine.
    pub topology: &'a Topology,
    /// The plan, or why none can be made.
    pub plan: Result<&'a Plan, &'a str>,
    /// The shape asked for.
    pub expected: Option<Shape>,
    /// What surrounds it; `None` where the machine is not this one.
    pub host: Option<Host<'a>>,
    /// Commands about the same plan.
    pub commands: &'a Commands,
}

/// The running host.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Its files.
    pub surroundings: &'a Surroundings,
    /// The matched processes.
    pub processes: &'a [Around],
    /// The kernel programs as far as they load here, or why none does; `None` where an agent that runs has them.
    pub programs: Option<&'a Result<Health, String>>,
    /// The agent that runs, or why none answers.
    pub agent: Result<&'a AgentState, &'a str>,
    /// Our own version.
    pub version: &'a str,
    /// Kernel release.
    pub kernel: &'a str,
}

/// All that the plan uses.
struct Used {
    cpus: CpuSet,
    forward: CpuSet,
    nodes: NodeSet,
}

impl Used {
    fn of(facts: &Preconditions) -> Self {
        let Ok(plan) = facts.plan else {
            let nodes = facts.topology.nodes.iter().map(|node| node.id).collect();
            return Self { cpus: facts.topology.online(), forward: CpuSet::new(), nodes };
        };
        let (mut cpus, mut forward, mut nodes) = (plan.others.cpus.clone(), CpuSet::new(), NodeSet::new());
        for group in &plan.groups {
            forward = forward.union(&group.forward_cpus);
            cpus = cpus.union(&group.primary_cpus);
            nodes.extend([group.primary_node, group.secondary_node]);
        }
        nodes.insert(plan.others.node);
        Self { cpus: cpus.union(&forward), forward, nodes }
    }
}

/// Section A.
#[must_use]
pub fn items(facts: &Preconditions) -> Vec<Item> {
    let used = Used::of(facts);
    let topology = facts.topology;
    let mut items =
        vec![shape(facts), online(topology, facts.host), memory(topology, &used), alike(topology, &used)];
    items.push(isolation(topology, &used));
    match facts.host {
        Some(host) => items.extend(of_host(facts, &used, host)),
        None => {
            let skipped = HOST.iter().map(|point| point.skipped("it is another machine's topology", ""));
            items.extend(skipped);
        }
    }
    items
}

/// What only the running host tells, in order.
const HOST: [Point; 16] = [
    Point("A6", "no cpuset keeps us from CPUs or memory"),
    Point("A7", "no cpuset cuts a process's plan"),
    Point("A8", "planned nodes have room, and nobody waits for memory"),
    Point("A9", "the kernel does not move pages or threads by itself"),
    Point("A10", "huge pages are given only to those who ask"),
    Point("A11", "no process is in swap"),
    Point("A12", "irqbalance leaves the forward threads' CPUs alone"),
    Point("A13", "neither TuneD nor numad places anything"),
    Point("A14", "no process binds its own threads"),
    Point("A15", "nobody was started by taskset or numactl, or by a unit that places it"),
    Point("A16", "CPUs run at full speed"),
    Point("A17", "no two hardware threads share a core"),
    Point("A18", "the clock is fast to read"),
    Point("A19", "the kernel takes the agent's programs"),
    Point("A20", "an agent runs and enforces the plan"),
    Point("A21", "the agent is of this version"),
];

fn shape(facts: &Preconditions) -> Item {
    let point = Point("A1", "sockets and nodes are as expected");
    let topology = facts.topology;
    let paired =
        || facts.plan.ok().filter(|plan| plan.policy == Policy::Paired).map(|_| Shape::paired(topology));
    let found = format!(
        "{}, {}, {} online",
        many(topology.sockets.len(), "socket", "s"),
        many(topology.nodes.len(), "node", "s"),
        many(topology.cpus.len(), "CPU", "s")
    );
    let sockets: Vec<String> = topology
        .sockets
        .iter()
        .map(|socket| {
            let nodes = socket.nodes.iter().map(|node| format!("node {} (CPUs {})", node.id, node.cpus));
            format!("socket {}: {}", socket.id, nodes.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let found = format!("{found}; {}", sockets.join("; "));
    match facts.expected.or_else(paired) {
        Some(shape) if !shape.fits(topology) => {
            point.fail(remedy::machine::other_shape(&found, &shape.to_string()))
        }
        Some(shape) => point.pass(format!(
            "{shape}, as {}: {found}",
            if facts.expected.is_some() { "expected" } else { "the paired policy needs" }
        )),
        None if facts.plan.is_err() => {
            let why = facts.plan.err().unwrap_or_default();
            point.fail(remedy::plan::unfit(&format!("{found}; no plan fits it: {why}"), facts.commands))
        }
        None if topology.nodes.len() < 2 => {
            point.judge(String::new, vec![(Verdict::Warn, remedy::machine::single_node(&found))])
        }
        None => point.pass(found),
    }
}

fn online(topology: &Topology, host: Option<Host>) -> Item {
    let point = Point("A2", "all CPUs are online");
    let smt_off = host
        .and_then(|host| host.surroundings.smt.as_deref())
        .filter(|control| ["off", "forceoff"].contains(control));
    let offline = &topology.offline;
    // Which CPUs are second threads nobody tells while they are offline, but there is one for each core.
    let cores = topology.cores_of(&topology.online()).len();
    match smt_off {
        _ if offline.is_empty() => point.pass(format!("CPUs {}", topology.online())),
        Some(control) if offline.len() == cores => point.pass(format!(
            "CPUs {offline} are offline: SMT is {control}, and they are as many as there are cores"
        )),
        Some(control) => point.fail(remedy::machine::offline_beside_smt(offline, control, cores)),
        None => point.fail(remedy::machine::offline(offline)),
    }
}

fn memory(topology: &Topology, used: &Used) -> Item {
    let point = Point("A3", "each planned node has memory");
    let missing = used.nodes.difference(&topology.memory_nodes());
    let bad = (!missing.is_empty()).then(|| (Verdict::Fail, remedy::machine::without_memory(&missing)));
    point.judge(|| sizes(topology, used), bad.into_iter().collect())
}

fn sizes(topology: &Topology, used: &Used) -> String {
    let nodes = topology.nodes.iter().filter(|node| used.nodes.contains(node.id));
    let size = |size: Option<u64>| size.map_or("memory unknown".to_owned(), bytes);
    let nodes: Vec<String> =
        nodes.map(|node| format!("node {}: {}", node.id, size(node.memory_bytes))).collect();
    nodes.join(", ")
}

fn alike(topology: &Topology, used: &Used) -> Item {
    let point = Point("A4", "planned nodes have alike memory");
    let nodes = topology.nodes.iter().filter(|node| used.nodes.contains(node.id));
    let sizes_of: Vec<(u32, u64)> =
        nodes.filter_map(|node| Some((node.id, node.memory_bytes.filter(|size| *size > 0)?))).collect();
    let (least, most) = (sizes_of.iter().map(|one| one.1).min(), sizes_of.iter().map(|one| one.1).max());
    let (Some(least), Some(most)) = (least, most) else {
        return point.skipped("how much memory nodes have is not known", "");
    };
    let unlike = (least as f64) < LEAST_ALIKE * most as f64;
    let bad = unlike.then(|| (Verdict::Warn, remedy::machine::unlike_memory(&sizes_of)));
    point.judge(|| sizes(topology, used), bad.into_iter().collect())
}

fn isolation(topology: &Topology, used: &Used) -> Item {
    let point = Point("A5", "no CPU of a planned node is isolated");
    // Also those that the plan leaves out: its groups have less than they should.
    let nodes = topology.nodes.iter().filter(|node| used.nodes.contains(node.id));
    let cpus = nodes.fold(used.cpus.clone(), |cpus, node| cpus.union(&node.cpus));
    let isolated = topology.isolated.intersection(&cpus);
    let tickless = topology.nohz_full.intersection(&used.cpus);
    let mut findings = Vec::new();
    if !isolated.is_empty() {
        findings.push((Verdict::Fail, remedy::machine::isolated(&isolated)));
    }
    if !tickless.is_empty() {
        findings.push((Verdict::Warn, remedy::machine::nohz_full(&tickless)));
    }
    point.judge(|| "neither isolcpus nor nohz_full".to_owned(), findings)
}

fn of_host(facts: &Preconditions, used: &Used, host: Host) -> Vec<Item> {
    let [
        own,
        cut,
        room,
        moves,
        pages,
        swap,
        irqs,
        daemons,
        app,
        started,
        speed,
        smt_point,
        clock_point,
        programs_point,
        agent_point,
        version,
    ] = HOST;
    let concerns = host.surroundings.conditions.concerns(&used.nodes);
    vec![
        own_cpuset(own, facts.topology),
        cpusets(cut, host.processes),
        memory_room(room, &host, used, &concerns),
        by_itself(moves, &host, &concerns),
        huge_pages(pages, &host, &concerns),
        in_swap(swap, host.processes),
        irqbalance(irqs, &host, facts, used),
        placing_daemons(daemons, &host),
        binds_itself(app, host.processes),
        started_bound(started, host.processes),
        governors(speed, &host, used),
        smt(smt_point, facts.topology, &host),
        clock(clock_point, &host),
        programs(programs_point, &host),
        agent(agent_point, &host, facts.commands),
        agent_version(version, &host),
    ]
}

fn own_cpuset(point: Point, topology: &Topology) -> Item {
    let mut findings = Vec::new();
    let missing = topology.online().difference(&topology.allowed);
    if !missing.is_empty() {
        findings.push((Verdict::Fail, remedy::machine::own_cpus(&missing)));
    }
    let holders = topology.nodes.iter().filter(|node| node.memory_bytes != Some(0));
    let missing = holders.map(|node| node.id).collect::<NodeSet>().difference(&topology.allowed_mems);
    if !missing.is_empty() {
        findings.push((Verdict::Fail, remedy::machine::own_nodes(&missing)));
    }
    point.judge(|| format!("CPUs {}, memory of nodes {}", topology.allowed, topology.allowed_mems), findings)
}

/// What is asked of processes, where there is none.
fn nobody(point: Point) -> Item {
    point.skipped("no process matched", "# start what the plan is for, and check again")
}

fn cpusets(point: Point, processes: &[Around]) -> Item {
    if processes.is_empty() {
        return nobody(point);
    }
    let mut findings = Vec::new();
    for process in processes {
        let Some(limits) = &process.read.cpuset else { continue };
        let (name, cgroup) = (process.name(), limits.cgroup.as_str());
        if let Some(has) = &limits.cpus {
            let missing = process.cpus.difference(has);
            if !missing.is_empty() {
                findings.push((Verdict::Fail, remedy::rivals::cut_cpus(&name, cgroup, &missing, has)));
            }
        }
        if let Some(has) = &limits.mems {
            let missing = process.nodes.difference(has);
            if !missing.is_empty() {
                findings.push((Verdict::Fail, remedy::rivals::cut_nodes(&name, cgroup, &missing, has)));
            }
        }
    }
    point.judge(|| all_of(processes, "may use all that the plan has for them"), findings)
}

/// `12 processes may ..`.
fn all_of(processes: &[Around], what: &str) -> String {
    format!("{}: all {what}", many(processes.len(), "process", "es"))
}

fn concern(verdict: Verdict, concern: &Concern) -> (Verdict, Finding) {
    (verdict, remedy::memory::finding(concern))
}

fn memory_room(point: Point, host: &Host, used: &Used, concerns: &[Concern]) -> Item {
    let findings = concerns.iter().filter_map(|one| match one {
        Concern::Short(_) => Some(concern(Verdict::Fail, one)),
        Concern::Stalled(_) => Some(concern(Verdict::Warn, one)),
        _ => None,
    });
    let nodes = host.surroundings.conditions.nodes.iter().filter(|node| used.nodes.contains(node.id));
    let rooms: Vec<String> = nodes
        .map(|node| {
            format!(
                "node {}: {} of {} free ({})",
                node.id,
                bytes(node.free_bytes),
                bytes(node.total_bytes),
                share(node.free_share())
            )
        })
        .collect();
    if rooms.is_empty() {
        return point.skipped("no node's meminfo is there: a kernel without NUMA support", "");
    }
    point.judge(|| rooms.join(", "), findings.collect())
}

fn by_itself(point: Point, host: &Host, concerns: &[Concern]) -> Item {
    let findings = concerns.iter().filter_map(|one| match one {
        Concern::Balancing(_) => Some(concern(Verdict::Fail, one)),
        Concern::ZoneReclaim(_) => Some(concern(Verdict::Warn, one)),
        _ => None,
    });
    let conditions = &host.surroundings.conditions;
    let shown = |value: Option<u32>| value.map_or("not there".to_owned(), |value| value.to_string());
    point.judge(
        || {
            format!(
                "kernel.numa_balancing {}, vm.zone_reclaim_mode {}",
                shown(conditions.balancing),
                shown(conditions.zone_reclaim)
            )
        },
        findings.collect(),
    )
}

fn huge_pages(point: Point, host: &Host, concerns: &[Concern]) -> Item {
    let findings = concerns.iter().filter_map(|one| match one {
        Concern::HugePagesAlways | Concern::DefragAlways => Some(concern(Verdict::Warn, one)),
        _ => None,
    });
    let conditions = &host.surroundings.conditions;
    let shown = |word: &Option<String>| word.clone().unwrap_or_else(|| "not there".to_owned());
    point.judge(
        || {
            format!(
                "transparent_hugepage/enabled {}, defrag {}",
                shown(&conditions.huge_pages),
                shown(&conditions.defrag)
            )
        },
        findings.collect(),
    )
}

fn in_swap(point: Point, processes: &[Around]) -> Item {
    if processes.is_empty() {
        return nobody(point);
    }
    let swapped = |process: &Around| {
        let amount = process.read.swapped_bytes.filter(|amount| *amount > 0)?;
        Some((Verdict::Warn, remedy::rivals::swapped(&process.name(), amount)))
    };
    point.judge(
        || all_of(processes, "have none of their memory in swap"),
        processes.iter().filter_map(swapped).collect(),
    )
}

fn irqbalance(point: Point, host: &Host, facts: &Preconditions, used: &Used) -> Item {
    let runs = |daemon: &&Daemon| matches!(daemon.kind, DaemonKind::Irqbalance(_));
    if let (Err(_), Some(daemon)) = (facts.plan, host.surroundings.daemons.iter().find(runs)) {
        return point.skipped(
            format!(
                "irqbalance runs (pid {}), and without a plan nobody knows which CPUs are forward threads'",
                daemon.pid
            ),
            first("B1"),
        );
    }
    let mut findings = Vec::new();
    let mut good = "irqbalance does not run".to_owned();
    for Daemon { pid, kind } in &host.surroundings.daemons {
        let DaemonKind::Irqbalance(banned) = kind else { continue };
        let open = used.forward.difference(banned.as_ref().unwrap_or(&CpuSet::new()));
        if open.is_empty() {
            good = format!("irqbalance (pid {pid}) is told to leave CPUs {} alone", used.forward);
        } else {
            findings.push((Verdict::Fail, remedy::rivals::irqbalance(*pid, &open)));
        }
    }
    point.judge(|| good, findings)
}

fn placing_daemons(point: Point, host: &Host) -> Item {
    let mut findings = Vec::new();
    let mut good = Vec::new();
    for Daemon { pid, kind } in &host.surroundings.daemons {
        match kind {
            DaemonKind::Irqbalance(_) => {}
            DaemonKind::Numad => findings.push((Verdict::Fail, remedy::rivals::numad(*pid))),
            DaemonKind::Tuned(Tuned::Quiet { profile }) => {
                good.push(format!("TuneD runs (pid {pid}) with profile {profile}, which sets no masks"));
            }
            DaemonKind::Tuned(Tuned::Places { profile, setting }) => {
                findings.push((Verdict::Fail, remedy::rivals::tuned(*pid, profile, setting)));
            }
            DaemonKind::Tuned(Tuned::Unknown(why)) => {
                findings.push((Verdict::Warn, remedy::rivals::tuned_unknown(*pid, why)));
            }
        }
    }
    point.judge(|| if good.is_empty() { "neither runs".to_owned() } else { good.join(", ") }, findings)
}

fn binds_itself(point: Point, processes: &[Around]) -> Item {
    if processes.is_empty() {
        return nobody(point);
    }
    let unread: Vec<String> = processes
        .iter()
        .filter(|process| process.read.own_binding.is_none())
        .map(|process| process.task.tid.to_string())
        .collect();
    let own = |process: &Around| {
        let name = process.name();
        let settings = process.read.own_binding.iter().flatten();
        settings
            .map(|setting| (Verdict::Fail, remedy::rivals::binds_itself(&name, setting)))
            .collect::<Vec<_>>()
    };
    let findings: Vec<_> = processes.iter().flat_map(own).collect();
    if findings.is_empty() && !unread.is_empty() {
        return point.skipped(
            format!("the environment of pids {} cannot be read", unread.join(", ")),
            "# run it as root",
        );
    }
    point.judge(|| all_of(processes, "leave their masks alone, by environment and arguments"), findings)
}

fn started_bound(point: Point, processes: &[Around]) -> Item {
    if processes.is_empty() {
        return nobody(point);
    }
    let mut findings = Vec::new();
    for process in processes {
        let name = process.name();
        findings.extend(
            process.read.launchers.iter().map(|line| (Verdict::Warn, remedy::rivals::launcher(&name, line))),
        );
        findings.extend(
            process
                .read
                .unit
                .iter()
                .map(|(path, line)| (Verdict::Warn, remedy::rivals::unit(&name, path, line))),
        );
    }
    point.judge(
        || all_of(processes, "have no ancestor of that name (who has become the program itself is not seen)"),
        findings,
    )
}

fn governors(point: Point, host: &Host, used: &Used) -> Item {
    let governors = &host.surroundings.governors;
    if governors.is_empty() {
        return point.skipped("no cpufreq here: the firmware or the hypervisor sets the frequency", "");
    }
    let slow = governors.iter().filter(|(name, _)| *name != "performance");
    let slow =
        slow.map(|(name, cpus)| (name, cpus.intersection(&used.cpus))).filter(|(_, cpus)| !cpus.is_empty());
    let findings = slow.map(|(name, cpus)| (Verdict::Warn, remedy::machine::governor(name, &cpus)));
    point.judge(|| "cpufreq governor performance on all planned CPUs".to_owned(), findings.collect())
}

fn smt(point: Point, topology: &Topology, host: &Host) -> Item {
    let control = host.surroundings.smt.as_deref();
    // A kernel for arm64 may have no control of it, whatever its cores have.
    let shared = topology.cores_of(&topology.online()).iter().any(|core| core.len() > 1);
    let findings = (shared || control == Some("on")).then(|| (Verdict::Warn, remedy::machine::smt()));
    point.judge(|| format!("SMT: {}", control.unwrap_or("not there")), findings.into_iter().collect())
}

fn clock(point: Point, host: &Host) -> Item {
    let Some((current, all)) = &host.surroundings.clock else {
        return point.skipped("the clock source is not known", "");
    };
    let better = FAST_CLOCKS.iter().find(|fast| all.iter().any(|one| one == *fast));
    let slow = better.filter(|_| !FAST_CLOCKS.contains(&current.as_str()));
    let findings = slow.map(|better| (Verdict::Warn, remedy::machine::clock(current, better)));
    point.judge(|| format!("clock source {current}, of {}", all.join(", ")), findings.into_iter().collect())
}

fn programs(point: Point, host: &Host) -> Item {
    let findings = match (host.programs, host.agent) {
        (Some(Err(why)), _) => Some((Verdict::Fail, remedy::agent::no_programs(why))),
        (Some(Ok(health)), _) => remedy::agent::programs(health).map(|finding| {
            (if health.verdict() == Programs::Unusable { Verdict::Fail } else { Verdict::Warn }, finding)
        }),
        (None, Ok(agent)) if agent.lacks_programs => {
            Some((Verdict::Warn, remedy::agent::lacks_programs(&agent.programs)))
        }
        _ => None,
    };
    let good = || {
        let programs = match (host.programs, host.agent) {
            (Some(Ok(health)), _) => health.summary(),
            (_, Ok(agent)) => format!("in the agent that runs: {}", agent.programs),
            _ => "not looked at".to_owned(),
        };
        format!("Linux {}; programs: {programs}", host.kernel)
    };
    point.judge(good, findings.into_iter().collect())
}

fn agent(point: Point, host: &Host, commands: &Commands) -> Item {
    let mut findings = Vec::new();
    match host.agent {
        Err(why) => findings.push((Verdict::Warn, remedy::agent::not_running(why, commands))),
        Ok(agent) => {
            if !agent.enforcing {
                findings.push((Verdict::Warn, remedy::agent::only_looks(agent.pid, commands)));
            }
            if !agent.differs.is_empty() {
                let other = remedy::agent::other_plan(agent.pid, &agent.differs, commands);
                findings.push((Verdict::Fail, other));
            }
        }
    }
    let good = || {
        host.agent.map_or(String::new(), |agent| {
            let plan =
                if agent.compared { "this plan" } else { "a plan that was not compared: none was asked for" };
            format!("pid {}, version {}, enforcing {plan}", agent.pid, agent.version)
        })
    };
    point.judge(good, findings)
}

fn agent_version(point: Point, host: &Host) -> Item {
    let Ok(agent) = host.agent else { return point.skipped("no agent answers", "") };
    let other = agent.version != host.version;
    let findings =
        other.then(|| (Verdict::Warn, remedy::agent::other_version(agent.pid, &agent.version, host.version)));
    point.judge(|| format!("version {}", agent.version), findings.into_iter().collect())
}
