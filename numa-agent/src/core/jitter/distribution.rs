//! Durations, as the kernel side counts them: in the buckets of [`numa_ebpf::histogram`].

use std::collections::BTreeMap;

use hdrhistogram::Histogram as Hdr;
use numa_ebpf::{
    account::Account,
    histogram::{self, Buckets, Summary},
};
use serde::{Deserialize, Serialize};

/// How often durations were how long. Percentiles are at most 1/16 off (32 ns below 512 ns); count, sum and longest are
/// exact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// How many durations.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub total_ns: u64,
    /// The longest in nanoseconds. Of a stretch of time ([`Distribution::since`]): at most this.
    pub max_ns: u64,
    /// How many by bucket, those that are not empty.
    pub buckets: BTreeMap<u16, u64>,
}

/// How long durations were, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half of them are at most this long.
    pub p50_ns: u64,
    /// Nine of ten.
    pub p90_ns: u64,
    /// 99 of a hundred.
    pub p99_ns: u64,
    /// 999 of a thousand.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Distribution {
    /// Adds another's durations.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        for (bucket, count) in &other.buckets {
            let sum = self.buckets.entry(*bucket).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// What was added since `earlier`, an earlier state of the same. The longest is that of all, or the end of the highest
    /// bucket, whichever is less.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: &u16| earlier.buckets.get(bucket).copied().unwrap_or(0);
        let added =
            self.buckets.iter().map(|(bucket, count)| (*bucket, count.saturating_sub(before(bucket))));
        let buckets: BTreeMap<u16, u64> = added.filter(|(_, count)| *count > 0).collect();
        let highest = buckets.last_key_value().map_or(0, |(bucket, _)| end_ns(*bucket));
        Self {
            count: self.count.saturating_sub(earlier.count),
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            max_ns: self.max_ns.min(highest),
            buckets,
        }
    }

    /// The duration that the share `quantile` (0 to 1) of all does not exceed, in nanoseconds; `None` without any.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        // As HDR histograms have it, without making one: reports ask this of each of ten thousand threads.
        let counted = self.buckets.values().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let rank = ((quantile * counted as f64).ceil() as u64).clamp(1, counted.max(1));
        let mut below = 0u64;
        let reached = self.buckets.iter().find(|(_, count)| {
            below = below.saturating_add(**count);
            below >= rank
        });
        reached.map(|(bucket, _)| middle_ns(*bucket).min(self.max_ns))
    }

    /// The percentiles that people ask for; `None` without any.
    #[must_use]
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            p50_ns: self.quantile_ns(0.5)?,
            p90_ns: self.quantile_ns(0.9)?,
            p99_ns: self.quantile_ns(0.99)?,
            p999_ns: self.quantile_ns(0.999)?,
            max_ns: self.max_ns,
        })
    }

    /// The mean in nanoseconds; `None` without any.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total_ns as f64 / self.count as f64)
    }

    /// As an HDR histogram of nanoseconds: each duration counts as the middle of its bucket.
    ///
    /// # Panics
    /// Never: the bounds are constants that hdrhistogram accepts.
    #[must_use]
    pub fn to_hdr(&self) -> Hdr<u64> {
        let most = histogram::lowest_ns(histogram::BUCKETS);
        let mut hdr = Hdr::new_with_bounds(1, most, 2).expect("constant bounds");
        for (bucket, count) in &self.buckets {
            hdr.saturating_record_n(middle_ns(*bucket).max(1), *count);
        }
        hdr
    }
}

impl Distribution {
    /// One of an account's, by [`numa_ebpf::account::duration`].
    #[must_use]
    pub fn of(account: &Account, duration: usize) -> Self {
        Self::new(&account.durations[duration], &account.buckets[duration])
    }

    fn new(summary: &Summary, buckets: &Buckets) -> Self {
        let buckets = buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        Self {
            count: summary.count,
            total_ns: summary.total_ns,
            max_ns: summary.max_ns,
            buckets: buckets.map(|(bucket, count)| (bucket as u16, u64::from(*count))).collect(),
        }
    }
}

impl FromIterator<u64> for Distribution {
    /// Of durations in nanoseconds, each counted as the kernel side does.
    fn from_iter<I: IntoIterator<Item = u64>>(durations: I) -> Self {
        let mut summary = Summary { count: 0, total_ns: 0, max_ns: 0 };
        let mut buckets = [0; histogram::BUCKETS];
        durations.into_iter().for_each(|ns| histogram::record(&mut summary, &mut buckets, ns));
        Self::new(&summary, &buckets)
    }
}

/// What a duration in a bucket counts as.
fn middle_ns(bucket: u16) -> u64 {
    let bucket = usize::from(bucket).min(histogram::BUCKETS - 1);
    histogram::lowest_ns(bucket) + histogram::width_ns(bucket) / 2
}

/// The last nanosecond of a bucket; no end for the last.
pub(super) fn end_ns(bucket: u16) -> u64 {
    let next = usize::from(bucket) + 1;
    if next < histogram::BUCKETS { histogram::lowest_ns(next) - 1 } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[u64]) -> Distribution {
        durations.iter().copied().collect()
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(Distribution::default().quantile_ns(0.5), None);
        assert_eq!(Distribution::default().mean_ns(), None);
        assert_eq!(Distribution::default().percentiles(), None);
    }

    #[test]
    fn an_interval_holds_what_was_added() {
        let (first, second) = ([700, 9_000_000], [800, 5000]);
        let earlier = of(&first);
        let later = of(&[first, second].concat());
        let interval = later.since(&earlier);
        assert_eq!((interval.count, interval.total_ns), (2, 5800));
        assert_eq!(interval.buckets, of(&second).buckets);
        assert!((5000..5700).contains(&interval.max_ns), "{}", interval.max_ns);
        let mut again = earlier;
        again.merge(&interval);
        assert_eq!((again.count, again.buckets), (later.count, later.buckets));
    }

    proptest! {
        #[test]
        fn percentiles_are_a_sixteenth_off_at_most(mut durations in proptest::collection::vec(512u64..60_000_000_000, 1..300), quantile in 0.01f64..1.0) {
            let distribution = of(&durations);
            durations.sort_unstable();
            let rank = (quantile * durations.len() as f64).ceil().max(1.0) as usize;
            let exact = durations[rank - 1];
            let ours = distribution.quantile_ns(quantile).unwrap();
            prop_assert!(ours.abs_diff(exact) as f64 <= exact as f64 / 16.0 + 1.0, "{ours} for {exact}");
            // hdrhistogram's own two digits come on top.
            let hdr = distribution.to_hdr().value_at_quantile(quantile);
            prop_assert!(ours.abs_diff(hdr) as f64 <= hdr as f64 * 0.01 || ours == distribution.max_ns, "{ours}, HDR {hdr}");
            prop_assert_eq!(distribution.max_ns, *durations.last().unwrap());
            let all = distribution.percentiles().unwrap();
            prop_assert_eq!(all.p90_ns, distribution.quantile_ns(0.9).unwrap());
            prop_assert_eq!(all.max_ns, distribution.max_ns);
        }

        #[test]
        fn merging_is_counting_together(a in proptest::collection::vec(any::<u32>(), 0..50), b in proptest::collection::vec(any::<u32>(), 0..50)) {
            let widen = |list: &[u32]| list.iter().map(|ns| u64::from(*ns)).collect::<Vec<_>>();
            let mut merged = of(&widen(&a));
            merged.merge(&of(&widen(&b)));
            prop_assert_eq!(merged, of(&widen(&[a, b].concat())));
        }
    }
}
