//! When `repair` pauses and goes slower: by how long the critical threads wait for a CPU.

/// Without a word for so long nobody knows how they do.
pub const SILENCE_NS: u64 = 2_000_000_000;
/// Calm for so long at least, it is over.
const CALM_NS: u64 = 1_000_000_000;
/// However long somebody waited, this is enough.
const MOST_CALM_NS: u64 = 30_000_000_000;
/// Calm for so long while pages move, they move in twice the share of the time.
const FASTER_NS: u64 = 10_000_000_000;
/// Rises that each halve the share of the time.
const MOST_HALVINGS: u32 = 5;

/// Whether pages may be moved, and in what share of the time.
///
/// A rise is a wait that is longer than it may be. Nothing moves until no wait has been for a second, and for twice as long as the longest
/// was: one that goes on is not seen before it ends. After each rise pages move in half the share of the time, and after every ten
/// calm seconds in twice of that again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brake {
    max_wait_ns: u64,
    /// Of a rise that is not over: its longest wait, and for how long it has been calm since.
    rise: Option<(u64, u64)>,
    /// Whether anything is known yet.
    known: bool,
    halvings: u32,
    /// For how long it has been calm since the last rise was over, or since pages move faster.
    calm_ns: u64,
}

impl Brake {
    /// Nothing moves before the first word of how they do.
    #[must_use]
    pub fn new(max_wait_ns: u64) -> Self {
        Self { max_wait_ns, rise: None, known: false, halvings: 0, calm_ns: 0 }
    }

    /// An interval is over, in which nobody waited longer than that.
    pub fn report(&mut self, interval_ns: u64, longest_ns: u64) {
        self.known = true;
        if longest_ns > self.max_wait_ns {
            if self.rise.is_none() {
                self.halvings = (self.halvings + 1).min(MOST_HALVINGS);
            }
            let before = self.rise.map_or(0, |(longest, _)| longest);
            self.rise = Some((before.max(longest_ns), 0));
            self.calm_ns = 0;
        } else if let Some((longest, calm)) = &mut self.rise {
            *calm += interval_ns;
            if *calm >= longest.saturating_mul(2).clamp(CALM_NS, MOST_CALM_NS) {
                self.rise = None;
            }
        } else {
            self.calm_ns += interval_ns;
            if self.calm_ns >= FASTER_NS {
                self.halvings = self.halvings.saturating_sub(1);
                self.calm_ns = 0;
            }
        }
    }

    /// Whether nothing may be moved now, so long after the last report.
    #[must_use]
    pub fn holds(&self, since_report_ns: u64) -> bool {
        !self.known || self.rise.is_some() || since_report_ns > SILENCE_NS
    }

    /// The share of the time that is left of the one that was asked for, in percent.
    #[must_use]
    pub fn duty_percent(&self, asked: u64) -> u64 {
        (asked >> self.halvings).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The brake of somebody who may wait 5 ms, after intervals of 200 ms with these longest waits.
    fn after(brake: &mut Brake, longest_ms: &[u64]) -> (bool, u64) {
        longest_ms.iter().for_each(|ms| brake.report(200 * MS, ms * MS));
        (brake.holds(0), brake.duty_percent(50))
    }

    #[test]
    fn nothing_moves_before_anything_is_known_or_when_nothing_is_known_any_more() {
        let mut brake = Brake::new(5 * MS);
        assert!(brake.holds(0));
        assert_eq!(after(&mut brake, &[5]), (false, 50), "as long as they may");
        assert!(!brake.holds(SILENCE_NS) && brake.holds(SILENCE_NS + 1));
    }

    #[test]
    fn a_rise_holds_until_it_has_been_calm_for_long_enough() {
        let mut brake = Brake::new(5 * MS);
        assert_eq!(after(&mut brake, &[1, 6]), (true, 25));
        assert_eq!(after(&mut brake, &[0, 0, 0, 0]), (true, 25));
        assert_eq!(after(&mut brake, &[5]), (false, 25), "a second");
        // A longer wait: it may be one of many, each of which is unseen until it ends.
        assert_eq!(after(&mut brake, &[900, 0, 0, 0, 0, 950, 0, 0, 0, 0, 0, 0, 0, 0, 0]), (true, 12));
        assert_eq!(after(&mut brake, &[0]), (false, 12), "twice 950 ms");
        // And not for ever.
        assert_eq!(after(&mut brake, &[1_000_000]), (true, 6));
        assert_eq!(after(&mut brake, &[0; 149]), (true, 6));
        assert_eq!(after(&mut brake, &[0]), (false, 6));
    }

    #[test]
    fn each_rise_makes_it_slower_and_calm_faster_again() {
        let mut brake = Brake::new(5 * MS);
        for duty in [25, 12, 6, 3, 1, 1, 1] {
            assert_eq!(after(&mut brake, &[7, 8, 0, 0, 0, 0, 0]), (false, duty));
        }
        // Ten seconds for each step; a longer wait in between begins them anew.
        assert_eq!(after(&mut brake, &[0; 49]), (false, 1));
        assert_eq!(after(&mut brake, &[0]), (false, 3));
        for duty in [6, 12, 25, 50, 50] {
            assert_eq!(after(&mut brake, &[0; 50]), (false, duty));
        }
        assert_eq!(after(&mut brake, &[0; 40]), (false, 50));
        assert_eq!(after(&mut brake, &[9, 0, 0, 0, 0, 0]), (false, 25));
        assert_eq!(after(&mut brake, &[0; 40]), (false, 25));
    }
}
