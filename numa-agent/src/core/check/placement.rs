//! Section B: whether there is a plan without a shortcoming, and everything is where it says, read from the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, Point, Verdict};
use crate::core::{
    engine::{Engine, Process, Thread},
    memory::verify::{Verdict as MemoryVerdict, Verified},
    plan::Group,
    remedy::{
        self,
        plan::{Commands, first},
    },
    task::{ProcessRole, TaskId, ThreadRole},
    units::{duration, many, seconds},
};

/// The most thread names of a group that are shown.
const MOST_NAMES: usize = 12;

/// What section B is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// What runs beside its plan, after a scan; or why there is no plan.
    pub engine: Result<&'a Engine, &'a str>,
    /// Explicit pids that are nobody.
    pub unmet: &'a [u32],
    /// Whether scans found no end of new threads.
    pub settled: bool,
    /// How many threads the agent knows to be forward threads by the device that they use, and does not name: they are members here.
    pub unseen: u64,
    /// The real-time and deadline threads among those that are not where they are planned, each with its class: they are left where they are.
    pub spared: &'a BTreeMap<TaskId, &'static str>,
    /// The memory of the processes, as far as it was read.
    pub memory: &'a BTreeMap<TaskId, Verified>,
    /// Where threads ran for a while, or why nobody looked.
    pub observed: Result<&'a Observed, &'a str>,
    /// Commands about the same plan.
    pub commands: &'a Commands,
}

/// Where threads ran while somebody looked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// Who: `the agent (pid 7)`, `kernel programs of our own`.
    pub by: String,
    /// For how long.
    pub seconds: f64,
    /// The threads that ran.
    pub threads: Vec<Ran>,
    /// How many of them.
    pub count: u64,
    /// Threads whose CPU time by node is not known.
    pub unmeasured: u64,
    /// The agent that tells, if it goes by another plan, and what differs.
    pub by_other_plan: Option<(u32, Vec<String>)>,
}

impl Observed {
    /// Counts a thread that ran; `None`: its CPU time by node is not known.
    pub fn add(&mut self, thread: Option<Ran>) {
        self.count += 1;
        match thread {
            Some(thread) => self.threads.push(thread),
            None => self.unmeasured += 1,
        }
    }
}

/// A thread's CPU time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Name.
    pub comm: String,
    /// All of it.
    pub run_ns: u64,
    /// That outside its planned nodes.
    pub off_node_ns: u64,
}

const PLAN: Point = Point("B1", "the plan fits the machine without a shortcoming");
const FOUND: Point = Point("B2", "the processes of the plan are found");
const FORWARD: Point = Point("B3", "every group in use has forward threads");
const AFFINITY: Point = Point("B4", "every thread may run on its planned CPUs, and on no others");
const POLICY: Point = Point("B5", "every process has its planned memory policy");
const PAGES: Point = Point("B6", "memory is on the planned nodes, evenly");
const STAYED: Point = Point("B7", "no thread ran off its planned nodes while observed");

/// Section B.
#[must_use]
pub fn items(facts: &Placement) -> Vec<Item> {
    let engine = match facts.engine {
        Ok(engine) => engine,
        Err(why) => {
            let none = [FOUND, FORWARD, AFFINITY, POLICY, PAGES, STAYED];
            let skipped = none.iter().map(|point| point.skipped("there is no plan", first(PLAN.0)));
            let unfit = PLAN.fail(remedy::plan::unfit(why, facts.commands));
            return std::iter::once(unfit).chain(skipped).collect();
        }
    };
    vec![
        plan(facts, engine),
        found(facts, engine),
        forward(facts, engine),
        affinity(facts, engine),
        policy(facts, engine),
        pages(facts, engine),
        stayed(facts),
    ]
}

fn plan(facts: &Placement, engine: &Engine) -> Item {
    let plan = engine.plan();
    let of_plan: BTreeSet<&String> = plan.warnings.iter().collect();
    let findings = engine.warnings().into_iter().map(|warning| {
        let verdict = if of_plan.contains(&warning) { Verdict::Fail } else { Verdict::Warn };
        (verdict, remedy::plan::shortcoming(&warning, facts.commands))
    });
    let good = || {
        let groups = plan.groups.iter().map(|group| {
            format!(
                "{} on {}, forward on {}, memory on {}",
                group.name, group.primary_cpus, group.forward_cpus, group.mem_nodes
            )
        });
        format!(
            "{} policy, {} layout, {}: {}; others on {}",
            plan.policy,
            plan.layout,
            many(plan.groups.len(), "group", "s"),
            groups.collect::<Vec<_>>().join("; "),
            plan.others.cpus
        )
    };
    PLAN.judge(good, findings.collect())
}

/// The groups that somebody is in, each with its processes.
fn tenants(engine: &Engine) -> BTreeMap<&str, (&Group, Vec<&Process>)> {
    let mut tenants: BTreeMap<&str, (&Group, Vec<&Process>)> = BTreeMap::new();
    for process in engine.processes() {
        if let Some(group) = engine.group_of(process) {
            tenants.entry(&group.name).or_insert_with(|| (group, Vec::new())).1.push(process);
        }
    }
    tenants
}

fn found(facts: &Placement, engine: &Engine) -> Item {
    let tenants = tenants(engine);
    if tenants.is_empty() {
        let patterns = engine.settings().group_patterns.iter().map(regex::Regex::as_str);
        return FOUND.fail(remedy::plan::nobody(&patterns.collect::<Vec<_>>(), facts.commands));
    }
    let mut findings = Vec::new();
    if !facts.unmet.is_empty() {
        findings.push((Verdict::Fail, remedy::plan::unmet(facts.unmet)));
    }
    if !facts.settled {
        findings.push((Verdict::Fail, remedy::plan::unsettled(facts.commands)));
    }
    let good = || {
        let groups = tenants.iter().map(|(name, (_, processes))| {
            let threads: usize = processes.iter().map(|process| process.threads.len()).sum();
            let pids: Vec<String> = processes.iter().map(|process| process.facts.pid.to_string()).collect();
            format!("{name}: pids {} ({})", pids.join(", "), many(threads, "thread", "s"))
        });
        let others = engine.processes().filter(|process| process.role == ProcessRole::Other).count();
        format!(
            "{}; {} in the background",
            groups.collect::<Vec<_>>().join("; "),
            many(others, "process", "es")
        )
    };
    FOUND.judge(good, findings)
}

fn forward(facts: &Placement, engine: &Engine) -> Item {
    let tenants = tenants(engine);
    if tenants.is_empty() {
        return FORWARD.skipped("no process of a group runs", first(FOUND.0));
    }
    let is_forward = |thread: &&Thread| thread.role == ThreadRole::Forward;
    let patterns: Vec<&str> =
        engine.settings().forward_thread_patterns.iter().map(regex::Regex::as_str).collect();
    let (mut findings, mut good) = (Vec::new(), Vec::new());
    for (name, (_, processes)) in &tenants {
        let threads = || processes.iter().flat_map(|process| process.threads.values());
        let count = threads().filter(is_forward).count();
        if count > 0 {
            good.push(format!("{name}: {count}"));
            continue;
        }
        if facts.unseen > 0 {
            findings.push((Verdict::Skipped, remedy::plan::unseen(name, facts.unseen)));
            continue;
        }
        let names: BTreeSet<&str> = threads().map(|thread| thread.comm.as_str()).collect();
        let shown: Vec<&str> = names.iter().take(MOST_NAMES).copied().collect();
        let pid = processes.first().map_or(0, |process| process.facts.pid);
        let more = names.len() > MOST_NAMES;
        findings.push((Verdict::Fail, remedy::plan::no_forward(name, &patterns, &shown, more, pid)));
    }
    FORWARD.judge(|| format!("forward threads in {}", good.join(", ")), findings)
}

fn affinity(facts: &Placement, engine: &Engine) -> Item {
    let (mut findings, mut right) = (Vec::new(), 0);
    // By group: threads that are where forward threads belong, and may be some.
    let mut open: BTreeMap<&str, u64> = BTreeMap::new();
    for process in engine.processes() {
        for thread in process.threads.values() {
            let planned = engine.cpus_of(process, thread.role);
            if thread.actual.as_ref() == Some(planned) {
                right += 1;
                continue;
            }
            let group = engine.group_of(process).filter(|_| facts.unseen > 0);
            if let Some(group) = group.filter(|group| thread.actual.as_ref() == Some(&group.forward_cpus)) {
                *open.entry(&group.name).or_default() += 1;
                continue;
            }
            let name = format!(
                "pid {} tid {} ({}), {} of {}",
                process.facts.pid,
                thread.id.tid,
                thread.comm,
                thread.role.name(),
                engine.group_of(process).map_or("the background processes", |group| &group.name),
            );
            let actual = thread.actual.as_ref();
            findings.push(match facts.spared.get(&thread.id).zip(actual) {
                Some((class, actual)) => {
                    (Verdict::Warn, remedy::plan::spared(&name, class, thread.id.tid, planned, actual))
                }
                None => (Verdict::Fail, remedy::plan::strayed(&name, planned, actual, facts.commands)),
            });
        }
    }
    findings.extend(open.into_iter().map(|(group, threads)| {
        let what = format!("{group}: {} on CPUs of forward threads", many(threads, "member", "s"));
        (Verdict::Skipped, remedy::plan::unseen(&what, facts.unseen))
    }));
    if findings.is_empty() && right == 0 {
        return AFFINITY.skipped("no process matched", first(FOUND.0));
    }
    AFFINITY.judge(
        || format!("{}: masks read from the kernel, all as planned", many(right, "thread", "s")),
        findings,
    )
}

/// The processes with a planned memory policy, and what their memory came to.
fn memories<'a>(
    facts: &'a Placement,
    engine: &'a Engine,
) -> impl Iterator<Item = (&'a Process, &'a Verified)> {
    let verified = |process: &'a Process| Some((process, facts.memory.get(&process.facts.id())?));
    engine
        .processes()
        .filter_map(verified)
        .filter(|(_, verified)| verified.planned.is_some() && verified.verdict != MemoryVerdict::NotPlanned)
}

fn policy(facts: &Placement, engine: &Engine) -> Item {
    let (mut findings, mut good) = (Vec::new(), Vec::new());
    for (process, verified) in memories(facts, engine) {
        let name = format!("pid {} ({})", process.facts.pid, process.facts.comm);
        let has = verified.memory.policy().unwrap_or("none");
        let planned = verified.planned.as_ref().map(ToString::to_string).unwrap_or_default();
        match &verified.verdict {
            MemoryVerdict::Unknown(why) => {
                findings.push((Verdict::Fail, remedy::plan::memory_unknown(&name, why)));
            }
            MemoryVerdict::DefaultPolicy | MemoryVerdict::OtherPolicy => findings
                .push((Verdict::Fail, remedy::plan::other_policy(&name, &planned, has, facts.commands))),
            _ => good.push(format!("{name}: {has}")),
        }
    }
    if findings.is_empty() && good.is_empty() {
        return POLICY.skipped("no process with a planned memory policy", first(FOUND.0));
    }
    POLICY.judge(|| good.join(", "), findings)
}

fn pages(facts: &Placement, engine: &Engine) -> Item {
    let (mut findings, mut good, mut wrong) = (Vec::new(), Vec::new(), 0);
    for (process, verified) in memories(facts, engine) {
        let name = format!("pid {} ({})", process.facts.pid, process.facts.comm);
        let found = remedy::plan::spread(&name, verified.spread.on_plan, verified.spread.balance);
        match &verified.verdict {
            MemoryVerdict::OffPlan | MemoryVerdict::Unbalanced => {
                findings.push((Verdict::Fail, remedy::plan::pages(found, facts.commands)));
            }
            MemoryVerdict::Ok => good.push(found),
            _ => wrong += 1,
        }
    }
    if findings.is_empty() && wrong > 0 {
        return PAGES.skipped(
            format!(
                "{} without the planned policy: new pages go elsewhere, wherever the old ones are",
                many(wrong, "process", "es")
            ),
            first(POLICY.0),
        );
    }
    if findings.is_empty() && good.is_empty() {
        return PAGES.skipped("no process with a planned memory policy", first(FOUND.0));
    }
    PAGES.judge(|| good.join(", "), findings)
}

fn stayed(facts: &Placement) -> Item {
    let observed = match facts.observed {
        Ok(observed) => observed,
        Err(why) => {
            return STAYED.skipped(why, remedy::plan::unobserved(facts.commands));
        }
    };
    if let Some((pid, differs)) = &observed.by_other_plan {
        return STAYED.fail(remedy::agent::other_plan(*pid, differs, facts.commands));
    }
    let off = observed.threads.iter().filter(|thread| thread.off_node_ns > 0);
    let findings: Vec<_> = off
        .map(|thread| {
            let name = format!("pid {} tid {} ({})", thread.pid, thread.tid, thread.comm);
            let ran = format!("{} of {}", duration(thread.off_node_ns), duration(thread.run_ns));
            (Verdict::Fail, remedy::plan::ran_off(&name, &ran, facts.commands))
        })
        .collect();
    let time = seconds(observed.seconds);
    if findings.is_empty() && observed.count == 0 {
        return STAYED.skipped(format!("no thread ran in {time}, by {}", observed.by), remedy::plan::IDLE);
    }
    if findings.is_empty() && observed.unmeasured > 0 {
        return STAYED.skipped(
            format!(
                "CPU time by node of {} is not told, by {}",
                many(observed.unmeasured, "thread", "s"),
                observed.by
            ),
            remedy::plan::UNMEASURED,
        );
    }
    STAYED.judge(
        || {
            format!(
                "{} ran in {time}, by {}: none off its nodes",
                many(observed.count, "thread", "s"),
                observed.by
            )
        },
        findings,
    )
}
