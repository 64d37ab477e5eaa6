//! Accounts of short lives, small enough to go along with the word of their end: a thread that was born on plan, ran once or twice on
//! one CPU and ended. Of two durations, count, sum and maximum tell each.

use crate::{
    account::{Account, Occupant, cause, duration},
    histogram::{self, Summary},
    place::UNKNOWN,
};

/// The most durations of each kind that a short life has.
const MOST: u64 = 2;

/// All that the account says of a task that was born on plan and whose life was short, but whose it is and when it was closed.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brief {
    /// When the account was opened, in `CLOCK_MONOTONIC` nanoseconds.
    pub opened_at_ns: u64,
    /// The CPU it was on.
    pub cpu: u32,
    /// That CPU's node by dense index; [`UNKNOWN`]: nobody knows.
    pub node: u32,
    /// How many durations, by [`duration`].
    pub counts: [u32; duration::COUNT],
    /// Those, in nanoseconds, the longer one first.
    pub durations_ns: [[u32; 2]; duration::COUNT],
    /// The first of [`Account::preemptors`].
    pub preemptor: Occupant,
    /// Time of [`Account::preemptors_rest`], in nanoseconds.
    pub rest_ns: u64,
    /// How often that was.
    pub rest_count: u64,
}

impl Brief {
    /// Of the account of a task that has ended on a CPU of that node; `None` if there is more to say.
    #[inline(always)]
    #[must_use]
    pub fn of(account: &Account, node: u32) -> Option<Self> {
        let Account { off_node, irq, softirq, early, .. } = account;
        // What a short life has none of; or-ed, so that there is one branch for them all.
        let mut more = early[0].cpu | account.off_plan_ns | off_node.runs | irq.count | softirq.count;
        more |= account.numa_target | account.numa_moves | account.numa_swaps | account.preemptors[1].count;
        let mut index = 0;
        while index < cause::COUNT {
            more |= account.moves_by_cause[index];
            index += 1;
        }
        let (mut counts, mut durations_ns) = ([0; duration::COUNT], [[0; 2]; duration::COUNT]);
        index = 0;
        while index < duration::COUNT {
            let Summary { count, total_ns, max_ns } = account.durations[index];
            if count > MOST {
                return None;
            }
            more |= total_ns >> u32::BITS;
            counts[index] = count as u32;
            durations_ns[index] = [max_ns as u32, total_ns.wrapping_sub(max_ns) as u32];
            index += 1;
        }
        if more != 0 {
            return None;
        }
        let (opened_at_ns, cpu) = (account.opened_at_ns, account.cpu);
        let (preemptor, rest) = (account.preemptors[0], account.preemptors_rest);
        let (rest_ns, rest_count) = (rest.ns, rest.count);
        Some(Self { opened_at_ns, cpu, node, counts, durations_ns, preemptor, rest_ns, rest_count })
    }

    /// The account again, without task and end.
    #[must_use]
    pub fn account(&self) -> Account {
        let mut account = Account { opened_at_ns: self.opened_at_ns, cpu: self.cpu, ..Account::EMPTY };
        for (kind, durations_ns) in self.durations_ns.iter().enumerate() {
            for ns in durations_ns.iter().take(self.counts[kind] as usize) {
                let (summary, buckets) = (&mut account.durations[kind], &mut account.buckets[kind]);
                histogram::record(summary, buckets, u64::from(*ns));
            }
        }
        let known = Some(self.node as usize).filter(|_| self.node != UNKNOWN);
        if let Some(ns) = known.and_then(|node| account.node_ns.get_mut(node)) {
            *ns = account.durations[duration::SLICE].total_ns;
        }
        account.preemptors[0] = self.preemptor;
        (account.preemptors_rest.ns, account.preemptors_rest.count) = (self.rest_ns, self.rest_count);
        account
    }
}

const _: () = assert!(size_of::<Brief>() == 8 + 2 * 4 + duration::COUNT * 12 + size_of::<Occupant>() + 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Early;

    fn of_runs(runs: &[u64]) -> Account {
        let mut account = Account { opened_at_ns: 5, cpu: 3, ..Account::EMPTY };
        for ns in runs {
            let (summary, buckets) =
                (&mut account.durations[duration::SLICE], &mut account.buckets[duration::SLICE]);
            histogram::record(summary, buckets, *ns);
            account.node_ns[1] += ns;
        }
        account
    }

    #[test]
    fn a_short_life_comes_out_as_it_was() {
        for runs in [&[][..], &[0], &[7000], &[7000, 9000], &[9000, 7000], &[4000, 4000], &[0, 0]] {
            let mut account = of_runs(runs);
            let wait =
                (&mut account.durations[duration::WAKE_WAIT], &mut account.buckets[duration::WAKE_WAIT]);
            histogram::record(wait.0, wait.1, 12_345);
            account.preemptors[0] = Occupant { comm: *b"somebody\0\0\0\0\0\0\0\0", ns: 12_345, count: 1 };
            (account.preemptors_rest.ns, account.preemptors_rest.count) = (300, 2);
            assert_eq!(Brief::of(&account, 1).expect("short").account(), account, "{runs:?}");
        }
        let mut nowhere = of_runs(&[10]);
        nowhere.node_ns[1] = 0;
        assert_eq!(Brief::of(&nowhere, UNKNOWN).expect("short").account(), nowhere);
    }

    #[test]
    fn whatever_else_there_is_to_say_makes_a_life_long() {
        let long: [fn(&mut Account); 13] = [
            |account| account.durations[duration::GAP].count = 3,
            |account| account.durations[duration::SLICE].total_ns = 1 << 32,
            |account| account.early[0] = Early { cpu: 1, ns: 5 },
            |account| account.off_plan_ns = 1,
            |account| account.off_node.runs = 1,
            |account| account.moves_by_cause[cause::LOAD_BALANCER] = 1,
            |account| account.moves_by_cause[cause::WAKE_UP] = 1,
            |account| account.numa_target = 1,
            |account| account.numa_moves = 1,
            |account| account.numa_swaps = 1,
            |account| account.irq.count = 1,
            |account| account.softirq.count = 1,
            |account| account.preemptors[1].count = 1,
        ];
        for (index, makes_long) in long.iter().enumerate() {
            let mut account = of_runs(&[7000]);
            makes_long(&mut account);
            assert_eq!(Brief::of(&account, 1), None, "{index}");
        }
    }
}
