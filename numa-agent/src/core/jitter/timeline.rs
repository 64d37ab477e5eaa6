//! How it went over time: what the threads of each role did in each interval, together.
//!
//! Threads' accounts only grow. Of each the state at the end of the interval before is kept, as small as it can be, so that
//! what it adds counts for the role that it has by then. The number of intervals is bounded: where it is reached, each two
//! become one.

use numa_ebpf::{
    account::{
        Account, cause,
        duration::{PREEMPT_WAIT, WAKE_WAIT},
        span,
    },
    histogram::BUCKETS,
};

use super::{
    account::{Reader, current_run_ns},
    distribution::{Distribution, end_ns, filled},
    homes::Home,
    recording::{Interval, IntervalFigures},
    totals::Total,
};
use crate::core::task::ThreadRole;

const ROLES: [ThreadRole; 3] = [ThreadRole::Member, ThreadRole::Forward, ThreadRole::Other];
const NS: f64 = 1e9;

/// What a thread's account said at the end of an interval.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    pub(super) run_ns: u64,
    off_node_ns: Option<u64>,
    /// The sum of [`Seen::off_node_since`] over all looks: a changed plan does not make it less.
    pub(super) off_node_sum_ns: u64,
    off_plan_ns: u64,
    moves_by_cause: [u64; cause::COUNT],
    moves_by_span: [u64; span::COUNT],
    waits: u64,
    pub(super) wait_ns: u64,
    longest_ns: u64,
    /// Waits by bucket, those that are not empty.
    buckets: Box<[(u16, u32)]>,
}

impl Seen {
    /// What an account says now.
    #[must_use]
    pub fn new(reader: &Reader<'_>, account: &Account, home: Option<&Home>, now_ns: u64) -> Self {
        let home = home.filter(|_| reader.measured.times);
        let (woken, preempted) = (&account.durations[WAKE_WAIT], &account.durations[PREEMPT_WAIT]);
        let mut waits = account.buckets[WAKE_WAIT];
        for (waits, preempted) in waits.iter_mut().zip(&account.buckets[PREEMPT_WAIT]) {
            *waits = waits.saturating_add(*preempted);
        }
        Self {
            run_ns: account.run_ns() + current_run_ns(account, now_ns),
            off_node_ns: home.map(|home| reader.off_node_ns(account, home, now_ns)),
            off_node_sum_ns: 0,
            off_plan_ns: home.map_or(0, |home| reader.off_plan_ns(account, home, now_ns)),
            moves_by_cause: account.moves_by_cause,
            moves_by_span: account.moves_by_span,
            waits: woken.count + preempted.count,
            wait_ns: woken.total_ns + preempted.total_ns,
            longest_ns: woken.max_ns.max(preempted.max_ns),
            buckets: filled(&waits).collect(),
        }
    }

    /// A home that is known only now does not make what was done before it part of the next interval.
    pub fn come_home(&mut self, reader: &Reader<'_>, account: &Account, home: Option<&Home>) {
        if let (None, Some(home)) = (self.off_node_ns, home) {
            self.off_node_ns = Some(reader.early_off_node_ns(account, home));
        }
    }

    /// All moves.
    pub fn moves(&self) -> u64 {
        self.moves_by_span.iter().sum()
    }

    fn node_moves(&self) -> u64 {
        self.moves_by_span[span::SOCKET] + self.moves_by_span[span::MACHINE]
    }

    /// Time off node since `before`; `None` where nobody knows.
    pub fn off_node_since(&self, before: &Self) -> Option<u64> {
        let added = self.off_node_ns?.saturating_sub(before.off_node_ns.unwrap_or(0));
        // The run in which a home became known may have begun long before.
        Some(added.min(self.run_ns.saturating_sub(before.run_ns)))
    }

    /// Adds what has come since `before`.
    pub fn add_since(&self, before: &Self, total: &mut Total) {
        let run_ns = self.run_ns.saturating_sub(before.run_ns);
        total.run_ns += run_ns;
        total.off_node_ns += self.off_node_since(before).unwrap_or(0);
        total.off_plan_ns += self.off_plan_ns.saturating_sub(before.off_plan_ns).min(run_ns);
        add(&mut total.moves_by_cause, &self.moves_by_cause, &before.moves_by_cause);
        add(&mut total.moves_by_span, &self.moves_by_span, &before.moves_by_span);
        total.waits.add_time(self.wait_ns.saturating_sub(before.wait_ns));
        self.waits_since(before).for_each(|(bucket, count)| total.waits.add_bucket(bucket, count));
    }

    /// Waits since `before`, by bucket.
    fn waits_since(&self, before: &Self) -> impl Iterator<Item = (u16, u64)> {
        let added =
            |(bucket, count): &(u16, u32)| (*bucket, u64::from(count.saturating_sub(before.count(*bucket))));
        self.buckets.iter().map(added).filter(|(_, added)| *added > 0)
    }

    fn count(&self, bucket: u16) -> u32 {
        self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket).map_or(0, |at| self.buckets[at].1)
    }
}

fn add(sums: &mut [u64], now: &[u64], before: &[u64]) {
    sums.iter_mut()
        .zip(now.iter().zip(before))
        .for_each(|(sum, (now, before))| *sum += now.saturating_sub(*before));
}

/// The intervals so far, and the one that is under way.
#[derive(Debug)]
pub struct Timeline {
    most: usize,
    /// How many closed intervals make up one of `done`.
    stride: u64,
    /// How many of these the last of `done` has.
    filled: u64,
    done: Vec<Closed>,
    open: [Sum; ROLES.len()],
    opened_at_ns: u64,
    moves_counted: bool,
}

/// An interval that is over.
#[derive(Debug, Clone, Copy)]
struct Closed {
    end_ns: u64,
    length_ns: u64,
    roles: [Option<IntervalFigures>; ROLES.len()],
}

/// What is added up in an interval.
#[derive(Debug, Clone)]
struct Sum {
    figures: IntervalFigures,
    buckets: Box<[u64; BUCKETS]>,
}

impl Timeline {
    /// One that begins now and holds up to `most` intervals. `moves_counted`: whether moves between CPUs are measured.
    #[must_use]
    pub fn new(now_ns: u64, most: usize, moves_counted: bool) -> Self {
        let open = std::array::from_fn(|_| Sum::default());
        // Pairs are made of whole pairs.
        let most = most.max(2).next_multiple_of(2);
        Self { most, stride: 1, filled: 0, done: Vec::new(), open, opened_at_ns: now_ns, moves_counted }
    }

    /// Adds what a thread of that role did since `before`; `over`: the thread has ended.
    pub fn add(&mut self, role: ThreadRole, before: &Seen, now: &Seen, over: bool) {
        let sum = &mut self.open[index(role)];
        let figures = &mut sum.figures;
        // Those that live are counted as the interval closes.
        figures.threads += u64::from(over);
        figures.run_ns += now.run_ns.saturating_sub(before.run_ns);
        if let Some(added) = now.off_node_since(before) {
            *figures.off_node_ns.get_or_insert(0) += added;
        }
        if self.moves_counted {
            *figures.migrations.get_or_insert(0) += now.moves().saturating_sub(before.moves());
            *figures.node_migrations.get_or_insert(0) += now.node_moves().saturating_sub(before.node_moves());
        }
        figures.waits += now.waits.saturating_sub(before.waits);
        figures.wait_ns += now.wait_ns.saturating_sub(before.wait_ns);
        let mut highest = None;
        for (bucket, added) in now.waits_since(before) {
            sum.buckets[usize::from(bucket)] += added;
            highest = Some(bucket);
        }
        let longest_ns = highest.map_or(0, |bucket| now.longest_ns.min(end_ns(bucket)));
        figures.wait_max_ns = figures.wait_max_ns.max(longest_ns);
    }

    /// Ends the interval; `living` are the roles of the threads that live.
    pub fn close(&mut self, now_ns: u64, living: impl IntoIterator<Item = ThreadRole>) {
        living.into_iter().for_each(|role| self.open[index(role)].figures.threads += 1);
        let closed = Closed {
            end_ns: now_ns,
            length_ns: now_ns.saturating_sub(self.opened_at_ns),
            roles: std::array::from_fn(|role| std::mem::take(&mut self.open[role]).closed()),
        };
        self.opened_at_ns = now_ns;
        match self.done.last_mut() {
            Some(last) if self.filled < self.stride => {
                last.append(&closed);
                self.filled += 1;
            }
            _ => {
                self.done.push(closed);
                self.filled = 1;
            }
        }
        if self.done.len() == self.most && self.filled == self.stride {
            self.done = self
                .done
                .chunks(2)
                .map(|pair| {
                    let mut first = pair[0];
                    pair[1..].iter().for_each(|second| first.append(second));
                    first
                })
                .collect();
            self.stride *= 2;
            self.filled = self.stride;
        }
    }

    /// The intervals that are over, with times from `began_ns` on.
    #[must_use]
    pub fn intervals(&self, began_ns: u64) -> Vec<Interval> {
        let interval = |closed: &Closed| {
            let roles = ROLES.into_iter().zip(closed.roles);
            Interval {
                run: 0,
                at: closed.end_ns.saturating_sub(began_ns) as f64 / NS,
                seconds: closed.length_ns as f64 / NS,
                roles: roles.filter_map(|(role, figures)| Some((role, figures?))).collect(),
            }
        };
        self.done.iter().map(interval).collect()
    }

    /// The last that is over, all roles together.
    #[must_use]
    pub fn last(&self) -> Option<IntervalFigures> {
        let all = self.done.last()?.roles.into_iter().flatten();
        all.reduce(|mut all, role| {
            all.threads += role.threads;
            all.merge(&role);
            all
        })
    }
}

impl Closed {
    fn append(&mut self, later: &Self) {
        self.end_ns = later.end_ns;
        self.length_ns += later.length_ns;
        for (ours, later) in self.roles.iter_mut().zip(&later.roles) {
            match (ours.as_mut(), later) {
                (Some(ours), Some(later)) => {
                    ours.threads = ours.threads.max(later.threads);
                    ours.merge(later);
                }
                (None, later) => *ours = *later,
                (Some(_), None) => {}
            }
        }
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self { figures: IntervalFigures::default(), buckets: Box::new([0; BUCKETS]) }
    }
}

impl Sum {
    /// `None` if there was no thread.
    fn closed(self) -> Option<IntervalFigures> {
        let counts = (0..).zip(self.buckets.iter().copied());
        let waits = Distribution {
            count: self.figures.waits,
            total_ns: self.figures.wait_ns,
            max_ns: self.figures.wait_max_ns,
            buckets: counts.filter(|(_, count)| *count > 0).collect(),
        };
        let wait_p99_ns = waits.quantile_ns(0.99).unwrap_or(0);
        (self.figures.threads > 0).then_some(IntervalFigures { wait_p99_ns, ..self.figures })
    }
}

fn index(role: ThreadRole) -> usize {
    match role {
        ThreadRole::Member => 0,
        ThreadRole::Forward => 1,
        ThreadRole::Other => 2,
    }
}

#[cfg(test)]
mod tests {
    use numa_ebpf::{account::duration::SLICE, histogram::record};

    use super::*;
    use crate::core::{
        jitter::{account::Measured, places::Places},
        synthetic::Machine,
    };

    fn places() -> Places {
        Places::new(&Machine { sockets: 2, ..Machine::default() }.topology())
    }

    fn seen(account: &Account, now_ns: u64) -> Seen {
        let places = places();
        let reader = Reader { places: &places, measured: Measured::ALL, began_ns: 0 };
        let home = Home { set: places.plan_set(&"0-3".parse().unwrap()), planned: true };
        Seen::new(&reader, account, Some(&home), now_ns)
    }

    fn account(run_ns: u64, waits: &[u64]) -> Account {
        let mut account = Account::EMPTY;
        account.durations[SLICE].total_ns = run_ns;
        account.off_node.ns = run_ns / 10;
        account.moves_by_span[span::MACHINE] = waits.len() as u64;
        let (summary, buckets) = (&mut account.durations[WAKE_WAIT], &mut account.buckets[WAKE_WAIT]);
        waits.iter().for_each(|ns| record(summary, buckets, *ns));
        account
    }

    #[test]
    fn an_interval_has_what_was_added_in_it_by_the_role_at_its_end() {
        let mut timeline = Timeline::new(1000, 100, true);
        let (first, second) =
            (seen(&account(100, &[500, 9_000_000]), 0), seen(&account(350, &[500, 9_000_000, 3000]), 0));
        timeline.add(ThreadRole::Member, &Seen::default(), &first, false);
        timeline.close(2_000_001_000, [ThreadRole::Member]);
        timeline.add(ThreadRole::Forward, &first, &second, false);
        timeline.add(ThreadRole::Other, &Seen::default(), &seen(&account(7, &[]), 0), true);
        timeline.close(3_000_001_000, [ThreadRole::Forward]);
        let intervals = timeline.intervals(1000);
        assert_eq!((intervals[0].at, intervals[0].seconds, intervals[1].seconds), (2.0, 2.0, 1.0));
        let member = intervals[0].roles[&ThreadRole::Member];
        assert_eq!(
            (member.threads, member.run_ns, member.off_node_ns, member.node_migrations),
            (1, 100, Some(10), Some(2))
        );
        assert_eq!((member.waits, member.wait_ns, member.wait_max_ns), (2, 9_000_500, 9_000_000));
        assert!(member.wait_p99_ns.abs_diff(9_000_000) < 9_000_000 / 15, "{}", member.wait_p99_ns);
        let forward = intervals[1].roles[&ThreadRole::Forward];
        assert_eq!(
            (forward.run_ns, forward.off_node_ns, forward.waits, forward.wait_ns),
            (250, Some(25), 1, 3000)
        );
        assert!((3000..3500).contains(&forward.wait_max_ns), "{}", forward.wait_max_ns);
        assert_eq!(intervals[1].roles[&ThreadRole::Other].threads, 1, "it ended in there");
        assert!(!intervals[1].roles.contains_key(&ThreadRole::Member));
        let last = timeline.last().unwrap();
        assert_eq!((last.threads, last.run_ns), (2, 257));
    }

    #[test]
    fn a_run_that_goes_on_is_split_between_intervals() {
        let running = Account { running_since_ns: 100, cpu: 5, ..Account::EMPTY };
        let (first, second) = (seen(&running, 400), seen(&running, 1000));
        let mut timeline = Timeline::new(0, 100, false);
        timeline.add(ThreadRole::Member, &first, &second, false);
        timeline.close(1000, [ThreadRole::Member]);
        let figures = timeline.last().unwrap();
        assert_eq!((figures.run_ns, figures.off_node_ns, figures.migrations), (600, Some(600), None));
    }

    #[test]
    fn many_intervals_become_fewer_and_nothing_is_lost() {
        let mut timeline = Timeline::new(0, 8, true);
        let mut before = Seen::default();
        for tick in 1..=100u64 {
            let now = seen(&account(tick * 10, &vec![1000; tick as usize]), 0);
            timeline.add(ThreadRole::Member, &before, &now, false);
            timeline.close(tick * 1_000_000_000, [ThreadRole::Member]);
            before = now;
            let intervals = timeline.intervals(0);
            assert!(intervals.len() <= 8, "{}", intervals.len());
            let sum = |of: fn(&IntervalFigures) -> u64| -> u64 {
                intervals.iter().map(|interval| of(&interval.roles[&ThreadRole::Member])).sum()
            };
            assert_eq!((sum(|f| f.run_ns), sum(|f| f.waits)), (tick * 10, tick));
            let seconds: f64 = intervals.iter().map(|interval| interval.seconds).sum();
            assert_eq!((seconds, intervals.last().unwrap().at), (tick as f64, tick as f64));
        }
    }
}
