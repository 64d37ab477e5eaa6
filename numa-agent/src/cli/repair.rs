//! `numa-agent repair`: memory of running processes, moved to where the plan has it.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{Format, Incomplete, UsageError, bind, machine::MachineArgs, plan_args::PlanArgs};
use crate::{
    core::{
        engine::Engine,
        memory::{
            Policy,
            verify::{LEAST_BALANCE, LEAST_BYTES, LEAST_ON_PLAN, Spread},
        },
        plan::Group,
        task::TaskId,
        view,
    },
    host::{
        critical::Critical,
        procfs,
        repair::{self, Manner, Moved, Next, Repair, RepairError, Threads},
        sys::{Host, Kernel},
    },
    report::{
        escape,
        table::Table,
        units::{self, counted},
    },
    view::signals::{self, Signals},
};

/// How long a thread may take to come to where its policy can be set.
const THREAD_PATIENCE: Duration = Duration::from_secs(2);

/// What may stay where it is of a process, however small: pages that cannot be moved are in each.
const FEW_BYTES: f64 = (1 << 20) as f64;

/// Between two words of progress, on a terminal and elsewhere.
const PROGRESS_PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Flags of `repair`.
#[derive(Debug, Args)]
#[command(after_help = "\
Pages come to all of a group's nodes in turn, 2 MiB at a time; those that are on one of them stay, unless that leaves the nodes out of \
balance. Pages of files stay where they are.

Exit status: 0 if what was found is on plan now, or nothing was to be changed; 1 if some of it could not be moved or set, or after ctrl-c; \
2 bad usage.")]
pub struct RepairArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    machine: MachineArgs,
    /// Only this process of those in the plan. Repeatable.
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Only the processes of this group, as `bind` calls it. Repeatable.
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// Move now. Without it nothing is changed.
    #[arg(long)]
    apply: bool,
    /// Also set the group's memory policy in every thread, so that new pages come from where they should. Each is stopped for that for
    /// an instant, and runs the system call itself (ptrace).
    #[arg(long)]
    set_policy: bool,
    /// How long the pages that are moved at a time may take: who touches one of them waits no longer.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = humantime::parse_duration)]
    max_pause: Duration,
    /// The share of the time in which pages are moved, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100))]
    duty: u64,
    /// Pause when a critical thread waited longer than that for a CPU, until it is calm, and go slower then; by what the running agent
    /// measures.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_wait: Option<Duration>,
    /// Where the agent listens whose word --max-wait goes by.
    #[arg(long, value_name = "PATH", default_value = view::SOCKET)]
    socket: PathBuf,
    /// Also move pages that other processes have mapped.
    #[arg(long)]
    shared: bool,
    /// Format of standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A process of the plan, and what became of it.
struct Row {
    process: TaskId,
    comm: String,
    group: String,
    policy: Policy,
    moved: Moved,
    threads: Option<Threads>,
    error: Option<String>,
}

/// Finds out what is where, moves it if asked to, reports.
pub fn run(args: &RepairArgs) -> anyhow::Result<()> {
    let settings = args.plan.settings(None)?;
    let topology = args.machine.topology()?;
    if args.apply {
        args.machine.check_applicable(&topology)?;
    }
    if args.max_pause.is_zero() {
        return Err(UsageError("--max-pause 0: nothing can be moved in no time".to_owned()).into());
    }
    if args.max_wait.is_some_and(|max_wait| max_wait.is_zero()) {
        return Err(UsageError("--max-wait 0: no thread gets a CPU in no time".to_owned()).into());
    }
    let critical = args.max_wait.map(|max_wait| Critical::watch(&args.socket, max_wait)).transpose();
    let mut critical = critical.context("--max-wait goes by what a running agent measures")?;
    let group_pids = settings.group_pids.clone();
    let mut engine = Engine::new(topology, settings, procfs::own_processes("/proc".as_ref()))?;
    engine.pin_pids(|pid| Host.start_time(pid));
    bind::enforce(&mut engine, &mut bind::Hand::Looks)?;
    let mut rows = chosen(args, &engine)?;
    // Who has ended is no reason not to see to the others.
    let ended = args.pid.iter().chain(&group_pids).filter(|pid| Host.start_time(**pid).is_none());
    let ended: Vec<String> = ended.map(|pid| format!("there is no process {pid}")).collect();
    if let Some(words) = ended.first().filter(|_| rows.is_empty()) {
        return Err(UsageError(words.clone()).into());
    }
    let mut warnings = engine.warnings();
    warnings.extend(ended);
    warnings.extend(bind::against_the_plan(&engine));
    let signals = signals::watch(|| {}, Duration::MAX, || {}).context("signals cannot be watched")?;
    for row in &mut rows {
        if !signals.end() {
            repair(args, row, &signals, critical.as_mut());
        }
    }
    if critical.is_some_and(|critical| !critical.any()) {
        warnings.push(
            "--max-wait: the agent has seen no critical thread meanwhile, so nothing was slowed down"
                .to_owned(),
        );
    }
    super::print(&match args.format {
        Format::Text => text(args, &rows),
        Format::Json => crate::report::json::print(&to_json(args, &rows, &warnings)),
    })?;
    for warning in &warnings {
        super::complain(&format!("warning: {}", escape::text(warning)));
    }
    verdict(args, &rows, &signals)
}

/// The processes that are asked for.
fn chosen(args: &RepairArgs, engine: &Engine) -> anyhow::Result<Vec<Row>> {
    let known = |name: &&String| !engine.plan().groups.iter().any(|group| group.name == **name);
    if let Some(name) = args.group.iter().find(known) {
        let names: Vec<&str> = engine.plan().groups.iter().map(|group| group.name.as_str()).collect();
        let names = names.join(", ");
        return Err(
            UsageError(format!("--group {name}: the plan has no such group; its groups: {names}")).into()
        );
    }
    let mut rows = Vec::new();
    for process in engine.processes() {
        let Some(group) = engine.group_of(process) else { continue };
        let facts = &process.facts;
        let asked = (args.pid.is_empty() || args.pid.contains(&facts.pid))
            && (args.group.is_empty() || args.group.contains(&group.name));
        let Some(policy) = Group::memory_policy(group).filter(|_| asked) else { continue };
        rows.push(Row {
            process: facts.id(),
            comm: facts.comm.clone(),
            group: group.name.clone(),
            policy,
            moved: Moved::default(),
            threads: None,
            error: None,
        });
    }
    let stranger =
        |pid: &&u32| Host.start_time(**pid).is_some() && !rows.iter().any(|row| row.process.tid == **pid);
    if let Some(pid) = args.pid.iter().find(stranger) {
        return Err(UsageError(format!(
            "--pid {pid}: the plan has no group for it; name it with --group-pid, or its program with --group-pattern"
        ))
        .into());
    }
    Ok(rows)
}

fn repair(args: &RepairArgs, row: &mut Row, signals: &Arc<Signals>, mut critical: Option<&mut Critical>) {
    if args.apply && args.set_policy {
        let go_on = || !signals.end();
        row.threads = Some(repair::set_policy(row.process, &row.policy, THREAD_PATIENCE, go_on));
    }
    let manner = Manner { max_pause: args.max_pause, shared: args.shared };
    let nodes = row.policy.nodes.clone();
    let result = Repair::look(row.process, &nodes).and_then(|mut repair| {
        let done = if args.apply {
            let mut progress = Progress::new(row.process.tid);
            let done = repair.run(&manner, |moved| {
                let next = match &mut critical {
                    _ if signals.end() => Next::End("interrupted".to_owned()),
                    None => Next::Move { duty_percent: args.duty },
                    Some(critical) => critical.next(args.duty),
                };
                progress.show(moved, &next);
                next
            });
            progress.end(&repair.moved);
            done
        } else {
            Ok(())
        };
        row.moved = repair.moved;
        done
    });
    row.error = match result {
        // An outcome like any other.
        Ok(()) | Err(RepairError::Gone { .. }) => None,
        Err(error) => Some(error.to_string()),
    };
}

/// What is said on standard error meanwhile: one line that changes on a terminal, else a line now and then.
struct Progress {
    pid: u32,
    start: Instant,
    told: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new(pid: u32) -> Self {
        Self { pid, start: Instant::now(), told: None, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, moved: &Moved, next: &Next) {
        let pause = PROGRESS_PAUSES[usize::from(!self.terminal)];
        let since = self.told.unwrap_or(self.start);
        if since.elapsed() >= pause {
            self.told = Some(Instant::now());
            let halted = if *next == Next::Halt { ", paused: critical threads wait" } else { "" };
            let line = self.line(moved) + halted;
            let end = if self.terminal { "\x1b[K\r" } else { "\n" };
            let _ = write!(std::io::stderr(), "{line}{end}");
        }
    }

    fn end(&self, moved: &Moved) {
        if self.told.is_some() {
            let _ = writeln!(
                std::io::stderr(),
                "{}{}",
                self.line(moved),
                if self.terminal { "\x1b[K" } else { "" }
            );
        }
    }

    fn line(&self, moved: &Moved) -> String {
        const WIDTH: usize = 20;
        let share = moved.moved_bytes as f64 / moved.wrong_bytes.max(1) as f64;
        let full = ((share * WIDTH as f64) as usize).min(WIDTH);
        let rate = moved.moved_bytes as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        format!(
            "process {}: [{}{}] {} of {}, {}/s, longest pause {}",
            self.pid,
            "#".repeat(full),
            ".".repeat(WIDTH - full),
            units::bytes(moved.moved_bytes),
            units::bytes(moved.wrong_bytes),
            units::bytes(rate as u64),
            units::duration(moved.longest_pause_ns),
        )
    }
}

impl Row {
    /// What it comes to, in a word or a sentence.
    fn result(&self, applied: bool) -> String {
        if let Some(error) = &self.error {
            return format!("failed: {error}");
        }
        if let Some(why) = &self.moved.stopped {
            return format!("stopped: {why}");
        }
        match self.moved.wrong_bytes {
            _ if self.moved.before.is_empty() => "gone".to_owned(),
            0 => "on plan".to_owned(),
            _ if !applied => "planned".to_owned(),
            _ if self.is_on_plan() => if self.moved.moved_bytes > 0 { "moved" } else { "on plan" }.to_owned(),
            _ => "failed: not all could be moved".to_owned(),
        }
    }

    /// As `bind --memory` judges it, but for a few pages of a small process.
    fn is_on_plan(&self) -> bool {
        let Moved { after, .. } = &self.moved;
        let spread = Spread::of(after, &self.policy.nodes);
        let total: u64 = after.values().sum();
        let strayed = (1.0 - spread.on_plan.unwrap_or(1.0)) * total as f64;
        let enough = strayed <= FEW_BYTES.max((1.0 - LEAST_ON_PLAN) * total as f64);
        enough && (total < LEAST_BYTES || spread.balance.is_none_or(|balance| balance >= LEAST_BALANCE))
    }

    fn is_done(&self) -> bool {
        let refused = self.threads.as_ref().is_some_and(|threads| !threads.refused.is_empty());
        !refused && self.error.is_none() && self.moved.stopped.is_none() && self.is_on_plan()
    }
}

fn text(args: &RepairArgs, rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "PID",
        "NAME",
        "GROUP",
        "NODES",
        "MIB BEFORE",
        "TO MOVE",
        "MOVED",
        "MIB AFTER",
        "RESULT",
    ]);
    let by_node = |bytes: &std::collections::BTreeMap<u32, u64>| {
        let words: Vec<String> =
            bytes.iter().map(|(node, bytes)| format!("{node}:{}", bytes >> 20)).collect();
        words.join(" ")
    };
    for row in rows {
        table.row([
            row.process.tid.to_string(),
            escape::text(&row.comm),
            row.group.clone(),
            row.policy.nodes.to_string(),
            by_node(&row.moved.before),
            units::bytes(row.moved.wrong_bytes),
            units::bytes(row.moved.moved_bytes),
            by_node(&row.moved.after),
            escape::text(&row.result(args.apply)),
        ]);
    }
    let mut out =
        if table.is_empty() { "no process of the plan runs\n".to_owned() } else { table.aligned("") };
    for row in rows {
        let pid = row.process.tid;
        for (why, pages) in &row.moved.unmoved {
            out += &format!("process {pid}: {} not moved: {why}\n", counted(*pages, "page", "s"));
        }
        if row.moved.batches > 0 {
            out += &format!(
                "process {pid}: {}, the longest took {}, and held somebody up for {} at most\n",
                counted(row.moved.batches, "batch", "es"),
                units::duration(row.moved.longest_ns),
                units::duration(row.moved.longest_pause_ns)
            );
        }
        if row.moved.halts > 0 {
            out += &format!(
                "process {pid}: paused {} while critical threads waited, for {} in all\n",
                counted(row.moved.halts, "time", "s"),
                units::duration(row.moved.halted_ns)
            );
        }
        if let Some(threads) = &row.threads {
            out += &format!("process {pid}: {} under {}\n", counted(threads.set, "thread", "s"), row.policy);
            for refused in &threads.refused {
                out += &format!("process {pid}: not set: {}\n", escape::text(refused));
            }
        }
    }
    if !args.apply {
        out += "dry run: nothing was changed; --apply moves\n";
    }
    out
}

fn to_json(args: &RepairArgs, rows: &[Row], warnings: &[String]) -> Value {
    let process = |row: &Row| {
        let moved = &row.moved;
        json!({
            "pid": row.process.tid,
            "start_time": row.process.start_time,
            "comm": row.comm,
            "group": row.group,
            "policy": row.policy.mode.name(),
            "mem_nodes": row.policy.nodes,
            "nodes_before": moved.before,
            "nodes_after": moved.after,
            "wrong_bytes": moved.wrong_bytes,
            "moved_bytes": moved.moved_bytes,
            "unmoved_pages": moved.unmoved,
            "batches": moved.batches,
            "longest_batch_ns": moved.longest_ns,
            "longest_pause_ns": moved.longest_pause_ns,
            "halts": moved.halts,
            "halted_ns": moved.halted_ns,
            "threads": row.threads.as_ref().map(|threads| json!({"set": threads.set, "refused": threads.refused})),
            "result": row.result(args.apply),
        })
    };
    json!({
        "schema": 1,
        "applied": args.apply,
        "max_pause_ns": args.max_pause.as_nanos() as u64,
        "max_wait_ns": args.max_wait.map(|max_wait| max_wait.as_nanos() as u64),
        "processes": rows.iter().map(process).collect::<Vec<Value>>(),
        "warnings": warnings,
    })
}

fn verdict(args: &RepairArgs, rows: &[Row], signals: &Signals) -> anyhow::Result<()> {
    if signals.end() {
        return Err(Incomplete("interrupted: what was moved stays where it is now".to_owned()).into());
    }
    let left =
        rows.iter().filter(|row| if args.apply { !row.is_done() } else { row.error.is_some() }).count();
    if left > 0 {
        return Err(Incomplete(format!(
            "the memory of {} is not all as planned; the output names each",
            counted(left as u64, "process", "es")
        ))
        .into());
    }
    Ok(())
}
