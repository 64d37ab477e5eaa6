//! Drift: masks of managed threads that others change. Counted by who did it, and put back as the policy says, at a rate with a bound, so
//! that two who both insist never fight in a loop.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Caller, Cause};
use crate::core::{metrics::Place, settings::DriftPolicy, task::TaskId};

/// How often a thread is put back within [`WINDOW_NS`] by `reapply`; after that it waits for the next reconcile.
pub(super) const BURST: u32 = 8;
/// See [`BURST`].
pub(super) const WINDOW_NS: u64 = 10_000_000_000;
/// How long `enforce` waits after it has put a thread back before it does so again; twice as long each time.
pub(super) const FIRST_WAIT_NS: u64 = 10_000_000;
/// The longest of these waits. A thread that was left alone for twice that long begins anew.
pub(super) const LAST_WAIT_NS: u64 = 10_000_000_000;
/// The most parties that are told apart.
const MAX_PARTIES: usize = 64;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DriftCounts {
    /// `observe`, `reapply` or `enforce`.
    pub policy: String,
    /// Masks of managed threads that were set by others, or found changed by a scan.
    pub changes: u64,
    /// Of those, answered by putting the thread back, at once or after a wait.
    pub put_back: u64,
    /// Of those, left as they were: for good, or until the next reconcile.
    pub left: u64,
    /// Who, the most frequent first.
    pub by: Vec<Party>,
    /// How many were told apart no longer, because so many others have come since they were last heard of.
    #[serde(default)]
    pub forgotten: u64,
    /// The changes that those had made until then.
    #[serde(default)]
    pub forgotten_changes: u64,
}

/// Somebody who changes masks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Party {
    /// Its name; as it chose it. `None`: nobody was seen, a scan found it.
    pub comm: Option<String>,
    /// Its process.
    pub pid: u32,
    /// How often.
    pub changes: u64,
}

impl DriftCounts {
    /// For people; `None` where nothing has drifted. Names are as others chose them: escape it.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let Self { policy, changes, put_back, left, by, forgotten, forgotten_changes } = self;
        let (named, more) = by.split_at(by.len().min(3));
        let mut by: Vec<String> = named.iter().map(Party::text).collect();
        let others: u64 = more.iter().map(|party| party.changes).sum();
        by.extend((!more.is_empty()).then(|| format!("{others} by {} more", more.len())));
        by.extend((*forgotten > 0).then(|| format!("{forgotten_changes} by {forgotten} others before")));
        let text =
            || format!("{changes} by others ({policy}): {put_back} put back, {left} left; {}", by.join(", "));
        (*changes > 0).then(text)
    }
}

impl Party {
    fn text(&self) -> String {
        let Self { comm, pid, changes } = self;
        match comm {
            Some(comm) => format!("{changes} by {comm} ({pid})"),
            None => format!("{changes} found by scans"),
        }
    }
}

/// What befell the threads of a group and role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drifted {
    /// Masks that their own process changed.
    pub by_itself: u64,
    /// Masks that another process changed.
    pub by_other: u64,
    /// Masks that a scan found changed.
    pub unseen: u64,
    /// Of those, answered by putting the thread back.
    pub put_back: u64,
    /// Of those, left as they were.
    pub left: u64,
}

/// What the engine keeps of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Drift {
    places: BTreeMap<Place, Drifted>,
    by: BTreeMap<Option<(String, u32)>, Heard>,
    /// How many changes there have been.
    heard: u64,
    forgotten: u64,
    forgotten_changes: u64,
    /// Threads that are to be put back, and when (monotonic nanoseconds).
    pub(super) later: BTreeMap<(u64, u32, TaskId), Cause>,
}

/// How often a party was heard of, and when last: the number of that change among all.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    changes: u64,
    last: u64,
}

impl Drift {
    /// Somebody changed the mask of a thread of process `pid`; `None`: nobody knows who.
    pub(super) fn note(&mut self, place: &Place, pid: u32, caller: Option<&Caller>) {
        let drifted = self.place(place);
        match caller {
            Some(caller) if caller.pid == pid => drifted.by_itself += 1,
            Some(_) => drifted.by_other += 1,
            None => drifted.unseen += 1,
        }
        let party = caller.map(|caller| (caller.comm.clone(), caller.pid));
        if !self.by.contains_key(&party) && self.by.len() >= MAX_PARTIES {
            self.forget_oldest();
        }
        self.heard += 1;
        let heard = self.by.entry(party).or_default();
        *heard = Heard { changes: heard.changes + 1, last: self.heard };
    }

    /// Who was not heard of for longest; those that nobody was seen to make stay.
    fn forget_oldest(&mut self) {
        let parties = self.by.iter().filter(|(party, _)| party.is_some());
        let oldest = parties.min_by_key(|(_, heard)| heard.last).map(|(party, _)| party.clone());
        if let Some(heard) = oldest.and_then(|party| self.by.remove(&party)) {
            self.forgotten += 1;
            self.forgotten_changes += heard.changes;
        }
    }

    /// A thread of that place is put back.
    pub(super) fn put_back(&mut self, place: &Place) {
        self.place(place).put_back += 1;
    }

    /// It was to be put back, and is where it belongs: nobody has changed anything.
    pub(super) fn was_none(&mut self, place: &Place, pid: u32, caller: &Caller) {
        let drifted = self.place(place);
        let by = if caller.pid == pid { &mut drifted.by_itself } else { &mut drifted.by_other };
        *by = by.saturating_sub(1);
        drifted.put_back = drifted.put_back.saturating_sub(1);
        let party = Some((caller.comm.clone(), caller.pid));
        if let Some(heard) = self.by.get_mut(&party) {
            heard.changes -= 1;
            if heard.changes == 0 {
                self.by.remove(&party);
            }
        }
    }

    /// It was to be put back, and that could not be done.
    pub(super) fn was_not_put_back(&mut self, place: &Place) {
        let drifted = self.place(place);
        drifted.put_back = drifted.put_back.saturating_sub(1);
        drifted.left += 1;
    }

    /// A thread of that place stays where others have put it.
    pub(super) fn leave(&mut self, place: &Place) {
        self.place(place).left += 1;
    }

    fn place(&mut self, place: &Place) -> &mut Drifted {
        self.places.entry(place.clone()).or_default()
    }

    /// All that was counted, by group and role.
    pub(super) fn places(&self) -> &BTreeMap<Place, Drifted> {
        &self.places
    }

    /// Drops those that wait to be put back, under a policy that does not do that; who they are.
    pub(super) fn give_up(&mut self, policy: DriftPolicy) -> Vec<(u32, TaskId)> {
        if policy == DriftPolicy::Enforce {
            return Vec::new();
        }
        std::mem::take(&mut self.later).into_keys().map(|(_, pid, task)| (pid, task)).collect()
    }

    pub(super) fn counts(&self, policy: DriftPolicy) -> DriftCounts {
        let party = |(party, heard): (&Option<(String, u32)>, &Heard)| Party {
            comm: party.as_ref().map(|(comm, _)| comm.clone()),
            pid: party.as_ref().map_or(0, |(_, pid)| *pid),
            changes: heard.changes,
        };
        let mut by: Vec<Party> = self.by.iter().map(party).collect();
        by.sort_by_key(|party| std::cmp::Reverse(party.changes));
        let sum = |of: fn(&Drifted) -> u64| self.places.values().map(of).sum();
        DriftCounts {
            policy: policy.to_string(),
            changes: sum(|drifted| drifted.by_itself + drifted.by_other + drifted.unseen),
            put_back: sum(|drifted| drifted.put_back),
            left: sum(|drifted| drifted.left),
            by,
            forgotten: self.forgotten,
            forgotten_changes: self.forgotten_changes,
        }
    }
}

/// What is to be done about a thread now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is put back.
    PutBack,
    /// It is put back at that time.
    Later(u64),
    /// The next reconcile puts it back.
    Reconcile,
    /// It stays.
    LetBe,
}

/// How often a thread has been put back lately.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    times: u32,
    since_ns: u64,
    wait_ns: u64,
    not_before_ns: u64,
}

impl Patience {
    pub(super) fn answer(&mut self, policy: DriftPolicy, at_ns: u64) -> Answer {
        match policy {
            DriftPolicy::Observe => Answer::LetBe,
            DriftPolicy::Reapply => {
                if at_ns.saturating_sub(self.since_ns) > WINDOW_NS {
                    (self.times, self.since_ns) = (0, at_ns);
                }
                self.times += 1;
                if self.times <= BURST { Answer::PutBack } else { Answer::Reconcile }
            }
            DriftPolicy::Enforce if at_ns < self.not_before_ns => Answer::Later(self.not_before_ns),
            DriftPolicy::Enforce => {
                self.put_back(at_ns);
                Answer::PutBack
            }
        }
    }

    /// Whether `enforce` may put it back.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.not_before_ns
    }

    /// It is put back by `enforce`.
    pub(super) fn put_back(&mut self, at_ns: u64) {
        let quiet = at_ns.saturating_sub(self.not_before_ns) > 2 * LAST_WAIT_NS;
        self.wait_ns =
            if quiet || self.wait_ns == 0 { FIRST_WAIT_NS } else { (2 * self.wait_ns).min(LAST_WAIT_NS) };
        self.not_before_ns = at_ns + self.wait_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::task::ThreadRole;

    /// How often a thread is put back in so many seconds by an agent that hears of a change every millisecond.
    fn put_back(policy: DriftPolicy, seconds: u64) -> usize {
        let mut patience = Patience::default();
        let mut later = None;
        let mut times = 0;
        for at_ns in (0..seconds * 1000).map(|ms| 1_000_000_000_000 + ms * 1_000_000) {
            if later.is_some_and(|later| later <= at_ns) {
                later = None;
                patience.put_back(at_ns);
                times += 1;
            }
            match patience.answer(policy, at_ns) {
                Answer::PutBack => times += 1,
                Answer::Later(at_ns) => later = Some(at_ns),
                Answer::Reconcile | Answer::LetBe => {}
            }
        }
        times
    }

    #[test]
    fn who_insists_is_answered_at_a_bounded_rate() {
        assert_eq!(put_back(DriftPolicy::Observe, 100), 0);
        assert!(
            (80..=88).contains(&put_back(DriftPolicy::Reapply, 100)),
            "{}",
            put_back(DriftPolicy::Reapply, 100)
        );
        assert!(
            (10..=12).contains(&put_back(DriftPolicy::Enforce, 10)),
            "{}",
            put_back(DriftPolicy::Enforce, 10)
        );
        assert!(
            (18..=22).contains(&put_back(DriftPolicy::Enforce, 100)),
            "{}",
            put_back(DriftPolicy::Enforce, 100)
        );
    }

    #[test]
    fn one_that_was_quiet_is_answered_at_once_again() {
        let mut patience = Patience::default();
        for ms in 0..100 {
            patience.answer(DriftPolicy::Enforce, 1_000_000_000_000 + ms * 1_000_000);
        }
        let after = 1_000_000_000_000 + 3 * LAST_WAIT_NS;
        assert_eq!(patience.answer(DriftPolicy::Enforce, after), Answer::PutBack);
        assert_eq!(patience.answer(DriftPolicy::Enforce, after + 1), Answer::Later(after + FIRST_WAIT_NS));
    }

    #[test]
    fn parties_are_counted_and_there_are_not_too_many() {
        let place = (None, ThreadRole::Other);
        let mut drift = Drift::default();
        let omp = |pid| Caller { pid, tid: pid, comm: "omp".into() };
        drift.note(&place, 7, None);
        (0..6).for_each(|_| drift.note(&place, 7, Some(&omp(7))));
        for pid in 100..300 {
            drift.note(&place, 7, Some(&omp(pid)));
            drift.note(&place, 7, Some(&omp(7)));
        }
        let counts = drift.counts(DriftPolicy::Enforce);
        assert_eq!((counts.changes, counts.by.len()), (407, MAX_PARTIES));
        assert_eq!(counts.by[0], Party { comm: Some("omp".into()), pid: 7, changes: 206 });
        let drifted = Drifted { by_itself: 206, by_other: 200, unseen: 1, ..Drifted::default() };
        assert_eq!(drift.places()[&place], drifted);
        let pids: Vec<u32> = counts.by.iter().map(|party| party.pid).collect();
        assert!(
            pids.contains(&0) && pids.contains(&299) && !pids.contains(&100),
            "the last are told: {pids:?}"
        );
        assert_eq!((counts.forgotten, counts.forgotten_changes), (138, 138));
        assert_eq!(counts.by.iter().map(|party| party.changes).sum::<u64>() + counts.forgotten_changes, 407);
        let text = counts.text().unwrap();
        assert!(
            text.contains("407 by others (enforce)")
                && text.contains(" by 61 more, ")
                && text.ends_with("138 by 138 others before"),
            "{text}"
        );
        assert_eq!(Drift::default().counts(DriftPolicy::Observe).text(), None);
    }
}
