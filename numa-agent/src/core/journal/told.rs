//! What the journal has already. A thread that takes another of the masks which were told of it needs no line more, nor does one that no line
//! names and that goes from one gift of its leader's to another: both get back what the lines that are there say.
//!
//! So threads that take names in turn, or one after the other, cost one line for all, and that not before they are where they belong.

use std::collections::HashMap;

use super::{Outstanding, TaskChange};
use crate::core::{idset::CpuSet, task::TaskId};

/// So many threads are remembered; then all are forgotten, and each costs a line again.
const MOST: usize = 1 << 16;
/// So many masks of each: the journal keeps no more of them.
const MASKS: usize = 8;

/// The threads that lines name.
#[derive(Debug, Clone, Default)]
pub struct Told {
    threads: HashMap<TaskId, Line>,
}

#[derive(Debug, Clone)]
struct Line {
    /// What it is owed.
    before: CpuSet,
    gifts: Vec<CpuSet>,
}

impl Told {
    /// What a journal tells.
    #[must_use]
    pub fn of(outstanding: &Outstanding) -> Self {
        let mut told = Self::default();
        for owed in outstanding.tasks.values() {
            owed.gifts()
                .for_each(|given| told.note(&TaskChange { given: given.clone(), ..owed.change.clone() }));
        }
        told
    }

    /// That has been written.
    pub fn note(&mut self, change: &TaskChange) {
        if self.threads.len() >= MOST {
            self.forget_all();
        }
        let fresh = || Line { before: change.before.clone(), gifts: Vec::new() };
        let line = self.threads.entry(change.task).or_insert_with(fresh);
        if line.gifts.len() == MASKS {
            line.gifts.clear();
        }
        if !line.gifts.contains(&change.given) {
            line.gifts.push(change.given.clone());
        }
    }

    /// Whether a thread of that process, with the mask `before`, may be given another without a line.
    #[must_use]
    pub fn covers(&self, task: TaskId, process: TaskId, before: &CpuSet, given: &CpuSet) -> bool {
        match (self.threads.get(&task), self.threads.get(&process)) {
            (Some(own), _) => own.gifts.contains(given),
            (None, Some(leader)) => [before, given].iter().all(|mask| leader.gifts.contains(mask)),
            (None, None) => false,
        }
    }

    /// A line by which others of that process may be given this mask without one: as if its leader had been.
    #[must_use]
    pub fn for_others(&self, process: TaskId, comm: &str, given: &CpuSet) -> Option<TaskChange> {
        let leader = self.threads.get(&process)?;
        if leader.gifts.contains(given) || leader.before == *given {
            return None;
        }
        let (before, given) = (leader.before.clone(), given.clone());
        Some(TaskChange { pid: process.tid, task: process, comm: comm.to_owned(), before, given })
    }

    /// Forgets those of which `lives` does not say that they are there.
    pub fn retain(&mut self, lives: impl Fn(TaskId) -> bool) {
        self.threads.retain(|task, _| lives(*task));
    }

    /// Lines have been lost: nobody knows what the journal has.
    pub fn forget_all(&mut self) {
        self.threads.clear();
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
    fn who_needs_no_line_gets_back_what_the_lines_that_are_there_say() {
        let mut told = Told::default();
        let mut lines = vec![change(1, "0-7", "0-1")];
        told.note(&lines[0]);
        let covers = |told: &Told, tid, before, given| told.covers(id(tid), id(1), &set(before), &set(given));
        assert!(!covers(&told, 2, "0-1", "2-3"), "nobody was given that yet");
        lines.push(change(2, "0-7", "2-3"));
        told.note(&lines[1]);
        assert!(covers(&told, 2, "0-1", "2-3") && !covers(&told, 3, "0-1", "2-3"), "its own line is its own");
        let for_others = told.for_others(id(1), "x", &set("2-3")).unwrap();
        assert_eq!(for_others, change(1, "0-7", "2-3"));
        told.note(&for_others);
        lines.push(for_others);
        assert_eq!(told.for_others(id(1), "x", &set("2-3")), None, "once");
        assert_eq!(told.for_others(id(1), "x", &set("0-7")), None, "what it is owed anyway");
        assert!(covers(&told, 3, "0-1", "2-3") && covers(&told, 3, "2-3", "0-1"));
        assert!(!covers(&told, 3, "4", "2-3"), "a mask of its own is to be told");
        assert!(!told.covers(id(3), id(9), &set("0-1"), &set("2-3")), "another process");
        // As `restore` sees it.
        let outstanding: Outstanding = lines.into_iter().map(Entry::Task).collect();
        let family = &families(&outstanding, &BTreeMap::from([(1, (0, 7))]))[&1];
        assert_eq!(family.of_heir(&set("2-3"), &set("0-7")), Some(set("0-7")));
        let leader = &outstanding.tasks[&id(1)];
        assert_eq!(of_task(leader, family, &set("0-1"), &set("0-7")), Verdict::Undo(set("0-7")));
        let again = Told::of(&outstanding);
        assert!(covers(&again, 3, "0-1", "2-3") && covers(&again, 2, "0-1", "2-3"));
    }

    #[test]
    fn what_is_forgotten_costs_a_line_again() {
        let mut told = Told::default();
        (0..10).for_each(|cpu| told.note(&change(2, "0-7", &cpu.to_string())));
        let covers = |told: &Told, given| told.covers(id(2), id(1), &set("0"), &set(given));
        assert!(covers(&told, "9") && covers(&told, "8") && !covers(&told, "7"), "the journal keeps so many");
        told.note(&change(3, "0-7", "1"));
        told.retain(|task| task == id(2));
        assert!(covers(&told, "9") && !told.covers(id(3), id(1), &set("0"), &set("1")));
        told.forget_all();
        assert!(!covers(&told, "9"));
    }
}
