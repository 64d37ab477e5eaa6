//! `numa-agent bind`: plan, bind what runs now, report.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{
    Incomplete,
    journal_args::JournalArgs,
    machine::MachineArgs,
    plan_args::PlanArgs,
    report_file::{self, Kind},
};
use crate::{
    core::{
        engine::{Action, Bind, Cause, Engine, Process, Thread},
        journal::{Lineage, Outstanding, Who},
        memory::{cgroup::FenceOutcome, verify::Verified},
        plan::Group,
        remedy,
        settings::Settings,
        task::{BindOutcome, TaskId},
    },
    host::{
        binding, cgroup, container,
        journal::{Here, Journal, JournalError},
        numa_maps::{self, Unread},
        procfs::{self, ProcReader},
        scan::Scanner,
        sys::{self, Host, Kernel},
        sysfs,
    },
    report::{self, BindReport, HostFacts, Outcome, ProcessRow, ThreadRow},
};

/// Scans until nothing new turns up, but not for ever: a storm of short processes always has something new.
const MAX_ROUNDS: usize = 16;

/// Flags of `bind`.
#[derive(Debug, Args)]
pub struct BindArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    journal: JournalArgs,
    /// Bind now. Without it nothing is changed.
    #[arg(long)]
    apply: bool,
    /// Also verify memory: policy and pages by node of each process. The kernel walks all its page tables for that, and its
    /// mappings stand still meanwhile.
    #[arg(long)]
    memory: bool,
    /// Where the report goes; its ending (.md, .html, .json, .svg, .txt) says in which format. Default:
    /// workflow_visualization/numa_binding_report.md
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Format of standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Markdown,
    Json,
    Svg,
    Html,
}

impl Format {
    fn of_path(path: &Path) -> Self {
        match Kind::of(path) {
            Kind::Html => Self::Html,
            Kind::Json => Self::Json,
            Kind::Svg => Self::Svg,
            Kind::Text => Self::Text,
            Kind::Markdown => Self::Markdown,
        }
    }

    fn render(self, report: &BindReport) -> String {
        match self {
            Self::Text => report::text::bind(report),
            Self::Markdown => report::markdown::bind(report),
            Self::Json => report::json::print(&report::json::bind(report)),
            Self::Svg => report::svg::bind(report),
            Self::Html => report::html::bind(report),
        }
    }
}

/// Plans, binds if asked to, reports.
pub fn run(args: &BindArgs) -> anyhow::Result<()> {
    let settings = args.plan.settings(args.report.as_deref())?;
    let topology = args.machine.topology()?;
    if args.apply {
        args.machine.check_applicable(&topology)?;
    }
    let mut engine = Engine::new(topology, settings.clone(), procfs::own_processes("/proc".as_ref()))?;
    engine.pin_pids(|pid| Host.start_time(pid));
    if args.apply && settings.report_asked {
        report_file::check_writable(Path::new(&settings.report))?;
    }
    let mut hand = if args.apply { Hand::Binds(args.journal.open()?.map(Record::new)) } else { Hand::Looks };
    let settled = enforce(&mut engine, &mut hand)?;
    let unmet = unmet_pids(&mut engine, &settings).len();
    let mut report = report_of(&engine, args.apply)?;
    report.warnings.extend(unseen());
    if args.memory {
        verify_memory(&engine, &mut report);
        if args.machine.is_ours() {
            report.warnings.extend(against_the_plan(&engine));
        }
    }
    if settings.cpusets {
        report.fences = cgroup::fence(
            &engine.wanted_memory(),
            |_| args.apply,
            |change| match &mut hand {
                Hand::Binds(Some(record)) => record.journal.before_file(change),
                _ => Ok(()),
            },
        );
        report.warnings.extend(report::cgroups::warnings(&report));
    }
    write_report(&settings, &report)?;
    super::print(&args.format.render(&report))?;
    if args.format != Format::Text {
        for warning in &report.warnings {
            super::complain(&format!("warning: {}", report::escape::text(warning)));
        }
    }
    let failed = report.counts().failed;
    if failed > 0 {
        return Err(Incomplete(format!("{failed} threads could not be bound; the report names each")).into());
    }
    let unset = report.fences.iter().filter(|fence| matches!(fence.outcome, FenceOutcome::Failed(_))).count();
    if args.apply && unset > 0 {
        return Err(
            Incomplete(format!("cpuset.mems of {unset} cgroups was not set; the report names each")).into()
        );
    }
    if args.apply && unmet > 0 {
        return Err(Incomplete(format!(
            "{unmet} of the processes asked for by pid could not be bound; the warnings name them"
        ))
        .into());
    }
    if !settled {
        return Err(Incomplete(format!(
            "new threads kept turning up in each of {MAX_ROUNDS} scans, so some may not be bound; `numa-agent run` binds them as they are born"
        ))
        .into());
    }
    Ok(())
}

/// Warns of explicit pids that came to nothing, and gives them.
pub(super) fn unmet_pids(engine: &mut Engine, settings: &Settings) -> Vec<u32> {
    let asked = settings.group_pids.iter().chain(&settings.other_pids);
    let unmet: Vec<u32> = asked.filter(|pid| !engine.manages(**pid)).copied().collect();
    for pid in &unmet {
        let why = "no such process runs, or it is a kernel thread or the agent's own";
        engine.warn(format!("pid {pid} was asked for, but {why}"));
    }
    unmet
}

/// What is done with what is found.
pub(super) enum Hand {
    /// Nothing.
    Looks,
    /// It is put where it belongs; what it had goes into the journal first, if there is one.
    Binds(Option<Record>),
}

/// The journal, and what is known of who inherited what.
pub(super) struct Record {
    journal: Journal,
    lineage: Lineage,
    here: Here,
}

impl Record {
    fn new((journal, known): (Journal, Outstanding)) -> Self {
        Self { journal, lineage: Lineage::of(&known), here: Here::default() }
    }
}

impl Hand {
    /// Binds one thread.
    fn bind(&mut self, engine: &Engine, bind: &Bind) -> BindOutcome {
        let Self::Binds(Some(Record { journal, lineage, here })) = self else {
            return binding::place(&Host, (bind.task, bind.seen_ns), &bind.cpus, |_| Ok::<_, Infallible>(()));
        };
        let who = Who::of(bind, engine);
        let outcome = binding::place(&Host, (bind.task, bind.seen_ns), &bind.cpus, |before| {
            journal.before_task(&lineage.change(here, &who, before, &bind.cpus))
        });
        if let Some(change) = lineage.outcome(here, &who, &bind.cpus, &outcome)
            && let Err(error) = journal.before_task(&change)
        {
            tracing::warn!("what became of thread {} is not in the journal: {error}", bind.task.tid);
        }
        outcome
    }

    /// Writes down which masks of theirs the processes had that are about to be bound for the first time.
    fn find(&mut self, engine: &Engine) -> Result<(), JournalError> {
        let Self::Binds(Some(Record { journal, lineage, here })) = self else { return Ok(()) };
        let found = engine.processes().flat_map(|process| lineage.found(here, engine, process.facts.pid));
        found.collect::<Vec<_>>().iter().try_for_each(|change| journal.before_task(change))
    }
}

/// Looks at everything that runs, and binds it if asked to, until a scan finds nothing new. `false` if that never came.
pub(super) fn enforce(engine: &mut Engine, hand: &mut Hand) -> anyhow::Result<bool> {
    for _ in 0..MAX_ROUNDS {
        let scanner = Scanner {
            reader: ProcReader::new("/proc", engine.rules().needs()),
            rules: engine.rules().clone(),
            managed: engine.processes().map(|process| process.facts.pid).collect(),
            after_loss: false,
        };
        let scan = scanner.scan(&Host)?;
        for process in &scan.unread {
            engine.warn(procfs::unread_text(process.tid, None));
        }
        engine.make_room(&scan.snapshots);
        for snapshot in &scan.snapshots {
            engine.observe(snapshot, &Cause::Scan, None);
        }
        engine.sweep(&scan.alive, scan.as_of_ns);
        let pending = engine.pending(&Cause::Scan);
        if pending.is_empty() || matches!(hand, Hand::Looks) {
            return Ok(true);
        }
        hand.find(engine)?;
        for action in pending {
            if let Action::Bind(bind) = action {
                let outcome = hand.bind(engine, &bind);
                engine.record(&bind, outcome, sys::monotonic_ns());
            }
        }
    }
    Ok(false)
}

fn verify_memory(engine: &Engine, report: &mut BindReport) {
    let mut memory = memory_of(engine);
    for row in &mut report.processes {
        row.memory = memory.remove(&row.id);
    }
    report.warnings.extend(report.memory_warning());
}

/// Reads the memory of all processes, one after the other.
pub(super) fn memory_of(engine: &Engine) -> BTreeMap<TaskId, Verified> {
    let holders = engine.topology().memory_nodes();
    let start = Instant::now();
    let of = |process: &Process| {
        let left = numa_maps::PATIENCE.saturating_sub(start.elapsed());
        let read = match numa_maps::read(process.facts.id(), left) {
            // It is of no interest any more.
            Err(Unread::Gone) => return None,
            read => read.map_err(|why| why.to_string()),
        };
        let planned = engine.group_of(process).and_then(Group::memory_policy);
        Some((process.facts.id(), Verified::new(planned, read, &holders)))
    };
    engine.processes().filter_map(of).collect()
}

/// Why processes may not be seen that are there.
pub(super) fn unseen() -> Option<String> {
    let text = "in a pid namespace of its own none but its processes are seen: run it on the host, or in a container with the host's pids (hostPID, --pid=host)";
    (!sys::in_initial_pid_namespace()).then(|| text.to_owned())
}

/// What works against memory on the planned nodes.
pub(super) fn against_the_plan(engine: &Engine) -> Vec<String> {
    let groups = engine.plan().groups.iter();
    let planned = groups.flat_map(|group| group.mem_nodes.iter()).collect();
    match sysfs::conditions::read("/".as_ref()) {
        Ok(conditions) => {
            let concerns = conditions.concerns(&planned);
            concerns.iter().map(|concern| remedy::memory::finding(concern).warning()).collect()
        }
        Err(error) => vec![format!("what works against a memory plan is not known: {error}")],
    }
}

/// Where and when a report is made.
pub(super) fn host_facts() -> anyhow::Result<HostFacts> {
    let (hostname, kernel) = sys::uname().context("uname")?;
    Ok(HostFacts {
        hostname,
        kernel,
        time: sys::now_rfc3339(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

pub(super) fn report_of(engine: &Engine, applied: bool) -> anyhow::Result<BindReport> {
    Ok(BindReport {
        topology: engine.topology().clone(),
        plan: engine.plan().clone(),
        applied,
        processes: engine.processes().map(|process| process_row(engine, process)).collect(),
        fences: Vec::new(),
        warnings: engine.warnings(),
        host: host_facts()?,
    })
}

fn process_row(engine: &Engine, process: &Process) -> ProcessRow {
    let facts = &process.facts;
    ProcessRow {
        id: facts.id(),
        comm: facts.comm.clone(),
        cmdline: facts.cmdline.to_string(),
        role: process.role,
        group: engine.group_of(process).map(|group| group.name.clone()),
        instance: process.instance.as_ref().map(ToString::to_string),
        container: container::of(facts.id()),
        threads: process.threads.values().map(|thread| thread_row(engine, process, thread)).collect(),
        memory: None,
    }
}

fn thread_row(engine: &Engine, process: &Process, thread: &Thread) -> ThreadRow {
    let planned = engine.cpus_of(process, thread.role);
    ThreadRow {
        id: thread.id,
        comm: thread.comm.clone(),
        role: thread.role,
        planned_cpus: planned.clone(),
        actual_cpus: thread.actual.clone().unwrap_or_default(),
        outcome: match &thread.outcome {
            Some(BindOutcome::Failed { why, .. }) => Outcome::Failed(why.clone()),
            Some(BindOutcome::Bound(mask) | BindOutcome::Unchanged(mask))
                if thread.actual.as_ref() != Some(mask) =>
            {
                Outcome::Failed(format!(
                    "was put on {mask}, and moved again by somebody else; see who with `numa-agent run`"
                ))
            }
            Some(BindOutcome::Bound(_)) => Outcome::Bound,
            Some(BindOutcome::Spared { class, .. }) => Outcome::Spared(class),
            Some(BindOutcome::Unchanged(_)) => Outcome::Unchanged,
            _ if thread.actual.as_ref() == Some(planned) => Outcome::Unchanged,
            _ => Host.real_time(thread.id.tid).map_or(Outcome::Planned, Outcome::Spared),
        },
    }
}

/// Writes the report where the settings say.
fn write_report(settings: &Settings, report: &BindReport) -> anyhow::Result<()> {
    let path = Path::new(&settings.report);
    report_file::keep(path, settings.report_asked, &Format::of_path(path).render(report)).map(drop)
}
