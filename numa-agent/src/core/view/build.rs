//! [`Status`] and [`Snapshot`] from what the agent knows: the engine's state, and two readings of all accounts.
//!
//! [`status`] is for the agent's own loop, and cheap. [`snapshot`] unpacks every account twice, and is for another thread.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use numa_ebpf::account::{Account, MATRIX};

use super::{
    Agent, Counts, CriticalWaits, Group, LISTED, Node, Place, Process, SCHEMA, Snapshot, Socket, Status,
    Thread,
    gained::{self, Gained, Read},
    load::CpuTimes,
};
use crate::core::{
    engine::{self, Engine},
    health::DropCounts,
    idset::CpuSet,
    jitter::{
        account::{Measured, Reader},
        draft::Kept,
        figures::Move,
        homes::Home,
        observer::Moves,
        places::Places,
    },
    stats::Stats,
    task::{TaskId, ThreadRole},
    topology::Topology,
};

/// What the agent's loop knows.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Plan and processes.
    pub engine: &'a Engine,
    /// Whether threads belong where the plan says; else there is none to show.
    pub planned: bool,
    /// What was done.
    pub stats: &'a Stats,
    /// What was lost in the kernel.
    pub lost: &'a DropCounts,
    /// Events that made no sense.
    pub unreadable: u64,
}

/// All accounts at one moment, with the agent's state.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The state.
    pub status: Status,
    /// The moment, in monotonic nanoseconds.
    pub at_ns: u64,
    /// The threads that lived as they were read.
    pub threads: Vec<Arc<Kept>>,
    /// Those that ended between that and the moment.
    pub ended: BTreeSet<TaskId>,
    /// All moves of all threads that had ended by then.
    pub moves_of_ended: Moves,
    /// Where each CPU is.
    pub places: Arc<Places>,
    /// What is measured.
    pub measured: Measured,
    /// Time of each CPU.
    pub cpus: Option<CpuTimes>,
}

/// The state; the time of day is left to who has a clock.
#[must_use]
pub fn status(known: &Known<'_>, agent: Agent) -> Status {
    let (engine, topology) = (known.engine, known.engine.topology());
    let mut groups: Vec<Group> = Vec::new();
    let (mut others, mut policy) = (None, None);
    if known.planned {
        let plan = engine.plan();
        policy = Some(plan.policy.to_string());
        others = Some(place(&plan.others.cpus, topology));
        groups.extend(plan.groups.iter().map(|group| Group {
            name: group.name.clone(),
            socket: group.socket,
            members: place(&group.primary_cpus, topology),
            forward: place(&group.forward_cpus, topology),
            memory: group.memory_policy().map(|policy| policy.to_string()),
            instance: None,
            processes: Vec::new(),
        }));
    }
    let index: HashMap<String, usize> =
        groups.iter().enumerate().map(|(index, group)| (group.name.clone(), index)).collect();
    let (mut background, mut counts) = (Vec::new(), counts(known));
    let mut instances = BTreeSet::new();
    // Threads by group and role.
    let mut roles: BTreeMap<(Option<usize>, ThreadRole), u64> = BTreeMap::new();
    for process in engine.processes() {
        let group = known.planned.then(|| engine.group_of(process)).flatten();
        let group = group.and_then(|group| index.get(&group.name)).copied();
        for thread in process.threads.values() {
            *roles.entry((group, thread.role)).or_default() += 1;
        }
        counts.processes += 1;
        counts.threads += process.threads.len() as u64;
        let shown = shown(process);
        let Some((index, group)) = group.and_then(|index| Some((index, groups.get_mut(index)?))) else {
            background.push(shown);
            continue;
        };
        if let Some(instance) =
            process.instance.as_ref().filter(|instance| instances.insert((index, *instance)))
        {
            match &mut group.instance {
                known @ None => *known = Some(instance.to_string()),
                // Several share it where there are more than groups.
                Some(known) => *known += &format!(", {instance}"),
            }
        }
        group.processes.push(shown);
    }
    let mut sockets = sockets(topology);
    for ((group, role), threads) in roles {
        let place = match (group.and_then(|group| groups.get(group)), role) {
            (Some(group), ThreadRole::Member) => Some(&group.members),
            (Some(group), ThreadRole::Forward) => Some(&group.forward),
            _ => others.as_ref(),
        };
        let cpus = place.map(|place| &place.cpus);
        for node in sockets.iter_mut().flat_map(|socket| &mut socket.nodes) {
            if cpus.is_some_and(|cpus| !cpus.intersection(&node.cpus).is_empty()) {
                *node.planned.entry(role).or_default() += threads;
            }
        }
    }
    let agent = Agent { policy, ..agent };
    let warnings = engine.warnings();
    let drift = engine.drift();
    Status {
        schema: SCHEMA,
        at: String::new(),
        agent,
        sockets,
        groups,
        others,
        background,
        counts,
        drift,
        warnings,
    }
}

fn counts(known: &Known<'_>) -> Counts {
    let owned = |map: BTreeMap<&'static str, u64>| {
        map.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    };
    let lost = known.lost.iter().filter(|(_, count)| *count > 0);
    Counts {
        processes: 0,
        threads: 0,
        results: owned(known.stats.results()),
        bound_by_cause: owned(known.stats.causes()),
        scans: known.stats.scans,
        lost: lost.map(|(name, count)| (name.to_owned(), count)).collect(),
        unreadable: known.unreadable,
        hold: known.stats.holds.text().is_some().then(|| known.stats.holds.clone()),
    }
}

fn shown(process: &engine::Process) -> Process {
    Process {
        pid: process.facts.pid,
        start_time: process.facts.start_time,
        comm: process.facts.comm.clone(),
        role: process.role,
        threads: process.threads.len() as u64,
    }
}

fn place(cpus: &CpuSet, topology: &Topology) -> Place {
    let on = topology.nodes.iter().filter(|node| !node.cpus.intersection(cpus).is_empty());
    Place { cpus: cpus.clone(), nodes: on.map(|node| node.id).collect() }
}

fn sockets(topology: &Topology) -> Vec<Socket> {
    let node = |id: u32, cpus: &CpuSet| Node {
        id,
        cpus: cpus.clone(),
        memory_bytes: topology.node(id).and_then(|node| node.memory_bytes),
        planned: BTreeMap::new(),
        present: None,
        strangers: None,
    };
    let mut sockets: Vec<Socket> = Vec::new();
    for socket in &topology.sockets {
        let nodes = socket.nodes.iter().map(|of| node(of.id, &of.cpus)).collect();
        sockets.push(Socket { id: socket.id, nodes });
    }
    for memory in topology.nodes.iter().filter(|node| node.cpus.is_empty()) {
        let with_cpus = topology.nodes.iter().filter(|node| !node.cpus.is_empty());
        let nearest =
            with_cpus.min_by_key(|node| memory.distances.get(&node.id).copied().unwrap_or(u32::MAX));
        let is_there = |socket: &&mut Socket| {
            nearest.is_some_and(|nearest| socket.nodes.iter().any(|node| node.id == nearest.id))
        };
        if let Some(socket) = sockets.iter_mut().find(is_there) {
            socket.nodes.push(node(memory.id, &memory.cpus));
        }
    }
    sockets
}

/// What happened between two readings. Threads that ended in between count in the moves, and are not listed.
#[must_use]
pub fn snapshot(before: &Reading, now: &Reading) -> Snapshot {
    let reader = Reader { places: &now.places, measured: now.measured, began_ns: 0 };
    let known: HashMap<TaskId, &Arc<Kept>> =
        before.threads.iter().map(|thread| (thread.task, thread)).collect();
    let mut status = now.status.clone();
    let mut seats = Seats::new(&mut status.sockets, now.measured.times);
    let mut rows = Vec::new();
    let mut critical = CriticalWaits { threads: 0, longest_ns: now.measured.times.then_some(0) };
    for thread in now.threads.iter().filter(|thread| !now.ended.contains(&thread.task)) {
        let account = thread.account.account();
        let earlier = earlier(&known, &before.threads, thread, &account);
        let unpacked = earlier.as_ref().map(|(account, at_ns)| Read { account, at_ns: *at_ns });
        let read = Read { account: &account, at_ns: thread.read_at_ns };
        let gained = Gained::between(unpacked, read, thread.home.as_deref(), &reader);
        let cpu = has_run(&account).then_some(account.cpu);
        if thread.labels.role == ThreadRole::Forward {
            critical.threads += 1;
            let waited = || gained::waits(earlier.as_ref().map(|(account, _)| account), &account).max_ns;
            critical.longest_ns = critical.longest_ns.map(|longest| longest.max(waited()));
        }
        seats.take(cpu, thread.home.as_deref(), &now.places);
        let home = thread.home.as_deref();
        let off_plan = cpu.zip(home).is_some_and(|(cpu, home)| !is_in(&home.set.cpus, cpu));
        rows.push(Row { thread, gained, cpu, off_plan });
    }
    let off_plan = rows.iter().filter(|row| row.off_plan).count() as u64;
    rows.sort_by_cached_key(Row::rank);
    let all = status.counts.threads.max(rows.len() as u64);
    rows.truncate(LISTED);
    let threads: Vec<Thread> = rows
        .into_iter()
        .map(|row| {
            let account = row.thread.account.account();
            let earlier = earlier(&known, &before.threads, row.thread, &account);
            listed(row, earlier.map(|(account, _)| account).as_ref(), &account, &reader)
        })
        .collect();
    Snapshot {
        status,
        seconds: now.at_ns.saturating_sub(before.at_ns) as f64 / 1e9,
        load: now.cpus.as_ref().zip(before.cpus.as_ref()).map(|(now, before)| now.since(before)),
        matrix_of: now.places.matrix_of().to_owned(),
        moves: now.measured.migrations.then(|| moves(before, now)),
        unlisted: all - threads.len() as u64,
        off_plan,
        critical,
        threads,
    }
}

/// The account as it was read before: a recycled tid has another, and the leader's goes on as that of a thread which calls
/// `execve`.
fn earlier(
    known: &HashMap<TaskId, &Arc<Kept>>,
    before: &[Arc<Kept>],
    now: &Kept,
    account: &Account,
) -> Option<(Account, u64)> {
    let same = |thread: &Kept| {
        let before = thread.account.account();
        ((before.tgid, before.opened_at_ns) == (account.tgid, account.opened_at_ns))
            .then_some((before, thread.read_at_ns))
    };
    let by_name = known.get(&now.task).and_then(|thread| same(thread));
    let is_leader = now.task == now.labels.process.id;
    let taken_over = || {
        let process = before.iter().filter(|thread| thread.labels.process.id.tid == now.task.tid);
        process.filter(|_| is_leader && account.opened_at_ns > 0).find_map(|thread| same(thread))
    };
    let old = before.first().is_some_and(|thread| account.opened_at_ns < thread.read_at_ns);
    by_name.or_else(|| if old { taken_over() } else { None })
}

/// Whether it has had a CPU since its account was opened.
fn has_run(account: &Account) -> bool {
    account.running_since_ns > 0 || account.stopped_at_ns > 0
}

struct Row<'a> {
    thread: &'a Arc<Kept>,
    gained: Gained,
    cpu: Option<u32>,
    off_plan: bool,
}

fn is_in(cpus: &[u64], cpu: u32) -> bool {
    cpus.get(cpu as usize / 64).is_some_and(|word| word >> (cpu % 64) & 1 == 1)
}

impl Row<'_> {
    /// The least comes first.
    fn rank(&self) -> impl Ord + use<> {
        let Gained { run_ns, off_node_ns, migrations, node_migrations, wait_ns, .. } = self.gained;
        let most = [
            off_node_ns.unwrap_or(0),
            node_migrations.unwrap_or(0),
            migrations.unwrap_or(0),
            wait_ns,
            run_ns.unwrap_or(0),
        ];
        let matters = self.off_plan || self.thread.labels.role == ThreadRole::Forward;
        (!matters, !self.off_plan, most.map(std::cmp::Reverse), self.thread.task)
    }
}

fn listed(row: Row<'_>, before: Option<&Account>, now: &Account, reader: &Reader<'_>) -> Thread {
    let Row { thread, gained, cpu, .. } = row;
    let places = reader.places;
    let waits = reader.measured.times.then(|| gained::waits(before, now));
    let labels = &thread.labels;
    let planned = thread
        .home
        .as_ref()
        .map(|home| Place { cpus: CpuSet::from_words(&home.set.cpus), nodes: places.nodes_of(&home.set) });
    Thread {
        pid: labels.process.id.tid,
        tid: thread.task.tid,
        start_time: thread.task.start_time,
        comm: labels.comm.clone(),
        process: labels.process.comm.clone(),
        role: labels.role,
        group: labels.process.group.clone(),
        planned,
        cpu,
        node: cpu.and_then(|cpu| places.node_of(cpu)).and_then(|index| places.node(index)),
        run_ns: gained.run_ns,
        off_node_ns: gained.off_node_ns,
        migrations: gained.migrations,
        node_migrations: gained.node_migrations,
        waits: waits.as_ref().map(|waits| waits.count),
        wait_p99_ns: waits.as_ref().map(|waits| waits.quantile_ns(0.99).unwrap_or(0)),
        wait_max_ns: waits.as_ref().map(|waits| waits.max_ns),
        preemptor: gained::preemptor(before, now),
    }
}

/// Where threads are, by node.
struct Seats<'a> {
    nodes: Vec<&'a mut Node>,
    by_cpu: HashMap<u32, usize>,
}

impl<'a> Seats<'a> {
    /// Nobody has been seen yet, if anybody can be.
    fn new(sockets: &'a mut [Socket], measured: bool) -> Self {
        let mut nodes: Vec<&mut Node> = sockets.iter_mut().flat_map(|socket| &mut socket.nodes).collect();
        let nobody = measured.then_some(0);
        nodes.iter_mut().for_each(|node| (node.present, node.strangers) = (nobody, nobody));
        let of = |(index, node): (usize, &&mut Node)| {
            node.cpus.iter().map(move |cpu| (cpu, index)).collect::<Vec<_>>()
        };
        let by_cpu = nodes.iter().enumerate().flat_map(of).collect();
        Self { nodes, by_cpu }
    }

    fn take(&mut self, cpu: Option<u32>, home: Option<&Home>, places: &Places) {
        let Some(cpu) = cpu else { return };
        let Some(node) = self.by_cpu.get(&cpu).and_then(|index| self.nodes.get_mut(*index)) else { return };
        node.present = node.present.map(|present| present + 1);
        let at_home = |home: &Home| places.node_of(cpu).is_some_and(|node| home.set.has_node(node));
        let is_stranger = home.is_some_and(|home| !at_home(home));
        node.strangers = node.strangers.map(|strangers| strangers + u64::from(is_stranger));
    }
}

/// Moves in between: those of all threads by now, less those of all by then.
fn moves(before: &Reading, now: &Reading) -> Vec<Move> {
    let (before, now_all) = (all_moves(before), all_moves(now));
    let cell = |(cell, (now_count, before)): (usize, (&u64, &u64))| {
        let count = now_count.checked_sub(*before).filter(|count| *count > 0)?;
        let (from, to) = (now.places.row(cell / MATRIX)?, now.places.row(cell % MATRIX)?);
        Some(Move { from, to, count })
    };
    now_all.iter().zip(&before).enumerate().filter_map(cell).collect()
}

fn all_moves(reading: &Reading) -> Moves {
    let mut sum = reading.moves_of_ended;
    for thread in reading.threads.iter().filter(|thread| !reading.ended.contains(&thread.task)) {
        sum.iter_mut().zip(thread.account.account().moves).for_each(|(sum, count)| *sum += u64::from(count));
    }
    sum
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
