//! What all forms of the report say: roll-ups, ranks, the timeline, and what must be said aloud.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    core::{
        idset::CpuSet,
        jitter::{
            distribution::Percentiles,
            figures::{Migrations, Occupant, merge_occupants},
            recording::{IntervalFigures, ProcessRecord, Recording, Run, Subject, ThreadRecord},
            rollup::{self, Critical, Rollup},
        },
        task::ThreadRole,
    },
    report::many,
};

/// A recording, rolled up.
pub(super) struct Digest<'a> {
    pub recording: &'a Recording,
    /// All threads together.
    pub all: Part,
    /// Those that matter most.
    pub critical: (Critical, Part),
    /// By role.
    pub roles: BTreeMap<RoleOrder, Part>,
    /// By group and role, those without a group (`None`) last.
    pub groups: Vec<((Option<&'a str>, RoleOrder), Part)>,
    /// Every thread, those that waited longest (99.9th percentile) first.
    pub threads: Vec<ThreadView<'a>>,
    by_id: BTreeMap<(usize, u32), &'a ProcessRecord>,
}

/// Threads together.
#[derive(Default)]
pub(super) struct Part {
    pub rollup: Rollup,
    /// Of both kinds of run-queue wait.
    pub wait: Option<Percentiles>,
}

/// A thread with what ranks need.
pub(super) struct ThreadView<'a> {
    pub thread: &'a ThreadRecord,
    /// Of both kinds of run-queue wait.
    pub wait: Option<Percentiles>,
}

/// Roles in the order of reports: forward threads, members, background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoleOrder(pub ThreadRole);

impl RoleOrder {
    /// 0, 1, 2.
    pub fn index(self) -> usize {
        match self.0 {
            ThreadRole::Forward => 0,
            ThreadRole::Member => 1,
            ThreadRole::Other => 2,
        }
    }
}

impl Ord for RoleOrder {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.index().cmp(&other.index())
    }
}

impl PartialOrd for RoleOrder {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Rollup> for Part {
    fn from(rollup: Rollup) -> Self {
        Self { wait: rollup.figures.wait().percentiles(), rollup }
    }
}

fn parts<K: Ord>(rollups: BTreeMap<K, Rollup>) -> BTreeMap<K, Part> {
    rollups.into_iter().map(|(key, rollup)| (key, rollup.into())).collect()
}

impl<'a> Digest<'a> {
    pub fn new(recording: &'a Recording) -> Self {
        let view =
            |thread: &'a ThreadRecord| ThreadView { thread, wait: thread.figures.wait().percentiles() };
        let mut threads: Vec<ThreadView> = recording.threads.iter().map(view).collect();
        threads.sort_by_key(|view| {
            let worst = view.wait.map_or((0, 0), |wait| (wait.p999_ns, wait.max_ns));
            (std::cmp::Reverse(worst), view.thread.run, view.thread.tid)
        });
        let critical = Critical::of(recording);
        let grouped = parts(rollup::by(recording, |thread| {
            (thread.group.is_none(), thread.group.as_deref(), RoleOrder(thread.role))
        }));
        Self {
            recording,
            all: rollup::whole(recording).into(),
            critical: (critical, critical.rollup(recording).into()),
            roles: parts(rollup::by(recording, |thread| RoleOrder(thread.role))),
            groups: grouped.into_iter().map(|((_, group, role), part)| ((group, role), part)).collect(),
            threads,
            by_id: recording.processes.iter().map(|process| ((process.run, process.pid), process)).collect(),
        }
    }

    /// Whether a plan told where threads belong.
    pub fn planned(&self) -> bool {
        self.recording.runs.iter().any(|run| matches!(run.subject, Subject::Plan { .. }))
    }

    /// Whether any thread is in a group.
    pub fn grouped(&self) -> bool {
        self.groups.iter().any(|((group, _), _)| group.is_some())
    }

    /// Whether there is another node to be on.
    pub fn several_nodes(&self) -> bool {
        let with_cpus = |run: &Run| run.host.nodes.values().filter(|cpus| !cpus.is_empty()).count();
        self.recording.runs.iter().any(|run| with_cpus(run) > 1)
    }

    /// Whether it holds several runs, so that pids alone do not tell processes apart.
    pub fn merged(&self) -> bool {
        self.recording.runs.len() > 1
    }

    pub fn process(&self, run: usize, pid: u32) -> Option<&'a ProcessRecord> {
        self.by_id.get(&(run, pid)).copied()
    }

    /// What the matrix of moves is about: `node` or `socket`.
    pub fn matrix_of(&self) -> &'static str {
        let sockets = self.recording.runs.iter().any(|run| run.host.matrix_of == "socket");
        if sockets { "socket" } else { "node" }
    }

    /// The matrix's rows and columns: all the machine has, and whatever else was moved to or from.
    pub fn places(&self, moves: &Migrations) -> Vec<u32> {
        let mut places: BTreeSet<u32> = moves.matrix.iter().flat_map(|step| [step.from, step.to]).collect();
        for run in &self.recording.runs {
            match self.matrix_of() {
                "socket" => places.extend(run.host.sockets.keys()),
                _ => places
                    .extend(run.host.nodes.iter().filter(|(_, cpus)| !cpus.is_empty()).map(|(id, _)| id)),
            }
        }
        places.into_iter().collect()
    }

    /// How many moves there were from one place to another.
    pub fn moved(&self, moves: &Migrations, from: u32, to: u32) -> u64 {
        moves.matrix.iter().filter(|step| (step.from, step.to) == (from, to)).map(|step| step.count).sum()
    }

    /// The first `most` threads by a figure, those without it or with zero left out.
    pub fn worst(&self, most: usize, figure: fn(&ThreadView) -> Option<u64>) -> Vec<&ThreadView<'a>> {
        let figure = |view: &&ThreadView| figure(view).unwrap_or(0);
        let mut some: Vec<_> = self.threads.iter().filter(|view| figure(view) > 0).collect();
        some.sort_by_key(|view| std::cmp::Reverse(figure(view)));
        some.truncate(most);
        some
    }

    /// Whether a plan has CPUs for forward threads alone; on others nobody is an intruder.
    pub fn has_critical_cpus(&self) -> bool {
        let set = |text: &str| text.trim().parse::<CpuSet>().unwrap_or_default();
        let has = |groups: &BTreeMap<String, String>, others: &str| {
            let cpus = groups.values().filter_map(|cpus| cpus.split_once('/'));
            let (own, forward): (Vec<CpuSet>, Vec<CpuSet>) =
                cpus.map(|(own, forward)| (set(own), set(forward))).unzip();
            let shared = own.iter().fold(set(others), |all, cpus| all.union(cpus));
            forward.iter().any(|cpus| !cpus.is_subset(&shared))
        };
        self.recording
            .runs
            .iter()
            .any(|run| matches!(&run.subject, Subject::Plan { groups, others, .. } if has(groups, others)))
    }

    /// Who ran on critical threads' CPUs, by name over all CPUs, with how many CPUs.
    pub fn intruders(&self) -> Vec<(Occupant, usize)> {
        let mut who = Vec::new();
        let mut cpus: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for place in &self.recording.intruders {
            merge_occupants(&mut who, &place.who);
            for occupant in &place.who {
                *cpus.entry(occupant.comm.as_deref()).or_default() += 1;
            }
        }
        let found = |who: &Occupant| cpus.get(&who.comm.as_deref()).copied().unwrap_or(0);
        who.iter().map(|who| (who.clone(), found(who))).collect()
    }

    /// What was lost, so that figures are too low, with the host where there are several; not escaped.
    pub fn lost(&self) -> Vec<String> {
        self.said(|run| &run.lost)
    }

    /// What was lost of detail, the figures being whole; not escaped.
    pub fn lost_detail(&self) -> Vec<String> {
        self.said(|run| &run.lost_detail)
    }

    /// Kernel programs that are missing; not escaped.
    pub fn missing(&self) -> Vec<String> {
        self.said(|run| &run.missing)
    }

    fn said(&self, what: impl Fn(&Run) -> &Vec<String>) -> Vec<String> {
        let mut said = Vec::new();
        for run in &self.recording.runs {
            let of = if self.merged() { format!("{}: ", run.host.name) } else { String::new() };
            said.extend(what(run).iter().map(|line| format!("{of}{line}")));
        }
        said.sort();
        said.dedup();
        said
    }

    /// `plan (paired), 16 groups, bound by this agent`; not escaped.
    pub fn subject(&self, run: &Run) -> String {
        let bound = if run.bound { "bound by the recording agent" } else { "looked at, not bound" };
        match &run.subject {
            Subject::Plan { policy, groups, .. } => {
                format!("{policy} plan, {}, {bound}", many(groups.len(), "group", "s"))
            }
            Subject::Processes { what } => format!("{what}, no plan, {bound}"),
        }
    }

    /// What a thread's home is in this recording.
    pub fn home(&self) -> &'static str {
        if self.planned() {
            "Off node: outside the nodes that the plan gives a thread."
        } else {
            "Off node: outside a thread's home, the node where most of its memory is or, that unknown, where it ran most; \
             there was no plan."
        }
    }

    /// The timeline in `most` bins at most, by role: `None` where nothing was recorded.
    pub fn timeline(&self, most: usize) -> Timeline {
        let intervals = || {
            let sane = |at: f64| at.is_finite() && at > 0.0;
            self.recording.intervals.iter().filter(move |interval| sane(interval.at))
        };
        let end = intervals().map(|interval| interval.at).fold(0.0, f64::max);
        let longest = intervals().map(|interval| interval.seconds).fold(0.0, f64::max);
        let wanted = if longest > 0.0 { (end / longest).round().max(1.0) } else { 1.0 };
        let bins = (wanted as usize).clamp(1, most.max(1));
        let mut roles: BTreeMap<RoleOrder, Vec<Option<IntervalFigures>>> = BTreeMap::new();
        for interval in intervals() {
            let middle = (interval.at - interval.seconds.clamp(0.0, interval.at) / 2.0) / end;
            let bin = ((middle * bins as f64) as usize).min(bins - 1);
            for (role, figures) in &interval.roles {
                let line = roles.entry(RoleOrder(*role)).or_insert_with(|| vec![None; bins]);
                match &mut line[bin] {
                    Some(known) => {
                        known.threads = known.threads.max(figures.threads);
                        known.merge(figures);
                    }
                    empty => *empty = Some(*figures),
                }
            }
        }
        Timeline { seconds: end, bins, roles }
    }
}

/// Figures over time.
pub(super) struct Timeline {
    /// From 0 to here.
    pub seconds: f64,
    /// How many equal parts.
    pub bins: usize,
    /// By role, a value for each part.
    pub roles: BTreeMap<RoleOrder, Vec<Option<IntervalFigures>>>,
}

impl Timeline {
    /// The share of a role's CPU time that was off node; `None` where it is not known or nothing ran.
    pub fn off_node(&self, role: RoleOrder) -> Vec<Option<f64>> {
        let share = |figures: &IntervalFigures| {
            let ran = Some(figures.run_ns as f64).filter(|ran| *ran > 0.0)?;
            Some((figures.off_node_ns? as f64 / ran).min(1.0))
        };
        let bins = self.roles.get(&role).map_or(&[][..], Vec::as_slice);
        bins.iter().map(|bin| bin.as_ref().and_then(share)).collect()
    }
}

/// The same in a word.
pub(super) fn role_word(role: RoleOrder, planned: bool) -> &'static str {
    if planned || role.0 == ThreadRole::Forward { role.0.name() } else { role_name(role, planned) }
}

/// `forward threads`; `threads` where no plan tells them apart.
pub(super) fn role_name(role: RoleOrder, planned: bool) -> &'static str {
    match (role.0, planned) {
        (ThreadRole::Forward, _) => "forward threads",
        (ThreadRole::Member, true) => "member threads",
        (ThreadRole::Member, false) => "threads",
        (ThreadRole::Other, true) => "background threads",
        (ThreadRole::Other, false) => "other threads",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jitter::synthetic;

    #[test]
    fn parts_add_up_and_the_worst_come_first() {
        let recording = synthetic::a3();
        let digest = Digest::new(&recording);
        let threads = |part: &Part| part.rollup.threads as usize;
        assert_eq!(digest.roles.values().map(threads).sum::<usize>(), recording.threads.len());
        assert_eq!(
            digest.groups.iter().map(|(_, part)| threads(part)).sum::<usize>(),
            recording.threads.len()
        );
        assert_eq!(digest.critical.0, Critical::Forward);
        let off_node_ns = |view: &ThreadView| view.thread.figures.off_node.map(|off| off.ns);
        let worst = digest.worst(30, off_node_ns);
        assert_eq!(worst.len(), 24, "only the strays were off node");
        assert!(worst.iter().all(|view| view.thread.group.as_deref() == Some("socket0_group0")));
        assert!(worst.is_sorted_by_key(|view| std::cmp::Reverse(off_node_ns(view))));
    }

    #[test]
    fn a_long_timeline_is_binned_without_loss() {
        let recording = synthetic::a3();
        let all: u64 = recording.intervals.iter().map(|i| i.roles[&ThreadRole::Forward].run_ns).sum();
        for most in [1, 7, 60, 1000] {
            let timeline = Digest::new(&recording).timeline(most);
            assert_eq!(timeline.bins, most.min(60));
            let bins = &timeline.roles[&RoleOrder(ThreadRole::Forward)];
            assert_eq!(bins.iter().flatten().map(|figures| figures.run_ns).sum::<u64>(), all);
            assert!(bins.iter().all(Option::is_some));
        }
    }

    #[test]
    fn odd_times_are_survived() {
        let mut recording = synthetic::two_cpus();
        for (interval, at) in recording.intervals.iter_mut().zip([f64::NAN, -4.0, 0.0, f64::INFINITY, 1e300])
        {
            (interval.at, interval.seconds) = (at, -at);
        }
        assert!(Digest::new(&recording).timeline(100).bins <= 100);
    }
}
