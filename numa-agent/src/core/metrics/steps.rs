//! Durations counted in a few fixed steps, as Prometheus has its histograms.

use numa_ebpf::histogram::{BUCKETS, lowest_ns};

/// The ends of the steps in nanoseconds. Each is the end of one of the kernel side's buckets, so that a step holds whole buckets:
/// a microsecond to 64 by fours, to a quarter of a second by twos, by fours to 17 s. What is longer is in a last step without an end.
pub const ENDS_NS: [u64; 19] = {
    let mut ends = [0; 19];
    let shifts = [10, 12, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30, 32, 34];
    let mut index = 0;
    while index < ends.len() {
        ends[index] = 1 << shifts[index];
        index += 1;
    }
    ends
};

/// How many durations ended in each step, and their sum. Only grows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps {
    counts: [u64; ENDS_NS.len() + 1],
    sum_ns: u64,
}

impl Steps {
    /// Counts one.
    pub fn add(&mut self, ns: u64) {
        self.counts[ENDS_NS.partition_point(|end| *end < ns)] += 1;
        self.add_time(ns);
    }

    /// Counts `count` more in that bucket of [`numa_ebpf::histogram`]; their time is for [`Steps::add_time`].
    pub fn add_bucket(&mut self, bucket: u16, count: u64) {
        let next = usize::from(bucket) + 1;
        // The last bucket has no end.
        let step = match next < BUCKETS {
            true => ENDS_NS.partition_point(|end| *end < lowest_ns(next)),
            false => ENDS_NS.len(),
        };
        self.counts[step] = self.counts[step].saturating_add(count);
    }

    /// Adds to the sum.
    pub fn add_time(&mut self, ns: u64) {
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Their sum in nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// How many in each step, with its end in nanoseconds; `None`: the last, which has none.
    pub fn iter(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        ENDS_NS.into_iter().map(Some).chain([None]).zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use numa_ebpf::histogram::bucket;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_end_is_the_end_of_a_bucket() {
        for end in ENDS_NS {
            assert_eq!(lowest_ns(bucket(end)), end);
        }
        assert!(ENDS_NS.is_sorted());
    }

    proptest! {
        /// But for durations that are an end to the nanosecond, which the kernel side counts as longer.
        #[test]
        fn a_duration_and_its_bucket_are_in_the_same_step(shift in 0..63u32, rest: u64) {
            let ns = (1 << shift) + rest % (1 << shift);
            prop_assume!(!ENDS_NS.contains(&ns));
            let (mut exact, mut by_bucket) = (Steps::default(), Steps::default());
            exact.add(ns);
            by_bucket.add_bucket(bucket(ns) as u16, 1);
            by_bucket.add_time(ns);
            prop_assert_eq!(&exact, &by_bucket);
            let (end, count) = exact.iter().find(|(_, count)| *count > 0).unwrap();
            prop_assert_eq!((count, exact.count(), exact.sum_ns()), (1, 1, ns));
            prop_assert!(end.is_none_or(|end| ns < end));
        }
    }
}
