//! When user space is woken for the ring buffer.
//!
//! A wake-up costs an interrupt and two task switches, far more than most records do. What cannot wait wakes user space at
//! once. What can wait does so as well, but not for [`QUIET_NS`] after an earlier wake-up: user space looks again
//! [`LOOK_AGAIN_NS`] after each one, and so on until it finds nothing. That is later than the quiet time is over, so that no
//! record waits for longer than that, and nobody looks while nothing happens.

/// For so long after a wake-up, in nanoseconds, records that can wait cause none.
pub const QUIET_NS: u64 = 4_000_000;

/// So long after a wake-up, in nanoseconds, user space looks again.
pub const LOOK_AGAIN_NS: u64 = 5_000_000;

/// How soon user space is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A task may be where it does not belong.
    Now,
    /// Nothing is to be done about it.
    Soon,
}

impl Urgency {
    /// Whether a record of `now_ns` wakes user space, which was last woken at `woken_ns`; that may be later, by another CPU.
    #[inline(always)]
    #[must_use]
    pub const fn wakes(self, woken_ns: u64, now_ns: u64) -> bool {
        match self {
            Self::Now => true,
            Self::Soon => now_ns.saturating_sub(woken_ns) >= QUIET_NS,
        }
    }
}

const _: () =
    assert!(LOOK_AGAIN_NS >= QUIET_NS + QUIET_NS / 4, "time to submit what was judged in the quiet time");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_wait_wakes_nobody_who_will_look_anyway() {
        let woken = 1_000_000_000;
        assert!(Urgency::Now.wakes(woken, woken) && Urgency::Now.wakes(woken, woken + QUIET_NS));
        assert!(!Urgency::Soon.wakes(woken, woken) && !Urgency::Soon.wakes(woken, woken + QUIET_NS - 1));
        assert!(Urgency::Soon.wakes(woken, woken + QUIET_NS) && Urgency::Soon.wakes(0, woken));
        assert!(!Urgency::Soon.wakes(woken + 1, woken), "another CPU was faster");
    }
}
