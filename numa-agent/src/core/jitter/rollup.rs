//! The figures of threads together: by role, group and process, of all, and of those that matter.

use std::{collections::BTreeMap, fmt};

use super::{
    figures::Figures,
    recording::{Recording, Subject, ThreadRecord},
};
use crate::core::task::ThreadRole;

/// Several threads' figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollup {
    /// How many threads, those that ended included.
    pub threads: u64,
    /// Added up.
    pub figures: Figures,
    /// CPU time of the threads of which off-node time is known.
    off_node_of_ns: u64,
    /// For how long threads were followed whose moves are counted.
    moves_over_ns: u64,
}

impl Rollup {
    /// Of these threads.
    #[must_use]
    pub fn of<'a>(threads: impl IntoIterator<Item = &'a ThreadRecord>) -> Self {
        let mut rollup = Self::default();
        threads.into_iter().for_each(|thread| rollup.add(&thread.figures));
        rollup
    }

    fn add(&mut self, figures: &Figures) {
        let known = |known: bool, ns: u64| if known { ns } else { 0 };
        self.threads += 1;
        self.off_node_of_ns =
            self.off_node_of_ns.saturating_add(known(figures.off_node.is_some(), figures.run_ns));
        self.moves_over_ns =
            self.moves_over_ns.saturating_add(known(figures.migrations.is_some(), figures.followed_ns));
        self.figures.merge(figures);
    }

    /// Adds other threads'.
    pub fn merge(&mut self, other: &Self) {
        self.threads += other.threads;
        self.off_node_of_ns = self.off_node_of_ns.saturating_add(other.off_node_of_ns);
        self.moves_over_ns = self.moves_over_ns.saturating_add(other.moves_over_ns);
        self.figures.merge(&other.figures);
    }

    /// The share of the CPU time that was off node, 0 to 1, of the threads of which it is known; `None` where it is known of
    /// none, or none ran.
    #[must_use]
    pub fn off_node_share(&self) -> Option<f64> {
        let off_node = self.figures.off_node?;
        (self.off_node_of_ns > 0).then(|| off_node.ns as f64 / self.off_node_of_ns as f64)
    }

    /// The share of the CPU time of which off-node time is known, 0 to 1.
    #[must_use]
    pub fn off_node_known(&self) -> f64 {
        self.off_node_of_ns as f64 / self.figures.run_ns.max(1) as f64
    }

    /// `count` moves as a rate: how many a thread made in a second, on average. `None` where no thread was followed for any
    /// time.
    #[must_use]
    pub fn moves_per_second(&self, count: u64) -> Option<f64> {
        (self.moves_over_ns > 0).then(|| count as f64 * 1e9 / self.moves_over_ns as f64)
    }
}

/// All threads.
#[must_use]
pub fn whole(recording: &Recording) -> Rollup {
    Rollup::of(&recording.threads)
}

/// By role.
#[must_use]
pub fn by_role(recording: &Recording) -> BTreeMap<ThreadRole, Rollup> {
    by(recording, |thread| thread.role)
}

/// By group name, over all runs; `None`: threads without a group.
#[must_use]
pub fn by_group(recording: &Recording) -> BTreeMap<Option<&str>, Rollup> {
    by(recording, |thread| thread.group.as_deref())
}

/// A process of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Index into [`Recording::runs`].
    pub run: usize,
    /// Process id.
    pub pid: u32,
    /// Index into [`Recording::processes`]; `None` if the process is not there.
    pub process: Option<usize>,
}

/// By process. Where a pid was recycled, a thread belongs to the last process of that pid which is not younger.
#[must_use]
pub fn by_process(recording: &Recording) -> BTreeMap<ProcessKey, Rollup> {
    let mut starts: BTreeMap<(usize, u32), Vec<(u64, usize)>> = BTreeMap::new();
    for (index, process) in recording.processes.iter().enumerate() {
        starts.entry((process.run, process.pid)).or_default().push((process.start_time, index));
    }
    starts.values_mut().for_each(|all| all.sort_unstable());
    by(recording, |thread| {
        let all = starts.get(&(thread.run, thread.pid)).map_or(&[][..], Vec::as_slice);
        let not_younger = all.iter().rev().find(|(start, _)| *start <= thread.start_time);
        let process = not_younger.or(all.first()).map(|(_, index)| *index);
        ProcessKey { run: thread.run, pid: thread.pid, process }
    })
}

/// By whatever `key` tells threads apart.
pub fn by<'a, K: Ord>(recording: &'a Recording, key: impl Fn(&'a ThreadRecord) -> K) -> BTreeMap<K, Rollup> {
    let mut rollups: BTreeMap<K, Rollup> = BTreeMap::new();
    for thread in &recording.threads {
        rollups.entry(key(thread)).or_default().add(&thread.figures);
    }
    rollups
}

/// Which threads matter: those that hold up the next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Critical {
    /// The forward threads.
    Forward,
    /// There are none: all threads of groups.
    Members,
    /// There is no plan, or nobody in its groups: all threads.
    All,
}

impl Critical {
    /// The narrowest that has anybody in it.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let planned = recording.runs.iter().any(|run| matches!(run.subject, Subject::Plan { .. }));
        let has = |role| recording.threads.iter().any(|thread| thread.role == role);
        if has(ThreadRole::Forward) {
            Self::Forward
        } else if planned && has(ThreadRole::Member) {
            Self::Members
        } else {
            Self::All
        }
    }

    /// Whether a thread is one of them.
    #[must_use]
    pub fn has(self, thread: &ThreadRecord) -> bool {
        match self {
            Self::Forward => thread.role == ThreadRole::Forward,
            Self::Members => thread.role != ThreadRole::Other,
            Self::All => true,
        }
    }

    /// Their figures.
    #[must_use]
    pub fn rollup(self, recording: &Recording) -> Rollup {
        Rollup::of(recording.threads.iter().filter(|thread| self.has(thread)))
    }
}

impl fmt::Display for Critical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward threads",
            Self::Members => "threads of groups",
            Self::All => "all threads",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::jitter::{figures::OffNode, recording::ProcessRecord, sample};

    #[test]
    fn threads_add_up_by_role_group_and_process() {
        let recording = sample::recording();
        let roles: Vec<(ThreadRole, u64, u64)> = by_role(&recording)
            .into_iter()
            .map(|(role, rollup)| (role, rollup.threads, rollup.figures.wake_wait.count))
            .collect();
        let expected =
            [(ThreadRole::Member, 1, 1), (ThreadRole::Forward, 2, 2010), (ThreadRole::Other, 1, 0)];
        assert_eq!(roles, expected);
        let groups: Vec<(Option<&str>, u64)> =
            by_group(&recording).into_iter().map(|(group, rollup)| (group, rollup.threads)).collect();
        assert_eq!(groups, [(None, 1), (Some("socket0_group0"), 3)]);
        let processes: Vec<(u32, u64)> =
            by_process(&recording).into_iter().map(|(key, rollup)| (key.pid, rollup.threads)).collect();
        assert_eq!(processes, [(10, 3), (20, 1)]);
        assert_eq!(whole(&recording).figures.run_ns, 4 * 30_000_000_000);
    }

    #[test]
    fn a_recycled_pid_is_two_processes() {
        let mut recording = sample::recording();
        let again = ProcessRecord { start_time: 500, ..recording.processes[0].clone() };
        recording.processes.push(again);
        recording.threads[1].start_time = 501;
        let threads: Vec<(Option<usize>, u64)> =
            by_process(&recording).into_iter().map(|(key, rollup)| (key.process, rollup.threads)).collect();
        assert_eq!(threads, [(Some(0), 2), (Some(2), 1), (Some(1), 1)]);
        recording.processes.clear();
        assert!(by_process(&recording).keys().all(|key| key.process.is_none()));
    }

    #[test]
    fn shares_and_rates_are_of_the_threads_that_were_measured() {
        let mut recording = sample::recording();
        recording.threads.truncate(2);
        // One thread ran 30 of 60 s, 3 s of them off node, and moved 120 times; of the other nothing is known.
        let [known, unknown] = &mut recording.threads[..] else { panic!("two threads") };
        known.figures.off_node = Some(OffNode { ns: 3_000_000_000, ..OffNode::default() });
        known.figures.migrations.as_mut().unwrap().by_span.core = 120;
        (unknown.figures.off_node, unknown.figures.migrations) = (None, None);
        let rollup = whole(&recording);
        assert_eq!(rollup.off_node_share(), Some(0.1));
        let moves = rollup.figures.migrations.as_ref().unwrap().total();
        assert_eq!(rollup.moves_per_second(moves), Some(2.0));
        let nothing = Rollup::default();
        assert_eq!((nothing.off_node_share(), nothing.moves_per_second(0)), (None, None));
    }

    #[test]
    fn those_that_matter_are_the_narrowest_there_are() {
        let mut recording = sample::recording();
        let critical = |recording: &Recording| {
            let critical = Critical::of(recording);
            (critical, critical.rollup(recording).threads)
        };
        assert_eq!(critical(&recording), (Critical::Forward, 2));
        recording.threads.retain(|thread| thread.role != ThreadRole::Forward);
        assert_eq!(critical(&recording), (Critical::Members, 1));
        recording.runs[0].subject = Subject::Processes { what: "pid 10".into() };
        assert_eq!(critical(&recording), (Critical::All, 2));
        recording.threads.clear();
        assert_eq!(critical(&recording), (Critical::All, 0));
    }

    proptest! {
        #[test]
        fn recordings_add_up_in_any_order(a in sample::recordings(), b in sample::recordings(), c in sample::recordings()) {
            let merged = |parts: [&Recording; 3]| {
                let mut all = parts[0].clone();
                all.merge(parts[1].clone());
                all.merge(parts[2].clone());
                all
            };
            let (forth, back) = (merged([&a, &b, &c]), merged([&c, &b, &a]));
            let mut right = b.clone();
            right.merge(c.clone());
            let mut nested = a.clone();
            nested.merge(right);
            prop_assert_eq!(&nested, &forth);
            prop_assert_eq!(whole(&forth), whole(&back));
            prop_assert_eq!(by_role(&forth), by_role(&back));
            prop_assert_eq!(by_group(&forth), by_group(&back));
            // Adding up first and merging then is the same.
            let mut sum = whole(&a);
            sum.merge(&whole(&b));
            sum.merge(&whole(&c));
            prop_assert_eq!(sum, whole(&forth));
            // Runs stay apart.
            let of_run = |run: usize, recording: &Recording| {
                Rollup::of(recording.threads.iter().filter(|thread| thread.run == run))
            };
            prop_assert_eq!(of_run(1, &forth), whole(&b));
            prop_assert_eq!(of_run(0, &back), whole(&c));
        }
    }
}
