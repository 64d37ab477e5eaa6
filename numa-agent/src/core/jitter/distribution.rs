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
    /// The longest in nanoseconds.
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

    /// The duration that the share `quantile` (0 to 1) of all does not exceed, in nanoseconds; `None` without any.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        self.quantile_bucket(quantile).map(|bucket| middle_ns(bucket).min(self.max_ns))
    }

    /// The longest that [`Distribution::quantile_ns`] may really be: the end of its bucket.
    #[must_use]
    pub fn quantile_end_ns(&self, quantile: f64) -> Option<u64> {
        self.quantile_bucket(quantile).map(|bucket| end_ns(bucket).min(self.max_ns))
    }

    /// The bucket of the duration that the share `quantile`, taken to a hundred-thousandth, of all does not exceed.
    #[must_use]
    pub fn quantile_bucket(&self, quantile: f64) -> Option<u16> {
        // As HDR histograms have it, without making one: reports ask this of each of ten thousand threads. In whole numbers:
        // 99.9 % of 1000 is the 999th, whatever binary fractions say.
        let counted: u128 = self.buckets.values().map(|count| u128::from(*count)).sum();
        let rank = (counted * (quantile * 1e5).round() as u128).div_ceil(100_000).max(1);
        let mut below = 0;
        let reached = self.buckets.iter().find(|(_, count)| {
            below += u128::from(**count);
            below >= rank
        });
        reached.map(|(bucket, _)| *bucket)
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
        let buckets: BTreeMap<u16, u64> =
            filled(buckets).map(|(bucket, count)| (bucket, u64::from(count))).collect();
        let Some(highest) = buckets.last_key_value().map(|(bucket, _)| usize::from(*bucket)) else {
            return Self::default();
        };
        // Accounts are read while they are written: a duration may be in the one and not yet in the other.
        Self {
            count: summary.count.max(buckets.values().sum()),
            total_ns: summary.total_ns,
            max_ns: summary.max_ns.max(histogram::lowest_ns(highest)),
            buckets,
        }
    }
}

/// The buckets that are not empty. Most are, and looked at many at a time.
pub(super) fn filled(buckets: &Buckets) -> impl Iterator<Item = (u16, u32)> {
    const MANY: usize = 16;
    let filled = (0u16..).step_by(MANY).zip(buckets.chunks(MANY)).filter(|(_, counts)| {
        // Without branches.
        counts.iter().fold(0, |all, count| all | count) != 0
    });
    filled.flat_map(|(first, counts)| (first..).zip(counts.iter().copied())).filter(|(_, count)| *count > 0)
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
    fn a_duration_that_is_half_entered_makes_no_figures_that_cannot_be() {
        let of_two = of(&[700, 9_000_000]);
        let mut buckets = [0; histogram::BUCKETS];
        of_two.buckets.keys().for_each(|bucket| buckets[usize::from(*bucket)] = 1);
        let before = Distribution::new(&Summary { count: 1, total_ns: 700, max_ns: 700 }, &buckets);
        assert_eq!((before.count, before.max_ns), (2, histogram::lowest_ns(histogram::bucket(9_000_000))));
        let first = Summary { count: 1, total_ns: 700, max_ns: 700 };
        assert_eq!(Distribution::new(&first, &[0; histogram::BUCKETS]), Distribution::default());
    }

    proptest! {
        #[test]
        fn percentiles_are_a_sixteenth_off_at_most(mut durations in proptest::collection::vec(512u64..60_000_000_000, 1..300), hundredth in 1u32..100) {
            let distribution = of(&durations);
            durations.sort_unstable();
            let quantile = f64::from(hundredth) / 100.0;
            let rank = (hundredth as usize * durations.len()).div_ceil(100);
            let exact = durations[rank - 1];
            let ours = distribution.quantile_ns(quantile).unwrap();
            prop_assert!(ours.abs_diff(exact) as f64 <= exact as f64 / 16.0 + 1.0, "{ours} for {exact}");
            let end = distribution.quantile_end_ns(quantile).unwrap();
            prop_assert!((exact.max(ours)..=exact + exact / 8 + 1).contains(&end), "{end} for {exact}");
            // hdrhistogram's own two digits come on top; its ranks are of binary fractions.
            let hdr = distribution.to_hdr().value_at_quantile(quantile * (1.0 - 1e-9));
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
