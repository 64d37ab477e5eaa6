//! What the journal has already: a thread that takes another of the masks which lines of its own tell it was given needs no line more. Whatever
//! it has of them, it gets back what those lines say.

use std::collections::HashMap;

use super::{Outstanding, TaskChange};
use crate::core::{idset::CpuSet, task::TaskId};

/// So many threads are remembered; then all are forgotten, and each costs a line again.
const MOST: usize = 1 << 16;
/// So many masks of each: the journal keeps no more of them.
const MASKS: usize = 8;

/// What threads were given, as lines of theirs tell.
#[derive(Debug, Clone, Default)]
pub struct Told {
    gifts: HashMap<TaskId, Vec<CpuSet>>,
}

impl Told {
    /// What a journal tells.
    #[must_use]
    pub fn of(outstanding: &Outstanding) -> Self {
        let mut told = Self::default();
        for (task, owed) in &outstanding.tasks {
            owed.gifts().for_each(|given| told.add(*task, given));
        }
        told
    }

    /// That has been written.
    pub fn note(&mut self, change: &TaskChange) {
        self.add(change.task, &change.given);
    }

    /// Whether a thread may be given that mask without another line.
    #[must_use]
    pub fn covers(&self, task: TaskId, given: &CpuSet) -> bool {
        self.gifts.get(&task).is_some_and(|gifts| gifts.contains(given))
    }

    /// Forgets those of which `lives` does not say that they are there.
    pub fn retain(&mut self, lives: impl Fn(TaskId) -> bool) {
        self.gifts.retain(|task, _| lives(*task));
    }

    /// Somebody else has written to the journal, or lines have been lost: nobody knows what it has.
    pub fn forget_all(&mut self) {
        self.gifts.clear();
    }

    fn add(&mut self, task: TaskId, given: &CpuSet) {
        if self.gifts.len() >= MOST {
            self.forget_all();
        }
        let gifts = self.gifts.entry(task).or_default();
        if gifts.len() == MASKS {
            gifts.clear();
        }
        if !gifts.contains(given) {
            gifts.push(given.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::journal::{
        Entry,
        undo::{Verdict, families, of_task},
    };

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn id(tid: u32) -> TaskId {
        TaskId { tid, start_time: 7 }
    }

    fn change(tid: u32, before: &str, given: &str) -> TaskChange {
        TaskChange { pid: 1, task: id(tid), comm: "x".into(), before: set(before), given: set(given) }
    }

    #[test]
    fn who_needs_no_line_gets_back_what_its_lines_say() {
        let mut told = Told::default();
        let lines = [change(1, "0-7", "0-1"), change(2, "0-7", "2-3"), change(2, "0-7", "0-1")];
        lines.iter().for_each(|line| told.note(line));
        let covers = |told: &Told, tid, given| told.covers(id(tid), &set(given));
        assert!(covers(&told, 2, "2-3") && covers(&told, 2, "0-1"));
        assert!(!covers(&told, 1, "2-3") && !covers(&told, 3, "0-1"), "never told");
        // As `restore` sees it, whichever of them it has.
        let outstanding: Outstanding = lines.into_iter().map(Entry::Task).collect();
        let family = &families(&outstanding, &BTreeMap::from([(1, (0, 7))]))[&1];
        for mask in ["0-1", "2-3"] {
            let verdict = of_task(&outstanding.tasks[&id(2)], family, &set(mask), &set("0-7"));
            assert_eq!(verdict, Verdict::Undo(set("0-7")), "{mask}");
        }
        let again = Told::of(&outstanding);
        assert!(covers(&again, 2, "2-3") && covers(&again, 2, "0-1") && !covers(&again, 1, "2-3"));
    }

    #[test]
    fn what_is_forgotten_costs_a_line_again() {
        let mut told = Told::default();
        (0..10).for_each(|cpu| told.note(&change(2, "0-7", &cpu.to_string())));
        let covers = |told: &Told, tid, given: &str| told.covers(id(tid), &set(given));
        assert!(covers(&told, 2, "9") && covers(&told, 2, "8") && !covers(&told, 2, "7"), "so many are kept");
        told.note(&change(3, "0-7", "1"));
        told.retain(|task| task == id(2));
        assert!(covers(&told, 2, "9") && !covers(&told, 3, "1"));
        told.forget_all();
        assert!(!covers(&told, 2, "9"));
    }
}
