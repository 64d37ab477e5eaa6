//! The tables, for text, Markdown and HTML alike: what the rows say. The form of names is the caller's `escape`.

use std::collections::BTreeSet;

use super::{
    digest::{Digest, Part, RoleOrder, ThreadView, role_name, role_word},
    units::{NOT_MEASURED, bytes, count, duration, or_not_measured, share},
};
use crate::{
    core::jitter::{
        distribution::{Distribution, Percentiles},
        figures::{Figures, Migrations, Occupant},
        recording::{Connection, ThreadRecord},
        rollup::Rollup,
        tokens::Gaps,
    },
    report::table::Table,
};

/// How a format escapes text from elsewhere, and cuts it.
pub(super) type Escape<'a> = &'a dyn Fn(&str) -> String;

/// Where a group's name would stand.
const NO_GROUP: &str = "-";
/// Where the longest or a percentile of nothing would stand.
const NONE: &str = "none";

/// A table with the number of rows that did not make it.
#[derive(Default)]
pub(super) struct Shown {
    pub table: Table,
    pub left_out: usize,
}

/// What matters most, by role.
pub(super) fn roles(digest: &Digest) -> Table {
    let head = ["Role", "Threads", "CPU time", "Off node", "p50", "p99", "p99.9", "Max", "Node moves"];
    let mut table = Table::new(&head).figures_from(1);
    for (role, part) in &digest.roles {
        let who = [
            role_name(*role, digest.planned()).into(),
            count(part.rollup.threads),
            duration(part.rollup.figures.run_ns),
        ];
        table.row_of([&who[..], &verdict_figures(part)].concat());
    }
    table
}

/// What decides: off node, run-queue wait (p50, p99, p99.9, longest), moves between nodes.
fn verdict_figures(part: &Part) -> [String; 6] {
    let [p50, _, p99, p999, max] = waits(part.wait);
    [off_node(&part.rollup), p50, p99, p999, max, node_moves(&part.rollup.figures)]
}

/// A kind of duration.
type Kind = (&'static str, fn(&Figures) -> &Distribution);

/// Every kind of duration, by role.
pub(super) fn durations(digest: &Digest) -> Table {
    let head = ["Duration", "Role", "Count", "p50", "p90", "p99", "p99.9", "Max"];
    let mut table = Table::new(&head).figures_from(2);
    let kinds: [Kind; 4] = [
        ("wait after wake-up", |figures| &figures.wake_wait),
        ("wait after preemption", |figures| &figures.preempt_wait),
        ("run slice", |figures| &figures.slice),
        ("time between runs", |figures| &figures.gap),
    ];
    for (kind, of) in kinds {
        for (role, part) in &digest.roles {
            let durations = of(&part.rollup.figures);
            let [p50, p90, p99, p999, max] = waits(durations.percentiles());
            table.row([
                kind.into(),
                role_word(*role, digest.planned()).into(),
                count(durations.count),
                p50,
                p90,
                p99,
                p999,
                max,
            ]);
        }
    }
    table
}

/// By group and role; nothing where there are no groups.
pub(super) fn groups(digest: &Digest, escape: Escape, most: usize) -> Shown {
    if !digest.grouped() {
        return Shown::default();
    }
    let head = ["Group", "Role", "Threads", "Off node", "p50", "p99", "p99.9", "Max", "Node moves"];
    let mut table = Table::new(&head).figures_from(2);
    for ((group, role), part) in digest.groups.iter().take(most) {
        let who = [
            group.map_or(NO_GROUP.into(), escape),
            role_word(*role, digest.planned()).into(),
            count(part.rollup.threads),
        ];
        table.row_of([&who[..], &verdict_figures(part)].concat());
    }
    Shown { table, left_out: digest.groups.len().saturating_sub(most) }
}

/// A title, and the figure that threads rank by.
pub(super) type Rank = (&'static str, fn(&ThreadView) -> Option<u64>);

/// Whom to look at first.
pub(super) const RANKS: [Rank; 3] = [
    ("Threads that waited longest", |view| view.wait.map(|wait| wait.p999_ns)),
    ("Threads that were off node longest", |view| view.thread.figures.off_node.map(|off| off.ns)),
    ("Threads that changed nodes most", |view| {
        view.thread.figures.migrations.as_ref().map(Migrations::between_nodes)
    }),
];

/// The worst threads by a figure, those where it is zero or was not measured left out.
pub(super) fn worst(digest: &Digest, (_, figure): Rank, escape: Escape, most: usize) -> Table {
    let head = ["Name", "TID", "Group", "Off node", "Longest off", "Wait p99.9", "Max wait", "Node moves"];
    let mut table = Table::new(&head).figures_from(3);
    for ThreadView { thread, wait } in digest.worst(most, figure) {
        let [_, _, _, p999, max] = waits(*wait);
        table.row([
            escape(&thread.comm),
            thread.tid.to_string(),
            thread.group.as_deref().map_or(NO_GROUP.into(), escape),
            off_node(&Rollup::of([*thread])),
            or_not_measured(thread.figures.off_node, |off| duration(off.longest_ns)),
            p999,
            max,
            node_moves(&thread.figures),
        ]);
    }
    table
}

/// Threads, those that waited longest first.
pub(super) fn threads(digest: &Digest, escape: Escape, most: usize) -> Shown {
    let head = [
        "Process",
        "TID",
        "Name",
        "Role",
        "Group",
        "Home",
        "CPU time",
        "Off node",
        "Longest off",
        "Off plan",
        "Before bind",
        "Wait p50",
        "p99",
        "p99.9",
        "Max",
        "Moves",
        "Node moves",
        "Interrupts",
    ];
    let mut table = Table::new(&head).figures_from(6);
    for ThreadView { thread, wait } in digest.threads.iter().take(most) {
        let figures = &thread.figures;
        let [p50, _, p99, p999, max] = waits(*wait);
        table.row([
            process(digest, thread.run, thread.pid, escape),
            thread.tid.to_string(),
            escape(&thread.comm) + if thread.ended { " (ended)" } else { "" },
            role_word(RoleOrder(thread.role), digest.planned()).into(),
            thread.group.as_deref().map_or(NO_GROUP.into(), escape),
            home(thread),
            duration(figures.run_ns),
            off_node(&Rollup::of([*thread])),
            or_not_measured(figures.off_node, |off| duration(off.longest_ns)),
            planned(digest, figures.off_plan_ns),
            planned(digest, figures.before_bind_ns),
            p50,
            p99,
            p999,
            max,
            or_not_measured(figures.migrations.as_ref(), |moves| count(moves.total())),
            node_moves(figures),
            or_not_measured(interrupts_ns(figures), duration),
        ]);
    }
    Shown { table, left_out: digest.threads.len().saturating_sub(most) }
}

/// Those who had the CPU while threads of a role waited.
pub(super) fn preemptors(figures: &Figures, escape: Escape, most: usize) -> Shown {
    let mut table = Table::new(&["Who ran instead", "CPU time", "Times"]).figures_from(1);
    for who in figures.preemptors.iter().take(most) {
        table.row([occupant(who, escape), duration(who.ns), count(who.count)]);
    }
    Shown { table, left_out: figures.preemptors.len().saturating_sub(most) }
}

/// Those who ran on critical threads' CPUs and are not followed.
pub(super) fn intruders(digest: &Digest, escape: Escape, most: usize) -> Shown {
    let all = digest.intruders();
    let mut table = Table::new(&["Intruder", "CPU time", "Times", "CPUs"]).figures_from(1);
    for (who, cpus) in all.iter().take(most) {
        table.row([occupant(who, escape), duration(who.ns), count(who.count), count(*cpus as u64)]);
    }
    Shown { table, left_out: all.len().saturating_sub(most) }
}

/// Time that interrupts took, and what NUMA balancing did, by role.
pub(super) fn kernel(digest: &Digest) -> Table {
    let head = ["Role", "IRQ time", "Longest IRQ", "Softirq time", "Longest softirq", "NUMA moves", "Swaps"];
    let mut table = Table::new(&head).figures_from(1);
    for (role, part) in &digest.roles {
        let Figures { irq, softirq, numa_balancing, .. } = &part.rollup.figures;
        table.row([
            role_name(*role, digest.planned()).into(),
            or_not_measured(irq.as_ref(), |irq| duration(irq.ns)),
            or_not_measured(irq.as_ref(), |irq| duration(irq.max_ns)),
            or_not_measured(softirq.as_ref(), |softirq| duration(softirq.ns)),
            or_not_measured(softirq.as_ref(), |softirq| duration(softirq.max_ns)),
            or_not_measured(numa_balancing.as_ref(), |kernel| count(kernel.moves)),
            or_not_measured(numa_balancing.as_ref(), |kernel| count(kernel.swaps)),
        ]);
    }
    table
}

/// Moves between CPUs by cause and by span, by role.
pub(super) fn causes(digest: &Digest) -> Table {
    let mut head: Vec<String> = vec!["Moves".into()];
    head.extend(digest.roles.keys().map(|role| role_name(*role, digest.planned()).to_owned()));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table = Table::new(&head).figures_from(1);
    for (name, of) in CAUSES.iter().chain(&SPANS) {
        let cells = digest.roles.values().map(|part| {
            let moves = part.rollup.figures.migrations.as_ref();
            or_not_measured(moves, |moves| count(of(moves)))
        });
        table.row_of(std::iter::once((*name).to_owned()).chain(cells).collect());
    }
    table
}

/// A number of moves.
pub(super) type Moves = (&'static str, fn(&Migrations) -> u64);

/// What moved threads.
pub(super) const CAUSES: [Moves; 5] = [
    ("by wake-up", |moves| moves.by_cause.wake_up),
    ("by load balancer", |moves| moves.by_cause.load_balancer),
    ("by NUMA balancing", |moves| moves.by_cause.numa_balancing),
    ("by affinity change", |moves| moves.by_cause.affinity),
    ("by exec", |moves| moves.by_cause.exec),
];

/// How far.
pub(super) const SPANS: [Moves; 5] = [
    ("within a core", |moves| moves.by_span.core),
    ("within a cluster", |moves| moves.by_span.cluster),
    ("within a node", |moves| moves.by_span.node),
    ("between nodes of a socket", |moves| moves.by_span.socket),
    ("between sockets", |moves| moves.by_span.machine),
];

/// Moves from node to node, a row for each node left; nothing where they were not measured or there is one node.
pub(super) fn matrix(digest: &Digest) -> Table {
    let Some(moves) = &digest.all.rollup.figures.migrations else { return Table::default() };
    let places = digest.places(moves);
    if places.len() < 2 {
        return Table::default();
    }
    let unit = digest.matrix_of();
    let mut head = vec![format!("From {unit}")];
    head.extend(places.iter().map(|id| format!("to {id}")));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table = Table::new(&head).figures_from(1);
    for from in &places {
        let cells = places.iter().map(|to| count(digest.moved(moves, *from, *to)));
        table.row_of(std::iter::once(from.to_string()).chain(cells).collect());
    }
    table
}

/// Memory by node, the largest processes first.
pub(super) fn memory(digest: &Digest, escape: Escape, most: usize) -> Shown {
    let mut all: Vec<_> = digest.recording.processes.iter().collect();
    all.sort_by_key(|process| {
        std::cmp::Reverse(process.memory.as_ref().map_or(0, |nodes| nodes.values().sum::<u64>()))
    });
    let nodes: BTreeSet<u32> =
        all.iter().filter_map(|process| process.memory.as_ref()).flat_map(|m| m.keys().copied()).collect();
    let mut head: Vec<String> = vec!["Process".into()];
    head.extend(nodes.iter().map(|node| format!("Node {node}")));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table = Table::new(&head).figures_from(1);
    for record in all.iter().take(most) {
        let cells = nodes.iter().map(|node| {
            or_not_measured(record.memory.as_ref(), |memory| {
                memory.get(node).map_or("0".into(), |b| bytes(*b))
            })
        });
        let process = process(digest, record.run, record.pid, escape);
        table.row_of(std::iter::once(process).chain(cells).collect());
    }
    Shown { table, left_out: all.len().saturating_sub(most) }
}

/// Gaps between sends, the connections that fluctuate most first.
pub(super) fn connections(digest: &Digest, escape: Escape, most: usize) -> Shown {
    let head = ["Process", "Ports", "Answers", "Gaps", "p50", "p99", "p99.9", "Max", "p99 - p50"];
    let mut all: Vec<(&Connection, Option<Percentiles>)> =
        digest.recording.connections.iter().map(|connection| (connection, gaps(connection))).collect();
    let fluctuation = |gaps: &Percentiles| gaps.p99_ns - gaps.p50_ns;
    all.sort_by_key(|(_, gaps)| std::cmp::Reverse(gaps.as_ref().map(fluctuation)));
    let mut table = Table::new(&head).figures_from(2);
    for (connection, gaps) in all.iter().take(most) {
        let [p50, _, p99, p999, max] = waits(*gaps);
        table.row([
            process(digest, connection.run, connection.pid, escape),
            format!("{} to {}", connection.local_port, connection.remote_port),
            count(connection.answers.len() as u64),
            count(connection.token_gaps().flatten().count() as u64),
            p50,
            p99,
            p999,
            max,
            gaps.as_ref().map_or(NONE.into(), |gaps| duration(fluctuation(gaps))),
        ]);
    }
    Shown { table, left_out: all.len().saturating_sub(most) }
}

/// Percentiles of the gaps between a connection's tokens, exact (nearest rank); `None` without any.
pub(super) fn gaps(connection: &Connection) -> Option<Percentiles> {
    let gaps: Gaps = connection.token_gaps().flatten().copied().collect();
    Some(Percentiles {
        p50_ns: gaps.percentile_ns(50.0)?,
        p90_ns: gaps.percentile_ns(90.0)?,
        p99_ns: gaps.percentile_ns(99.0)?,
        p999_ns: gaps.percentile_ns(99.9)?,
        max_ns: gaps.percentile_ns(100.0)?,
    })
}

/// Share of CPU time off node.
pub(super) fn off_node(threads: &Rollup) -> String {
    match (threads.figures.off_node, threads.off_node_share()) {
        (Some(_), Some(part)) => share(part),
        // Nothing ran.
        (Some(_), None) => NONE.into(),
        (None, _) => NOT_MEASURED.into(),
    }
}

/// Moves between nodes.
pub(super) fn node_moves(figures: &Figures) -> String {
    or_not_measured(figures.migrations.as_ref(), |moves| count(moves.between_nodes()))
}

/// Hardware interrupts and softirqs; `None` where neither was measured.
pub(super) fn interrupts_ns(figures: &Figures) -> Option<u64> {
    let known: Vec<u64> =
        [figures.irq, figures.softirq].into_iter().flatten().map(|stolen| stolen.ns).collect();
    (!known.is_empty()).then(|| known.iter().sum())
}

/// `worker 4242`, after the host where there are several.
pub(super) fn process(digest: &Digest, run: usize, pid: u32, escape: Escape) -> String {
    let comm = digest.process(run, pid).map_or("?".into(), |process| escape(&process.comm));
    match digest.recording.runs.get(run).filter(|_| digest.merged()) {
        Some(run) => format!("{} {comm} {pid}", escape(&run.host.name)),
        None => format!("{comm} {pid}"),
    }
}

/// A name, or that it stands for the rest.
pub(super) fn occupant(who: &Occupant, escape: Escape) -> String {
    who.comm.as_deref().map_or("(all others)".into(), escape)
}

/// Percentiles 50, 90, 99, 99.9 and the longest.
pub(super) fn waits(percentiles: Option<Percentiles>) -> [String; 5] {
    percentiles.map_or([NONE; 5].map(str::to_owned), |of| {
        [of.p50_ns, of.p90_ns, of.p99_ns, of.p999_ns, of.max_ns].map(duration)
    })
}

fn home(thread: &ThreadRecord) -> String {
    let nodes: Vec<String> = thread.home_nodes.iter().map(u32::to_string).collect();
    if nodes.is_empty() { "unknown".into() } else { format!("node {}", nodes.join(",")) }
}

/// What only a plan gives a meaning.
fn planned(digest: &Digest, ns: Option<u64>) -> String {
    if digest.planned() { or_not_measured(ns, duration) } else { "no plan".into() }
}
