//! Statistics of repeated measurements. Pure.

/// The middle value, the mean of the two middle ones for an even number; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

/// The smallest value that so large a share of all is at most as large as; `None` of nothing.
#[must_use]
pub fn quantile(values: &[f64], quantile: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = ((sorted.len() as f64 * quantile).ceil() as usize).saturating_sub(1);
    sorted.get(index).copied()
}

/// The smallest value; `None` of nothing.
#[must_use]
pub fn best(values: &[f64]) -> Option<f64> {
    values.iter().copied().min_by(f64::total_cmp)
}

/// A figure that must not be larger than a bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// What was measured.
    pub what: String,
    /// The figure.
    pub measured: f64,
    /// The bound.
    pub at_most: f64,
    /// Unit of both.
    pub unit: &'static str,
}

impl Bound {
    /// Whether the figure is within the bound.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.measured <= self.at_most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0, 9.0, 4.0]), Some(3.5));
        assert_eq!(median(&[]), None);
        assert_eq!((best(&[3.0, 1.0]), best(&[])), (Some(1.0), None));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((quantile(&values, 0.99), quantile(&values, 1.0)), (Some(198.0), Some(200.0)));
        assert_eq!((quantile(&[3.0], 0.99), quantile(&[], 0.99)), (Some(3.0), None));
    }

    #[test]
    fn a_bound_includes_its_limit() {
        let bound = |measured| Bound { what: String::new(), measured, at_most: 1.2, unit: "x" };
        assert!(bound(1.2).holds() && !bound(1.21).holds() && !bound(f64::NAN).holds());
    }
}
