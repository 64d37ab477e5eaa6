//! A rate that is not exceeded: a bucket of permissions that fills with time.

/// So many a second, and no more than a tenth of a second's worth at once.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Nanoseconds for one; 0: no limit.
    each_ns: u64,
    room_ns: u64,
    saved_ns: u64,
    as_of_ns: u64,
}

impl Pace {
    /// `None`: any number.
    #[must_use]
    pub fn new(per_second: Option<u32>) -> Self {
        let each_ns = per_second.map_or(0, |rate| (1_000_000_000 / u64::from(rate.max(1))).max(1));
        let room_ns = each_ns.max(100_000_000);
        Self { each_ns, room_ns, saved_ns: room_ns, as_of_ns: 0 }
    }

    /// Takes a permission, if there is one.
    pub fn take(&mut self, now_ns: u64) -> bool {
        self.fill(now_ns);
        let granted = self.saved_ns >= self.each_ns;
        if granted {
            self.saved_ns -= self.each_ns;
        }
        granted
    }

    /// How long until there is one.
    pub fn wait_ns(&mut self, now_ns: u64) -> u64 {
        self.fill(now_ns);
        self.each_ns.saturating_sub(self.saved_ns)
    }

    fn fill(&mut self, now_ns: u64) {
        let gained = now_ns.saturating_sub(self.as_of_ns);
        self.saved_ns = self.saved_ns.saturating_add(gained).min(self.room_ns);
        self.as_of_ns = self.as_of_ns.max(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn no_more_than_asked_for_and_a_tenth_at_once() {
        for rate in [1, 7, 100, 5000] {
            let mut pace = Pace::new(Some(rate));
            let taken =
                (0..10 * SECOND).step_by(100_000).filter(|now| pace.take(SECOND + now)).count() as u64;
            let rate = u64::from(rate);
            assert!((10 * rate..=10 * rate + rate / 10 + 2).contains(&taken), "{taken} at {rate}");
            let at_once = (0..10_000).filter(|_| pace.take(100 * SECOND)).count() as u64;
            assert_eq!(at_once, (rate / 10).max(1), "{rate}");
            let wait = pace.wait_ns(100 * SECOND);
            assert!(
                wait > 0 && !pace.take(100 * SECOND + wait - 1) && pace.take(100 * SECOND + wait),
                "{wait}"
            );
        }
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let mut pace = Pace::new(None);
        assert!((0..1_000_000).all(|_| pace.take(1)));
    }
}
