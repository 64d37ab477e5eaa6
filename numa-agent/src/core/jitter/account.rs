//! From a thread's account, as the kernel side keeps it, to its figures.

use numa_ebpf::{
    account::{Account, MATRIX, cause, duration, span},
    place::CpuState,
    record::COMM_LEN,
};

use super::{
    distribution::Distribution,
    figures::{
        ByCause, BySpan, Figures, Migrations, Move, NumaBalancing, Occupant, OffNode, Stolen, merge_occupants,
    },
    homes::Home,
    places::Places,
};
use crate::core::health::Health;

/// What the attached programs measure, beside what the required ones do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// Times: CPU time, and what is told from it.
    pub times: bool,
    /// Moves between CPUs.
    pub migrations: bool,
    /// Hardware interrupts.
    pub irq: bool,
    /// Softirqs.
    pub softirq: bool,
    /// NUMA balancing.
    pub numa_balancing: bool,
}

impl Measured {
    /// What those of `health` measure.
    #[must_use]
    pub fn of(health: &Health) -> Self {
        let all = |names: [&str; 2]| names.iter().all(|name| health.has(name));
        Self {
            times: health.has("switch"),
            migrations: health.has("migrate"),
            irq: all(["irq_enter", "irq_exit"]),
            softirq: all(["softirq_enter", "softirq_exit"]),
            numa_balancing: all(["numa_move", "numa_swap"]),
        }
    }

    /// All there is.
    pub const ALL: Self =
        Self { times: true, migrations: true, irq: true, softirq: true, numa_balancing: true };
}

/// The names of the programs that are missing, and each with what is not measured without it.
#[must_use]
pub fn missing(health: &Health) -> (Vec<String>, Vec<String>) {
    let without = |name: &str| match name {
        "switch" => "all times, waits and slices",
        "wakeup" => "waits after wake-ups",
        "wakeup_new" => "the first wait of new threads",
        "migrate" => "migrations",
        "numa_move" | "numa_swap" => "NUMA balancing",
        "irq_enter" | "irq_exit" => "interrupts",
        "softirq_enter" | "softirq_exit" => "softirqs",
        "timer_enter" | "timer_exit" => "the timer's interrupts",
        "affinity_enter" | "affinity_exit" => "which migrations changed masks caused",
        _ => "",
    };
    let failed = health.failed().filter(|program| !without(program.name).is_empty());
    let words = |name: &str| format!("{name}: {} not measured", without(name));
    failed.map(|program| (program.name.to_owned(), words(program.name))).unzip()
}

/// What accounts are read against.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// The machine.
    pub places: &'a Places,
    /// What is measured.
    pub measured: Measured,
    /// When the recording began, in monotonic nanoseconds.
    pub began_ns: u64,
}

impl Reader<'_> {
    /// The figures of a thread that belongs to `home`, at `now_ns` (monotonic) where it has not ended. The run it is in counts
    /// as CPU time up to now; the distributions hold what has ended.
    #[must_use]
    pub fn figures(&self, account: &Account, home: Option<&Home>, now_ns: u64) -> Figures {
        let end_ns = if account.closed_at_ns > 0 { account.closed_at_ns } else { now_ns };
        let home = home.filter(|_| self.measured.times);
        let of = |index| Distribution::of(account, index);
        let mut figures = Figures {
            followed_ns: end_ns.saturating_sub(account.opened_at_ns),
            run_ns: account.run_ns(),
            off_node: home.map(|home| self.off_node(account, home)),
            before_bind_ns: home.filter(|home| home.planned).map(|home| before_bind_ns(account, home)),
            migrations: self.measured.migrations.then(|| self.migrations(account)),
            wake_wait: of(duration::WAKE_WAIT),
            preempt_wait: of(duration::PREEMPT_WAIT),
            slice: of(duration::SLICE),
            gap: of(duration::GAP),
            preemptors: preemptors(account),
            irq: self.measured.irq.then(|| stolen(&account.irq)),
            softirq: self.measured.softirq.then(|| stolen(&account.softirq)),
            numa_balancing: self
                .measured
                .numa_balancing
                .then_some(NumaBalancing { moves: account.numa_moves, swaps: account.numa_swaps }),
            ..Figures::default()
        };
        figures.off_plan_ns = figures.before_bind_ns.map(|before_ns| account.off_plan_ns + before_ns);
        for (index, ns) in account.node_ns.iter().enumerate().filter(|(_, ns)| **ns > 0) {
            if let Some(node) = self.places.accounted_node(index) {
                *figures.node_ns.entry(node).or_default() += ns;
            }
        }
        self.add_current_run(&mut figures, account, home, now_ns);
        figures
    }

    /// The run that has not ended: how long it is by now, and where it belongs in the figures.
    fn add_current_run(&self, figures: &mut Figures, account: &Account, home: Option<&Home>, now_ns: u64) {
        let ns = current_run_ns(account, now_ns);
        if ns == 0 {
            return;
        }
        figures.run_ns += ns;
        let node = self.places.node_of(account.cpu);
        if let Some(node) = node.and_then(|index| self.places.accounted_node(index as usize)) {
            *figures.node_ns.entry(node).or_default() += ns;
        }
        let off_node = home.is_some_and(|home| node.is_none_or(|node| !home.set.has_node(node)));
        if let Some(known) = figures.off_node.as_mut().filter(|_| off_node) {
            known.ns += ns;
            known.longest_ns = known.longest_ns.max(ns);
        }
        let off_plan = home.is_some_and(|home| !home.set.has_cpu(account.cpu));
        if let Some(known) = figures.off_plan_ns.as_mut().filter(|_| off_plan) {
            *known += ns;
        }
    }

    /// The kernel side cannot tell runs off node before it knew the thread's home: their time is added, but no runs.
    fn off_node(&self, account: &Account, home: &Home) -> OffNode {
        let is_off = |cpu: u32| self.places.node_of(cpu).is_none_or(|node| !home.set.has_node(node));
        let early = account.early.iter().filter(|early| early.cpu > 0 && is_off(early.cpu as u32 - 1));
        let since_began = |at_ns: u64| (at_ns > 0).then(|| at_ns.saturating_sub(self.began_ns));
        let known = &account.off_node;
        OffNode {
            ns: known.ns + early.map(|early| early.ns).sum::<u64>(),
            runs: known.runs,
            longest_ns: known.longest_ns,
            first_at_ns: since_began(known.first_at_ns),
            last_at_ns: since_began(known.last_at_ns),
        }
    }

    /// The part of [`Reader::off_node_ns`] that was before the kernel side knew the thread's home.
    #[must_use]
    pub fn early_off_node_ns(&self, account: &Account, home: &Home) -> u64 {
        self.off_node(account, home).ns - account.off_node.ns
    }

    /// All time off node so far, as [`Figures::off_node`] has it.
    #[must_use]
    pub fn off_node_ns(&self, account: &Account, home: &Home, now_ns: u64) -> u64 {
        let is_off = self.places.node_of(account.cpu).is_none_or(|node| !home.set.has_node(node));
        let current_ns = if is_off { current_run_ns(account, now_ns) } else { 0 };
        self.off_node(account, home).ns + current_ns
    }

    /// All time outside the planned CPUs so far, as [`Figures::off_plan_ns`] has it; nothing where no plan says which.
    #[must_use]
    pub fn off_plan_ns(&self, account: &Account, home: &Home, now_ns: u64) -> u64 {
        if !home.planned {
            return 0;
        }
        let current_ns = if home.set.has_cpu(account.cpu) { 0 } else { current_run_ns(account, now_ns) };
        account.off_plan_ns + before_bind_ns(account, home) + current_ns
    }

    fn migrations(&self, account: &Account) -> Migrations {
        let (causes, spans) = (&account.moves_by_cause, &account.moves_by_span);
        // Whoever has not moved has no cells to be looked at.
        let moves = if spans.iter().sum::<u64>() == 0 { &[][..] } else { &account.moves[..] };
        let cells = moves.iter().enumerate().filter(|(_, count)| **count > 0);
        let step = |(cell, count): (usize, &u32)| {
            let (from, to) = (self.places.row(cell / MATRIX)?, self.places.row(cell % MATRIX)?);
            Some(Move { from, to, count: u64::from(*count) })
        };
        Migrations {
            by_cause: ByCause {
                wake_up: causes[cause::WAKE_UP],
                exec: causes[cause::EXEC],
                affinity: causes[cause::AFFINITY],
                numa_balancing: causes[cause::NUMA_BALANCING],
                load_balancer: causes[cause::LOAD_BALANCER],
            },
            by_span: BySpan {
                core: spans[span::CORE],
                cluster: spans[span::CLUSTER],
                node: spans[span::NODE],
                socket: spans[span::SOCKET],
                machine: spans[span::MACHINE],
            },
            matrix: cells.filter_map(step).collect(),
        }
    }
}

/// How long the run that a thread is in has lasted; 0 if it is in none, or in one that nobody saw begin.
#[must_use]
pub fn current_run_ns(account: &Account, now_ns: u64) -> u64 {
    match (account.closed_at_ns, account.running_since_ns) {
        (0, since_ns) if since_ns > 0 => now_ns.saturating_sub(since_ns),
        _ => 0,
    }
}

/// CPU time outside the home before it was known. What ran on more CPUs than an account tells apart counts as outside.
fn before_bind_ns(account: &Account, home: &Home) -> u64 {
    let outside =
        account.early.iter().filter(|early| early.cpu > 0 && !home.set.has_cpu(early.cpu as u32 - 1));
    outside.map(|early| early.ns).sum::<u64>() + account.early_rest_ns
}

/// Who else had a CPU while it was critical.
#[must_use]
pub fn intruders(state: &CpuState) -> Vec<Occupant> {
    occupants(&state.intruders, &state.intruders_rest)
}

/// Who had the CPU while a thread waited, longest first, the unnamed last.
#[must_use]
pub fn preemptors(account: &Account) -> Vec<Occupant> {
    occupants(&account.preemptors, &account.preemptors_rest)
}

fn occupants(named: &[numa_ebpf::account::Occupant], rest: &numa_ebpf::account::Occupant) -> Vec<Occupant> {
    let named = named
        .iter()
        .filter(|occupant| occupant.count > 0)
        .map(|occupant| (Some(text(&occupant.comm)), occupant));
    let all = named.chain((rest.count > 0).then_some((None, rest)));
    let all: Vec<Occupant> =
        all.map(|(comm, occupant)| Occupant { comm, ns: occupant.ns, count: occupant.count }).collect();
    let mut sorted = Vec::new();
    merge_occupants(&mut sorted, &all);
    sorted
}

/// Up to the first NUL.
fn text(comm: &[u8; COMM_LEN]) -> String {
    let len = comm.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
    String::from_utf8_lossy(&comm[..len]).into_owned()
}

fn stolen(kernel: &numa_ebpf::account::Stolen) -> Stolen {
    Stolen { ns: kernel.ns, count: kernel.count, max_ns: kernel.max_ns }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use numa_ebpf::account::{Early, Occupant as KernelOccupant, OffNode as KernelOffNode};
    use numa_ebpf::histogram::record;

    use super::*;
    use crate::core::synthetic::Machine;

    /// Nodes 2 (CPUs 0-3) and 8 (CPUs 4-7).
    fn places() -> Places {
        let machine =
            Machine { sockets: 2, node_ids: vec![2, 8], memory_only_nodes: vec![5], ..Machine::default() };
        Places::new(&machine.topology())
    }

    fn figures(account: &Account, home: Option<&str>, now_ns: u64) -> Figures {
        let places = places();
        let home = home.map(|cpus| Home { set: places.plan_set(&cpus.parse().unwrap()), planned: true });
        let reader = Reader { places: &places, measured: Measured::ALL, began_ns: 1000 };
        reader.figures(account, home.as_ref(), now_ns)
    }

    fn account() -> Account {
        let mut account = Account { opened_at_ns: 2000, ..Account::EMPTY };
        account.durations[duration::SLICE].total_ns = 700;
        (account.node_ns[0], account.node_ns[1]) = (500, 200);
        account
    }

    #[test]
    fn nodes_and_moves_have_the_machines_ids() {
        let mut account = account();
        (account.moves[MATRIX], account.moves[0], account.moves[5]) = (3, 2, 9);
        (account.moves_by_span[span::MACHINE], account.moves_by_span[span::CORE]) = (3, 2);
        account.moves_by_cause = [1, 0, 3, 0, 1];
        let figures = figures(&account, None, 12_000);
        assert_eq!((figures.followed_ns, figures.run_ns), (10_000, 700));
        assert_eq!(figures.node_ns, BTreeMap::from([(2, 500), (8, 200)]));
        let moves = figures.migrations.unwrap();
        let expected = [Move { from: 2, to: 2, count: 2 }, Move { from: 8, to: 2, count: 3 }];
        assert_eq!(moves.matrix, expected, "no row 5 on this machine");
        assert_eq!((moves.total(), moves.between_nodes()), (5, 3));
        assert_eq!(
            (moves.by_cause.wake_up, moves.by_cause.affinity, moves.by_cause.load_balancer),
            (1, 3, 1)
        );
        assert_eq!((figures.off_node, figures.off_plan_ns, figures.before_bind_ns), (None, None, None));
    }

    #[test]
    fn what_a_missing_program_counts_is_unknown() {
        let places = places();
        let none =
            Measured { times: false, migrations: false, irq: false, softirq: false, numa_balancing: false };
        let reader = Reader { places: &places, measured: none, began_ns: 0 };
        let home = Home { set: places.plan_set(&"0-3".parse().unwrap()), planned: true };
        let figures = reader.figures(&account(), Some(&home), 3000);
        assert_eq!((figures.off_node, figures.off_plan_ns, figures.before_bind_ns), (None, None, None));
        assert!(figures.migrations.is_none() && figures.irq.is_none() && figures.softirq.is_none());
        assert!(figures.numa_balancing.is_none());
    }

    #[test]
    fn a_run_that_goes_on_counts_up_to_now() {
        let running = Account { running_since_ns: 5000, cpu: 6, ..account() };
        let at = |home, now_ns| figures(&running, home, now_ns);
        assert_eq!(at(None, 5300).run_ns, 1000);
        assert_eq!(at(None, 5300).node_ns[&8], 500);
        let off = at(Some("0-3"), 5300);
        assert_eq!(off.off_node.map(|off| (off.ns, off.runs, off.longest_ns)), Some((300, 0, 300)));
        assert_eq!((off.off_plan_ns, off.before_bind_ns), (Some(300), Some(0)));
        let beside = at(Some("4-5"), 5300);
        assert_eq!((beside.off_node.map(|off| off.ns), beside.off_plan_ns), (Some(0), Some(300)));
        assert_eq!(at(None, 4000).run_ns, 700, "read before it began");
        let ended = Account { closed_at_ns: 5100, ..running };
        assert_eq!(
            (figures(&ended, None, 9000).run_ns, figures(&ended, None, 9000).followed_ns),
            (700, 3100)
        );
    }

    #[test]
    fn time_before_the_bind_counts_where_it_was_outside() {
        let mut account = account();
        account.early[0] = Early { cpu: 1, ns: 40 };
        account.early[2] = Early { cpu: 4, ns: 70 };
        account.early[3] = Early { cpu: 6, ns: 110 };
        account.early_rest_ns = 5;
        account.off_plan_ns = 1000;
        account.off_node =
            KernelOffNode { ns: 60, runs: 2, longest_ns: 50, first_at_ns: 1500, last_at_ns: 2500 };
        // CPUs 3 and 5 are outside, CPU 5 on another node.
        let figures = figures(&account, Some("0-2"), 9000);
        assert_eq!((figures.before_bind_ns, figures.off_plan_ns), (Some(185), Some(1185)));
        let off = figures.off_node.unwrap();
        assert_eq!((off.ns, off.runs, off.longest_ns), (170, 2, 50));
        assert_eq!((off.first_at_ns, off.last_at_ns), (Some(500), Some(1500)));
    }

    #[test]
    fn occupants_are_named_longest_first() {
        let mut account = account();
        let named = |comm: &[u8; 3], ns, count| {
            let mut padded = [0; COMM_LEN];
            padded[..3].copy_from_slice(comm);
            KernelOccupant { comm: padded, ns, count }
        };
        account.preemptors[3] = named(b"hog", 5, 1);
        account.preemptors[5] = named(b"\xff\x1b[", 9, 2);
        account.preemptors_rest = KernelOccupant { comm: [0; COMM_LEN], ns: 100, count: 3 };
        let preemptors = figures(&account, None, 3000).preemptors;
        let names: Vec<_> = preemptors.iter().map(|who| (who.comm.as_deref(), who.ns, who.count)).collect();
        assert_eq!(names, [(Some("\u{fffd}\x1b["), 9, 2), (Some("hog"), 5, 1), (None, 100, 3)]);
    }

    #[test]
    fn distributions_are_the_accounts() {
        let mut account = account();
        for (index, ns) in [(duration::WAKE_WAIT, 900), (duration::PREEMPT_WAIT, 5000), (duration::GAP, 1)] {
            record(&mut account.durations[index], &mut account.buckets[index], ns);
        }
        record(&mut account.durations[duration::SLICE], &mut account.buckets[duration::SLICE], 70_000);
        let figures = figures(&account, None, 3000);
        let max = |distribution: &Distribution| (distribution.count, distribution.max_ns);
        assert_eq!((max(&figures.wake_wait), max(&figures.preempt_wait)), ((1, 900), (1, 5000)));
        assert_eq!((max(&figures.slice), max(&figures.gap)), ((1, 70_000), (1, 1)));
        assert_eq!(figures.run_ns, 70_700);
    }
}
