//! What a thread did between two readings of its account: counters and histograms subtract.

use numa_ebpf::{
    account::{Account, duration, span},
    histogram::{BUCKETS, lowest_ns},
};

use crate::core::jitter::{
    account::{Reader, current_run_ns, preemptors},
    distribution::Distribution,
    figures::Occupant,
    homes::Home,
};

/// The durations that are run-queue waits.
const WAITS: [usize; 2] = [duration::WAKE_WAIT, duration::PREEMPT_WAIT];

/// An account, and when it was read in monotonic nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// What was read.
    pub account: &'a Account,
    /// When.
    pub at_ns: u64,
}

/// What it did, as far as threads are sorted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gained {
    /// CPU time.
    pub run_ns: Option<u64>,
    /// CPU time off node.
    pub off_node_ns: Option<u64>,
    /// Moves between CPUs.
    pub migrations: Option<u64>,
    /// Of those, between nodes.
    pub node_migrations: Option<u64>,
    /// Run-queue waits that ended.
    pub waits: u64,
    /// All of their time.
    pub wait_ns: u64,
}

impl Gained {
    /// What a thread that belongs to `home` did up to `now`: since `before`, or since its account was opened.
    #[must_use]
    pub fn between(
        before: Option<Read<'_>>,
        now: Read<'_>,
        home: Option<&Home>,
        reader: &Reader<'_>,
    ) -> Self {
        let gained = |of: &dyn Fn(Read<'_>) -> u64| of(now).saturating_sub(before.map_or(0, of));
        let spans = |spans: &'static [usize]| {
            let moves = |read: Read<'_>| spans.iter().map(|span| read.account.moves_by_span[*span]).sum();
            reader.measured.migrations.then(|| gained(&moves))
        };
        let home = home.filter(|_| reader.measured.times);
        let waits = |of: fn(&numa_ebpf::histogram::Summary) -> u64| {
            gained(&|read| WAITS.iter().map(|wait| of(&read.account.durations[*wait])).sum())
        };
        Self {
            run_ns: reader
                .measured
                .times
                .then(|| gained(&|read| read.account.run_ns() + current_run_ns(read.account, read.at_ns))),
            // Both by the home that it has now: what was off node before it was known has to go away.
            off_node_ns: home.map(|home| gained(&|read| reader.off_node_ns(read.account, home, read.at_ns))),
            migrations: spans(&[span::CORE, span::CLUSTER, span::NODE, span::SOCKET, span::MACHINE]),
            node_migrations: spans(&[span::SOCKET, span::MACHINE]),
            waits: waits(|summary| summary.count),
            wait_ns: waits(|summary| summary.total_ns),
        }
    }
}

/// The run-queue waits of both kinds that ended since `before`. The longest is exact if it is the longest ever, else at most the
/// end of its bucket.
#[must_use]
pub fn waits(before: Option<&Account>, now: &Account) -> Distribution {
    let mut sum = Distribution::default();
    WAITS.iter().for_each(|wait| sum.merge(&durations(before, now, *wait)));
    sum
}

fn durations(before: Option<&Account>, now: &Account, index: usize) -> Distribution {
    let Some(before) = before else { return Distribution::of(now, index) };
    let gained = |bucket: usize| now.buckets[index][bucket].saturating_sub(before.buckets[index][bucket]);
    let buckets = (0..BUCKETS).map(|bucket| (bucket as u16, u64::from(gained(bucket))));
    let mut distribution = Distribution {
        count: now.durations[index].count.saturating_sub(before.durations[index].count),
        total_ns: now.durations[index].total_ns.saturating_sub(before.durations[index].total_ns),
        max_ns: 0,
        buckets: buckets.filter(|(_, count)| *count > 0).collect(),
    };
    let (longest_ns, known_ns) = (now.durations[index].max_ns, before.durations[index].max_ns);
    distribution.max_ns = match distribution.buckets.last_key_value() {
        None => 0,
        _ if longest_ns > known_ns => longest_ns,
        Some((bucket, _)) => lowest_ns(usize::from(*bucket) + 1).min(longest_ns),
    };
    distribution
}

/// Who had the CPU longest while the thread waited, in waits that ended since `before`; the unnamed only if nobody has a name.
#[must_use]
pub fn preemptor(before: Option<&Account>, now: &Account) -> Option<Occupant> {
    let known = before.map(preemptors).unwrap_or_default();
    let gained = |occupant: Occupant| {
        let before = known.iter().find(|before| before.comm == occupant.comm);
        // With less than before it has given way and come back: all that it has is new.
        let before = before.filter(|before| before.count <= occupant.count && before.ns <= occupant.ns);
        let (ns, count) = before.map_or((0, 0), |before| (before.ns, before.count));
        Occupant { ns: occupant.ns - ns, count: occupant.count - count, ..occupant }
    };
    let all = preemptors(now).into_iter().map(gained).filter(|occupant| occupant.count > 0);
    all.max_by_key(|occupant| {
        (occupant.comm.is_some(), occupant.ns, std::cmp::Reverse(occupant.comm.clone()))
    })
}

#[cfg(test)]
#[path = "gained_tests.rs"]
mod tests;
