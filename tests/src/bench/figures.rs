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

/// How many samples there are, and how many of them are noisy, for tables.
#[must_use]
pub fn samples(all: usize, noisy: usize) -> String {
    if noisy == 0 { all.to_string() } else { format!("{all} ({noisy} noisy)") }
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
    /// Whether it comes of noisy samples alone: then neither verdict proves anything.
    pub noisy: bool,
}

impl Bound {
    /// Whether the figure is within the bound.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.measured <= self.at_most
    }

    /// What is said of it.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (self.holds(), self.noisy) {
            (true, false) => "held",
            (true, true) => "held (noisy)",
            (false, false) => "MISSED",
            (false, true) => "MISSED (noisy)",
        }
    }
}

/// Exit code: a bound was missed, and not by noisy samples alone.
pub const MISSED: u8 = 3;
/// Exit code: none was, but at least one was judged by noisy samples alone.
pub const UNPROVEN: u8 = 4;

/// How the bench ends that has measured everything: 0 if every bound is held, and each by a sample that is not noisy.
#[must_use]
pub fn exit_code<'a>(bounds: impl IntoIterator<Item = &'a Bound> + Clone) -> u8 {
    let any = |what: fn(&Bound) -> bool| bounds.clone().into_iter().any(what);
    if any(|bound| !bound.noisy && !bound.holds()) {
        MISSED
    } else if any(|bound| bound.noisy) {
        UNPROVEN
    } else {
        0
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
        assert!(bound(1.2, false).holds() && !bound(1.21, false).holds() && !bound(f64::NAN, false).holds());
    }

    fn bound(measured: f64, noisy: bool) -> Bound {
        Bound { what: String::new(), measured, at_most: 1.2, unit: "x", noisy }
    }

    #[test]
    fn noise_alone_proves_nothing() {
        let (held, missed) = (bound(1.0, false), bound(2.0, false));
        let (held_in_noise, missed_in_noise) = (bound(1.0, true), bound(2.0, true));
        assert_eq!(
            [&held, &held_in_noise, &missed, &missed_in_noise].map(Bound::verdict),
            ["held", "held (noisy)", "MISSED", "MISSED (noisy)"]
        );
        assert_eq!((exit_code([]), exit_code([&held])), (0, 0));
        assert_eq!(exit_code([&held, &held_in_noise]), UNPROVEN);
        assert_eq!(exit_code([&held, &missed_in_noise]), UNPROVEN);
        assert_eq!(exit_code([&missed_in_noise, &missed, &held]), MISSED);
    }
}
