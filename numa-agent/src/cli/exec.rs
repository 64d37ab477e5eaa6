//! `numa-agent exec`: a program inside the plan from its first instruction on.

use std::{
    collections::BTreeSet,
    ffi::{CString, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use anyhow::Context;
use clap::{Args, ValueHint};
use nix::errno::Errno;

use super::{UsageError, machine::MachineArgs, plan_args::PlanArgs};
use crate::{
    core::{
        engine::{Cause, Engine, Seat},
        idset::{CpuSet, NodeSet},
        launch::{Cpus, Ids, Placement},
        memory::{Mode, Policy},
        task::ProcessFacts,
        topology::Topology,
    },
    host::{
        launch,
        procfs::{self, ProcReader},
        scan::Scanner,
        sys::{self, Host, Kernel, OwnPolicy},
    },
    report::escape,
};

/// Flags of `exec`. Short ones are numactl's, and taskset's `-c`.
#[derive(Debug, Args)]
#[command(override_usage = "numa-agent exec [OPTIONS] [--] COMMAND...")]
pub struct ExecArgs {
    /// A group of the plan, by name: its members' CPUs, its memory. Or auto: the group that the plan has for the program.
    #[arg(long, value_name = "NAME|auto", conflicts_with_all = ["cpu_set", "memory_policy"])]
    group: Option<String>,
    /// CPUs: a list like 0-9,12, all, or those of nodes as node:0-1.
    #[arg(
        long,
        short = 'C',
        alias = "physcpubind",
        short_alias = 'c',
        value_name = "LIST",
        group = "cpu_set"
    )]
    cpus: Option<Cpus>,
    /// The CPUs of these nodes: a list, or all.
    #[arg(long, short = 'N', alias = "cpunodebind", value_name = "LIST", group = "cpu_set")]
    nodes: Option<Ids>,
    /// Memory from each of these nodes in turn: a list, or all.
    #[arg(long, short, value_name = "NODES", group = "memory_policy")]
    interleave: Option<Ids>,
    /// The same by the weights in /sys/kernel/mm/mempolicy/weighted_interleave; Linux 6.9.
    #[arg(long, short, value_name = "NODES", group = "memory_policy")]
    weighted_interleave: Option<Ids>,
    /// Memory from these nodes and no others.
    #[arg(long, short, value_name = "NODES", group = "memory_policy")]
    membind: Option<Ids>,
    /// Memory from this node while it has any; from several: Linux 5.15.
    #[arg(
        long,
        short,
        alias = "preferred-many",
        short_alias = 'P',
        value_name = "NODES",
        group = "memory_policy"
    )]
    preferred: Option<Ids>,
    /// Memory of the node that the touching CPU is on, as without any policy.
    #[arg(long, short, alias = "localalloc", group = "memory_policy")]
    local: bool,
    /// Fail where the kernel has but a near mode, or allows but a part of the plan.
    #[arg(long)]
    strict: bool,
    /// Show what comes of it, or without any of the above what is; run nothing.
    #[arg(long, short, visible_alias = "dry-run")]
    show: bool,
    /// Say on standard error what is set.
    #[arg(long, short)]
    verbose: bool,
    /// numactl's: ids are never relative to the inherited mask here, so there is nothing to be said by it.
    #[arg(long, short, hide = true)]
    all: bool,
    /// The program and its arguments.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
    #[command(flatten, next_help_heading = "The plan, with --group")]
    plan: PlanArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

/// The program could not be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {program}: {}", errno.desc())]
pub struct CannotExec {
    program: String,
    errno: Errno,
}

impl CannotExec {
    /// A shell's exit status for it.
    pub fn status(&self) -> u8 {
        if self.errno == Errno::ENOENT { 127 } else { 126 }
    }
}

/// Takes the place and becomes the program, or shows the place.
pub fn run(args: &ExecArgs) -> anyhow::Result<()> {
    if args.command.is_empty() && !args.show {
        return Err(UsageError("exec needs a command to run, or --show".to_owned()).into());
    }
    let topology = args.machine.topology()?;
    args.machine.check_applicable(&topology)?;
    let (name, placement) = args.placement(&topology)?;
    for note in launch::place(&Host, &placement, args.strict)? {
        super::complain(&format!("warning: {note}"));
    }
    if args.show {
        return super::print(&shown(name.as_deref(), &topology)?);
    }
    if args.verbose {
        let or_kept = |text: Option<String>| text.unwrap_or_else(|| "as they are".to_owned());
        super::complain(&format!(
            "{}CPUs {}, memory {}",
            name.map(|name| format!("{name}: ")).unwrap_or_default(),
            or_kept(placement.cpus.map(|cpus| cpus.to_string())),
            placement.policy.map_or("policy as it is".to_owned(), |policy| policy.to_string()),
        ));
    }
    become_program(&args.command)
}

fn become_program(command: &[OsString]) -> anyhow::Result<()> {
    let words: Result<Vec<CString>, _> = command.iter().map(|word| CString::new(word.as_bytes())).collect();
    let words = words.context("the command line")?;
    let program = words.first().context("the command line is empty")?;
    match sys::exec(program, &words) {
        Ok(never) => match never {},
        Err(errno) => Err(CannotExec { program: program.to_string_lossy().into_owned(), errno }.into()),
    }
}

impl ExecArgs {
    /// Where to, and the name of that place in the plan.
    fn placement(&self, topology: &Topology) -> anyhow::Result<(Option<String>, Placement)> {
        if let Some(group) = &self.group {
            let (name, placement) = self.planned(group, topology)?;
            return Ok((Some(name), placement));
        }
        if self.plan.any() {
            return Err(UsageError("flags of the plan are of use with --group alone".to_owned()).into());
        }
        let nodes = self.nodes.clone().map(Cpus::OfNodes);
        let cpus = self.cpus.as_ref().or(nodes.as_ref());
        let memory = self.memory();
        if cpus.is_none() && memory.is_none() && !self.show {
            let what = "say where: --group, --cpus or --nodes, --interleave, --weighted-interleave, --membind, --preferred, --local";
            return Err(UsageError(what.to_owned()).into());
        }
        let memory = memory.as_ref().map(|(mode, ids)| (*mode, ids));
        Ok((None, Placement::named(topology, cpus, memory)?))
    }

    fn memory(&self) -> Option<(Mode, Ids)> {
        let local = self.local.then_some(Ids::All);
        let all = [
            (Mode::Interleave, &self.interleave),
            (Mode::WeightedInterleave, &self.weighted_interleave),
            (Mode::Bind, &self.membind),
            (Mode::PreferredMany, &self.preferred),
            (Mode::Local, &local),
        ];
        all.into_iter().find_map(|(mode, ids)| Some((mode, ids.clone()?)))
    }

    fn planned(&self, group: &str, topology: &Topology) -> anyhow::Result<(String, Placement)> {
        let settings = self.plan.settings(None)?;
        let mut engine = Engine::new(topology.clone(), settings, procfs::own_processes("/proc".as_ref()))?;
        engine.pin_pids(|pid| Host.start_time(pid));
        let reader = ProcReader::new("/proc", engine.rules().needs());
        take_in(&mut engine, reader.clone())?;
        let group = if group == "auto" {
            let facts = self.future_facts(&reader).context("cannot read /proc/self")?;
            match engine.seat_of(&facts) {
                Some(Seat::Group(group)) => group,
                Some(Seat::Others(others)) => {
                    let placement = Placement { cpus: Some(others.cpus), ..Placement::default() };
                    return Ok(("background processes".to_owned(), placement));
                }
                None => {
                    let masks = masks(&reader)?;
                    let free = engine.free_group(|group| masks.contains(&group.primary_cpus));
                    free.context("the plan has no group")?.clone()
                }
            }
        } else {
            let groups = &engine.plan().groups;
            let found = groups.iter().find(|one| one.name == group);
            let names = || groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ");
            let unknown =
                || UsageError(format!("--group {group}: the plan has {}, and there is auto", names()));
            found.ok_or_else(unknown)?.clone()
        };
        Ok((group.name.clone(), Placement::of_group(&group)))
    }

    /// What will be known of this process once it is the program.
    fn future_facts(&self, reader: &ProcReader) -> Option<ProcessFacts> {
        let facts = reader.complete(reader.brief(std::process::id())?)?;
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        let name = words.first().map(|program| Path::new(program.as_ref()).file_name().unwrap_or_default());
        // As the kernel cuts it (`TASK_COMM_LEN`).
        let name: Vec<u8> = name.unwrap_or_default().as_bytes().iter().take(15).copied().collect();
        let comm = String::from_utf8_lossy(&name).into_owned();
        Some(ProcessFacts { comm, cmdline: words.join(" ").into(), exe: None, ..facts })
    }
}

/// Takes in what runs.
fn take_in(engine: &mut Engine, reader: ProcReader) -> anyhow::Result<()> {
    let (rules, managed) = (engine.rules().clone(), BTreeSet::new());
    let scan = Scanner { reader, rules, managed, after_loss: false }.scan(&Host)?;
    engine.make_room(&scan.snapshots);
    for snapshot in &scan.snapshots {
        engine.observe(snapshot, &Cause::Scan, None);
    }
    Ok(())
}

/// The CPUs that somebody's processes run on, by whole masks: not the kernel's own, and not ours.
fn masks(reader: &ProcReader) -> anyhow::Result<BTreeSet<CpuSet>> {
    let own = std::process::id();
    let others = reader.pids()?.into_iter().filter(|pid| *pid != own);
    let users = others.filter(|pid| reader.brief(*pid).is_some_and(|facts| !facts.kernel_thread));
    Ok(users.filter_map(|pid| Host.affinity(pid).ok()).collect())
}

/// What this thread has now: read from the kernel.
fn shown(name: Option<&str>, topology: &Topology) -> anyhow::Result<String> {
    let cpus = Host.affinity(0)?;
    let nodes = topology.nodes.iter().filter(|node| !node.cpus.intersection(&cpus).is_empty());
    let nodes: NodeSet = nodes.map(|node| node.id).collect();
    let policy = match Host.memory_policy() {
        Ok(policy) => policy.as_ref().map_or("unknown to numa-agent".to_owned(), Policy::to_string),
        Err(errno) => format!("cannot be read: {errno}"),
    };
    let group = name.map(|name| format!("group: {}\n", escape::text(name))).unwrap_or_default();
    Ok(format!(
        "{group}cpus: {cpus}\nnodes of these cpus: {nodes}\nmemory policy: {policy}\nnodes with memory for us: {}\n",
        topology.memory_nodes()
    ))
}
