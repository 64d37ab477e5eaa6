//! Keeping cgroups as the plan has them while others may rewrite them: what is worth a word, and how often it is put back.

use std::collections::BTreeMap;

use super::{Fence, FenceOutcome};

/// How long a cgroup is left alone that was just set, in nanoseconds; twice as long after each time that it had to be put back.
const FIRST_PAUSE_NS: u64 = 1_000_000_000;
/// The longest: two who rewrite one file never fight in a loop.
const LONGEST_PAUSE_NS: u64 = 300_000_000_000;
/// After so long without a change by others it is as if it had never been put back.
const QUIET_NS: u64 = 600_000_000_000;

/// What is known of the cgroups with managed processes.
#[derive(Debug, Clone, Default)]
pub struct Upkeep {
    cgroups: BTreeMap<String, Known>,
}

#[derive(Debug, Clone)]
struct Known {
    told: FenceOutcome,
    /// How often it was set.
    times: u32,
    set_ns: u64,
    pause_ns: u64,
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The cgroup and what became of it.
    pub fence: Fence,
    /// How often somebody else had rewritten it before.
    pub rewritten: u32,
}

impl Upkeep {
    /// Whether a cgroup may be written to now. Times are monotonic nanoseconds.
    #[must_use]
    pub fn may_write(&self, cgroup: &str, at_ns: u64) -> bool {
        self.cgroups
            .get(cgroup)
            .is_none_or(|known| known.times == 0 || at_ns >= known.set_ns.saturating_add(known.pause_ns))
    }

    /// Takes note of what all cgroups came to, and gives what nobody has been told. Who is not among `fences` is forgotten: it
    /// has no managed process any more.
    pub fn note(&mut self, fences: Vec<Fence>, at_ns: u64) -> Vec<News> {
        let mut news = Vec::new();
        let mut before = std::mem::take(&mut self.cgroups);
        for fence in fences {
            let known = before.remove(&fence.cgroup);
            let is_told = known.as_ref().is_some_and(|known| known.told == fence.outcome);
            let mut known = known.unwrap_or(Known {
                told: FenceOutcome::Unchanged,
                times: 0,
                set_ns: 0,
                pause_ns: FIRST_PAUSE_NS,
            });
            match &fence.outcome {
                FenceOutcome::Set(_) => {
                    match at_ns.saturating_sub(known.set_ns) {
                        _ if known.times == 0 => {}
                        QUIET_NS.. => (known.times, known.pause_ns) = (0, FIRST_PAUSE_NS),
                        _ => known.pause_ns = (2 * known.pause_ns).min(LONGEST_PAUSE_NS),
                    }
                    news.push(News { fence: fence.clone(), rewritten: known.times });
                    (known.times, known.set_ns) = (known.times + 1, at_ns);
                }
                FenceOutcome::Failed(_) if !is_told => {
                    news.push(News { fence: fence.clone(), rewritten: known.times })
                }
                // Somebody has rewritten it, and it is not time to put it back: that will be told.
                FenceOutcome::Failed(_) | FenceOutcome::Planned(_) | FenceOutcome::Unchanged => {}
            }
            known.told = fence.outcome;
            self.cgroups.insert(fence.cgroup, known);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::idset::NodeSet;

    const SECOND: u64 = 1_000_000_000;

    fn fence(outcome: FenceOutcome) -> Vec<Fence> {
        vec![Fence {
            cgroup: "/a".into(),
            groups: ["socket0_group0".to_owned()].into(),
            planned: NodeSet::new(),
            effective: NodeSet::new(),
            manager: None,
            outcome,
        }]
    }

    fn set() -> Vec<Fence> {
        fence(FenceOutcome::Set("0-1".parse().unwrap()))
    }

    /// Somebody rewrites it every second for an hour: how often it was put back, and how often that was said.
    #[test]
    fn two_who_rewrite_a_cgroup_do_not_fight_in_a_loop() {
        let mut upkeep = Upkeep::default();
        let (mut written, mut told) = (0, 0);
        for second in 0..3600 {
            let at_ns = (5 + second) * SECOND;
            let outcome = match upkeep.may_write("/a", at_ns) {
                true => {
                    written += 1;
                    set()
                }
                false => fence(FenceOutcome::Planned("0-1".parse().unwrap())),
            };
            told += upkeep.note(outcome, at_ns).len();
        }
        // 1, 2, 4 ... 256 s, then every 300 s.
        assert!((15..=22).contains(&written), "{written}");
        assert_eq!(told, written);
    }

    #[test]
    fn after_a_quiet_time_it_is_put_back_at_once() {
        let mut upkeep = Upkeep::default();
        for second in [0, 1, 3, 7] {
            assert!(upkeep.may_write("/a", second * SECOND), "{second}");
            assert_eq!(upkeep.note(set(), second * SECOND).len(), 1);
        }
        assert!(!upkeep.may_write("/a", 14 * SECOND) && upkeep.may_write("/a", 15 * SECOND));
        let later = 7 * SECOND + QUIET_NS;
        assert_eq!(upkeep.note(set(), later)[0].rewritten, 0);
        assert!(upkeep.may_write("/a", later + SECOND));
    }

    #[test]
    fn a_failure_is_said_once_and_again_when_it_is_another() {
        let mut upkeep = Upkeep::default();
        let failed = |why: &str| fence(FenceOutcome::Failed(why.into()));
        assert_eq!(upkeep.note(failed("x"), 0).len(), 1);
        assert_eq!(upkeep.note(failed("x"), SECOND).len(), 0);
        assert_eq!(upkeep.note(failed("y"), SECOND).len(), 1);
        assert!(upkeep.may_write("/a", SECOND), "nothing was written");
        assert_eq!(upkeep.note(fence(FenceOutcome::Unchanged), SECOND).len(), 0);
        assert_eq!(upkeep.note(failed("y"), SECOND).len(), 1, "it was well in between");
        upkeep.note(Vec::new(), SECOND);
        assert_eq!(upkeep.note(failed("y"), SECOND).len(), 1, "another process, another life");
    }
}
