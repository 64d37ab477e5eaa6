//! What holding came to, counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{By, End, MemoryResult, Release};

/// Different reasons that are kept apart; those beyond are counted together.
const REASONS: usize = 16;

/// Counters since the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Processes that were held and are not any more.
    pub held: u64,
    /// Those that did not wait for the agent's word, by what ended it: `limit`, `farewell`.
    pub released_by: BTreeMap<String, u64>,
    /// Those that did not go on, by why: `gone`, `stopped` by somebody else, `refused` by the kernel.
    pub ended: BTreeMap<String, u64>,
    /// Memory policies set.
    pub injected: u64,
    /// Memory policies that could not be set, by why.
    pub refused: BTreeMap<String, u64>,
    /// The longest that one was held, in nanoseconds.
    pub longest_ns: u64,
    /// Parents that had stopped themselves over a hold, and were let go on.
    #[serde(default)]
    pub parents_continued: u64,
    /// Guards that had to be replaced.
    pub guards_lost: u64,
}

impl Tally {
    /// Adds one.
    pub fn add(&mut self, release: &Release) {
        self.held += 1;
        self.longest_ns = self.longest_ns.max(release.held_ns);
        if release.by != By::Agent {
            *self.released_by.entry(release.by.name().to_owned()).or_default() += 1;
        }
        if release.end != End::Continued {
            *self.ended.entry(release.end.name().to_owned()).or_default() += 1;
        }
        match &release.memory {
            MemoryResult::Unasked => {}
            MemoryResult::Set(_) => self.injected += 1,
            MemoryResult::Refused(why) => {
                let known = self.refused.len() < REASONS || self.refused.contains_key(why);
                let why = if known { why } else { "other reasons" };
                *self.refused.entry(why.to_owned()).or_default() += 1;
            }
        }
    }

    /// In a line for people; `None` if nothing was ever held. Reasons have no names from other processes in them.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        if self.held == 0 && self.guards_lost == 0 {
            return None;
        }
        let mut text = format!("{} held, {:.0} us at the longest", self.held, self.longest_ns as f64 / 1e3);
        for (by, count) in &self.released_by {
            text += &format!(", {count} let go by {by}");
        }
        for (end, count) in &self.ended {
            text += &format!(", {count} {end} meanwhile");
        }
        if self.injected > 0 {
            text += &format!(", {} memory policies set", self.injected);
        }
        for (why, count) in &self.refused {
            text += &format!(", {count} without ({why})");
        }
        match self.parents_continued {
            0 => {}
            1 => text += ", 1 parent let go on",
            many => text += &format!(", {many} parents let go on"),
        }
        match self.guards_lost {
            0 => {}
            1 => text += ", 1 guard lost",
            lost => text += &format!(", {lost} guards lost"),
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{hold::Hold, task::TaskId};

    fn release(by: By, end: End, memory: MemoryResult, held_ns: u64) -> Release {
        let hold = Hold { task: TaskId { tid: 1, start_time: 1 }, at_ns: 1 };
        Release { hold, by, end, memory, held_ns }
    }

    #[test]
    fn what_is_not_as_usual_is_told_apart() {
        let mut tally = Tally::default();
        assert_eq!(tally.text(), None);
        tally.add(&release(By::Agent, End::Continued, MemoryResult::Set("interleave:0-1".into()), 90_000));
        tally.add(&release(By::Agent, End::Continued, MemoryResult::Unasked, 70_000));
        assert_eq!(tally.text().as_deref(), Some("2 held, 90 us at the longest, 1 memory policies set"));
        tally.add(&release(By::Limit, End::Gone, MemoryResult::Refused("a seccomp filter".into()), 1));
        assert_eq!(
            tally.text().as_deref(),
            Some(
                "3 held, 90 us at the longest, 1 let go by limit, 1 gone meanwhile, 1 memory policies set, 1 without (a seccomp filter)"
            )
        );
    }

    #[test]
    fn reasons_do_not_grow_without_bound() {
        let mut tally = Tally::default();
        for index in 0..100 {
            let why = MemoryResult::Refused(format!("why {index}"));
            tally.add(&release(By::Agent, End::Continued, why, 1));
        }
        assert_eq!((tally.refused.len(), tally.refused["other reasons"]), (REASONS + 1, 100 - 16));
    }
}
