//! Times between tokens, exact, and how much they fluctuate.

use crate::core::choice::words;

/// Times between successive tokens, in nanoseconds. Percentiles are by nearest rank: each is one of the times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps {
    /// Ascending.
    sorted: Vec<u64>,
}

/// What is called fluctuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fluctuation {
    /// From the median to the 99th percentile.
    #[default]
    P99P50,
    /// From the median to the 99.9th percentile.
    P999P50,
    /// From the 5th percentile to the 95th.
    P95P5,
    /// From the shortest to the longest.
    MaxMin,
    /// From the median to the longest.
    MaxP50,
    /// Standard deviation.
    Stddev,
}

words!(
    Fluctuation: "p99-p50" P99P50, "p99.9-p50" P999P50, "p95-p5" P95P5, "max-min" MaxMin, "max-p50" MaxP50, "stddev" Stddev
);

impl Fluctuation {
    /// All definitions.
    pub const ALL: [Self; 6] =
        [Self::P99P50, Self::P999P50, Self::P95P5, Self::MaxMin, Self::MaxP50, Self::Stddev];

    /// How much these times fluctuate, in nanoseconds; `None` without any.
    #[must_use]
    pub fn of(self, gaps: &Gaps) -> Option<u64> {
        let between = |low: Option<u64>, high: Option<u64>| Some(high?.saturating_sub(low?));
        match self {
            Self::P99P50 => between(gaps.percentile_ns(50.0), gaps.percentile_ns(99.0)),
            Self::P999P50 => between(gaps.percentile_ns(50.0), gaps.percentile_ns(99.9)),
            Self::P95P5 => between(gaps.percentile_ns(5.0), gaps.percentile_ns(95.0)),
            Self::MaxMin => between(gaps.percentile_ns(0.0), gaps.percentile_ns(100.0)),
            Self::MaxP50 => between(gaps.percentile_ns(50.0), gaps.percentile_ns(100.0)),
            Self::Stddev => gaps.stddev_ns().map(|ns| ns.round() as u64),
        }
    }
}

impl Gaps {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The time that so many of 100 do not exceed; 0: the shortest. `None` without any.
    #[must_use]
    pub fn percentile_ns(&self, percent: f64) -> Option<u64> {
        // In thousandths of a percent: 99.9 % of 1000 is the 999th, whatever binary fractions say.
        let part = (percent * 1000.0).round() as usize;
        let rank = self.sorted.len().checked_mul(part)?.div_ceil(100_000);
        self.sorted.get(rank.saturating_sub(1)).copied()
    }

    /// The mean; `None` without any.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        let sum: u128 = self.sorted.iter().map(|ns| u128::from(*ns)).sum();
        (!self.sorted.is_empty()).then(|| sum as f64 / self.sorted.len() as f64)
    }

    /// The standard deviation of these times (not an estimate for others like them); `None` without any.
    #[must_use]
    pub fn stddev_ns(&self) -> Option<f64> {
        let mean = self.mean_ns()?;
        let squares: f64 = self.sorted.iter().map(|ns| (*ns as f64 - mean).powi(2)).sum();
        Some((squares / self.sorted.len() as f64).sqrt())
    }

    /// How many are shorter.
    #[must_use]
    pub fn shorter_than(&self, ns: u64) -> usize {
        self.sorted.partition_point(|gap| *gap < ns)
    }

    /// Adds others.
    pub fn merge(&mut self, other: Self) {
        self.sorted.extend(other.sorted);
        self.sorted.sort_unstable();
    }
}

impl FromIterator<u64> for Gaps {
    fn from_iter<I: IntoIterator<Item = u64>>(gaps: I) -> Self {
        let mut sorted: Vec<u64> = gaps.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let gaps: Gaps = (1..=1000).rev().collect();
        let percentiles = [0.0, 0.1, 5.0, 50.0, 95.0, 99.0, 99.9, 100.0];
        let values: Vec<u64> =
            percentiles.iter().filter_map(|percent| gaps.percentile_ns(*percent)).collect();
        assert_eq!(values, [1, 1, 50, 500, 950, 990, 999, 1000]);
        assert_eq!(gaps.mean_ns(), Some(500.5));
        assert_eq!((gaps.shorter_than(1), gaps.shorter_than(11)), (0, 10));
    }

    #[test]
    fn every_definition_measures_what_it_says() {
        let gaps: Gaps = (1..=1000).collect();
        let fluctuations = Fluctuation::ALL.map(|definition| definition.of(&gaps));
        // The standard deviation of 1..=n is sqrt((n * n - 1) / 12).
        assert_eq!(fluctuations, [490, 499, 900, 999, 500, 289].map(Some));
        assert_eq!(Fluctuation::ALL.map(|definition| definition.of(&Gaps::default())), [None; 6]);
    }

    #[test]
    fn a_millisecond_in_thirty_is_told_exactly() {
        // One more nanosecond than a millisecond: buckets of a sixteenth could not tell.
        let gaps: Gaps = (0..1000).map(|index| if index < 985 { 30_000_000 } else { 31_000_001 }).collect();
        assert_eq!(Fluctuation::P99P50.of(&gaps), Some(1_000_001));
    }

    #[test]
    fn definitions_are_words() {
        assert_eq!("p99.9-p50".parse(), Ok(Fluctuation::P999P50));
        let slip = "p99-p5".parse::<Fluctuation>().unwrap_err().to_string();
        assert!(slip.contains("not one of p99-p50, p99.9-p50") && slip.contains("did you mean"), "{slip}");
    }

    proptest! {
        #[test]
        fn order_and_parts_are_no_matter(a in proptest::collection::vec(any::<u64>(), 0..50), b in proptest::collection::vec(any::<u64>(), 0..50)) {
            let mut merged: Gaps = a.iter().copied().collect();
            merged.merge(b.iter().copied().collect());
            let together: Gaps = b.into_iter().chain(a).collect();
            for definition in Fluctuation::ALL {
                prop_assert_eq!(definition.of(&merged), definition.of(&together));
            }
        }
    }
}
